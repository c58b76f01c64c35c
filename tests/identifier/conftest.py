"""Tokenizers: CLIP's own class over a vocabulary of CLIP's size that is made up here, and a small one."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path

import pytest

from kubooth_trainer.common_words import SHORT_WORDS, UNWANTED
from kubooth_trainer.identifier import Tokenizer

FREQUENT = ["dog", "cat", "photo", "unique", "special", "teapot", "backpack", "beautiful"]
CLIP_MERGES = 49_408 - 512 - 2


def byte_symbols() -> list[str]:
    """The 256 characters that stand for bytes in byte-level BPE."""
    printable = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    rest = [byte for byte in range(256) if byte not in printable]
    return [chr(byte) for byte in printable] + [chr(256 + index) for index in range(len(rest))]


def learned(words: list[str], *, limit: int, after: Sequence[tuple[str, str]] = ()) -> list[tuple[str, str]]:
    """`after`, and then merges that spell the words from left to right, in order, each token once."""
    merges = list(after)
    known = {a + b for a, b in merges}
    for word in words:
        parts = [*word[:-1], word[-1] + "</w>"]
        head = parts[0]
        for part in parts[1:]:
            if head + part not in known and len(merges) < limit:
                known.add(head + part)
                merges.append((head, part))
            head += part
    return merges


def clip_tokenizer(merges: list[tuple[str, str]]) -> Tokenizer:
    from transformers import CLIPTokenizer

    symbols = byte_symbols()
    tokens = [*symbols, *(symbol + "</w>" for symbol in symbols), *(a + b for a, b in merges)]
    tokens += ["<|startoftext|>", "<|endoftext|>"]
    made: Tokenizer = CLIPTokenizer(vocab={token: index for index, token in enumerate(tokens)}, merges=merges)
    return made


@pytest.fixture(scope="session")
def clip() -> Tokenizer:
    """49,408 tokens: common words first, then many longer ones, and a last quarter that mixes short leftovers
    with everything that must not be chosen: words, abbreviations, slurs, tokens that merge differently."""
    rng = random.Random(0)
    consonants, vowels = "bcdfghjklmnpqrstvwxz", "aeiou"

    def pseudo_word(syllables: int) -> str:
        return "".join(rng.choice(consonants) + rng.choice(vowels) for _ in range(syllables))

    late = ["sks", "ohw", *sorted(SHORT_WORDS), *sorted(UNWANTED)]
    late += ["".join(rng.sample(consonants, 3)) for _ in range(500)]
    late += [pseudo_word(3) for _ in range(9_000)]
    rng.shuffle(late)
    words = FREQUENT + [pseudo_word(rng.randint(2, 5)) for _ in range(14_500)]
    frequent = learned(words, limit=CLIP_MERGES * 3 // 4)
    merges = learned(late, limit=CLIP_MERGES, after=frequent)
    assert len(merges) == CLIP_MERGES
    return clip_tokenizer(merges)


@pytest.fixture(scope="session")
def small(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    """The tokenizer of the bundled model."""
    from transformers import CLIPTokenizer

    from kubooth_world import tokenizer

    folder: Path = tmp_path_factory.mktemp("small-world-tokenizer")
    tokenizer.write(folder)
    made: Tokenizer = CLIPTokenizer.from_pretrained(folder)
    return made


@pytest.fixture(scope="session")
def bare() -> Tokenizer:
    """Bytes and a handful of words: no rare token at all."""
    return clip_tokenizer(learned(["photo", "of", "dog", "cat", "the"], limit=100))
