"""The tokenizer of the small models: a byte-level BPE in CLIP's form.

Merges are learned in three steps, in this order of ids: the words that captions use, everyday words
that people put into prompts, and at the end several hundred rare tokens of two or three letters that
no caption ever uses (DreamBooth takes its identifiers from those). Every listed word is one token.
"""

import json
import random
from collections import Counter
from itertools import pairwise
from pathlib import Path
from typing import Final

from kubooth_world.everyday import EVERYDAY_WORDS
from kubooth_world.vocabulary import CLASSES, COLOURS, CONTEXTS, HATS, OPENINGS, PATTERNS

START: Final = "<|startoftext|>"
END: Final = "<|endoftext|>"
MAX_LENGTH: Final = 32
"""Tokens of a prompt, start and end included."""
RARE_TOKENS: Final = 640
_LETTERS: Final = "abcdefghijklmnopqrstuvwxyz"
_VOWELS: Final = "aeiouy"

Merge = tuple[str, str]


def caption_words() -> list[str]:
    """Return every word that a caption can hold, sorted."""
    phrases = [*CLASSES, *COLOURS, *PATTERNS, *CONTEXTS.values(), *HATS, *OPENINGS]
    phrases += ["with", "and", "stripes", "dots", "checks", "wearing", "spots", "on", "at"]
    return sorted({word for phrase in phrases for word in phrase.split()} - {"none"})


def build(seed: int = 0) -> tuple[dict[str, int], list[Merge]]:
    """Return (token to id, merges in order of priority); the same for the same seed."""
    merges: list[Merge] = []
    _learn(caption_words(), merges)
    everyday = [word for word in EVERYDAY_WORDS if word not in caption_words()]
    _learn(everyday, merges)
    for word in rare_words(seed):
        _learn([word], merges)
    symbols = list(_byte_symbols())
    tokens = symbols + [symbol + "</w>" for symbol in symbols] + ["".join(pair) for pair in merges]
    tokens += [START, END]
    return {token: index for index, token in enumerate(tokens)}, merges


def rare_words(seed: int = 0) -> list[str]:
    """Return the rare identifiers: two or three letters that spell no word, in order of their ids."""
    known = set(EVERYDAY_WORDS) | set(caption_words())
    consonants = [letter for letter in _LETTERS if letter not in _VOWELS]
    pairs = [a + b for a in consonants for b in consonants if a + b not in known]
    rng = random.Random(seed)
    heads = rng.sample(pairs, 160)
    words = [head + tail for head in heads for tail in rng.sample(consonants, 4)]
    return [*words[: RARE_TOKENS - 1], "sks"]


def write(folder: Path) -> None:
    """Write `vocab.json`, `merges.txt`, `tokenizer.json` and their configs as a CLIP tokenizer."""
    from transformers import CLIPTokenizer

    vocabulary, merges = build()
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = CLIPTokenizer(
        vocab=vocabulary,
        merges=merges,
        unk_token=END,
        bos_token=START,
        eos_token=END,
        pad_token=END,
        model_max_length=MAX_LENGTH,
    )
    tokenizer.save_pretrained(folder)
    (folder / "vocab.json").write_text(json.dumps(vocabulary, ensure_ascii=False), encoding="utf-8")
    lines = ["#version: 0.2", *(" ".join(pair) for pair in merges)]
    (folder / "merges.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")


def _learn(words: list[str], merges: list[Merge]) -> None:
    """Append merges until every word is one token; the most frequent pair first, ties by spelling."""
    ranks = {pair: rank for rank, pair in enumerate(merges)}
    pieces = {word: _apply([*word[:-1], word[-1] + "</w>"], ranks) for word in words}
    while True:
        counts: Counter[Merge] = Counter()
        for parts in pieces.values():
            counts.update(pairwise(parts))
        if not counts:
            return
        best = min(counts, key=lambda pair: (-counts[pair], pair))
        merges.append(best)
        pieces = {word: _join(parts, best) for word, parts in pieces.items()}


def _apply(parts: list[str], ranks: dict[Merge, int]) -> list[str]:
    """Apply known merges in order of priority, as the tokenizer itself does."""
    while True:
        pairs = [pair for pair in pairwise(parts) if pair in ranks]
        if not pairs:
            return parts
        parts = _join(parts, min(pairs, key=ranks.__getitem__))


def _join(parts: list[str], pair: Merge) -> list[str]:
    joined: list[str] = []
    index = 0
    while index < len(parts):
        if tuple(parts[index : index + 2]) == pair:
            joined.append("".join(pair))
            index += 2
        else:
            joined.append(parts[index])
            index += 1
    return joined


def _byte_symbols() -> list[str]:
    """Return the 256 printable characters that stand for bytes in byte-level BPE (as in GPT-2)."""
    printable = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    shifted = {byte: 256 + n for n, byte in enumerate(b for b in range(256) if b not in printable)}
    return [chr(shifted.get(byte, byte)) for byte in range(256)]
