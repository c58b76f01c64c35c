"""The identifier: a rare token of the model's own tokenizer, so that it carries no picture of its own.

DreamBooth (arXiv 2208.12242, section 3.2): real words ("unique") bring their own prior, random strings
("xxy5syt00") fall apart into letters with strong priors. The paper looks rare tokens up in the vocabulary and
decodes them to text; here that is done for CLIP's byte pair encoding. Works on the tokenizer alone: no torch.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from kubooth_trainer.common_words import SHORT_WORDS, UNWANTED
from kubooth_trainer.errors import BadModelError

WORD_END = "</w>"
LETTERS = (2, 3)  # a single letter has a strong prior, and longer tokens are words
RARE_PART = 0.25  # of the vocabulary: tokens are numbered in the order in which they were merged, frequent ones first
ENOUGH_CANDIDATES = 8
MAX_PIECES = 3  # the paper's own identifiers have one to three tokens

_CONSONANTS = "bcdfghjklmnpqrstvwxz"
_VOWELS = frozenset("aeiouy")


class Tokenizer(Protocol):
    """What is used of a `transformers.CLIPTokenizer`."""

    def get_vocab(self) -> dict[str, int]: ...

    def encode(self, text: str, *, add_special_tokens: bool) -> list[int]: ...

    def decode(self, token_ids: Sequence[int]) -> str: ...

    def convert_ids_to_tokens(self, ids: Sequence[int]) -> list[str]: ...


@dataclass(frozen=True, kw_only=True)
class Identifier:
    """The word that will name the subject, and what the tokenizer makes of it."""

    text: str
    token_ids: tuple[int, ...]


def choose_identifier(tokenizer: Tokenizer, *, class_name: str, seed: int) -> Identifier:
    """Draws a rare token of two or three lower-case letters; the same for the same tokenizer, class and seed.

    Candidates end a word, are no English word or common abbreviation, are not part of the class name, and survive
    decoding and encoding as the same single token. The rarest quarter of the vocabulary is taken first, strings
    without a vowel before others (they are words in no language), wider parts only where that leaves fewer than
    eight. A tokenizer with no such token gets a string of two or three tokens.

    Raises BadModelError when not even that can be found.
    """
    for candidates in _candidate_pools(tokenizer):
        order = list(candidates)
        random.Random(seed).shuffle(order)
        for text in order:
            ids = tokenizer.encode(text, add_special_tokens=False)
            if not _touches_class(text, class_name) and len(ids) == 1 and tokenizer.decode(ids).strip() == text:
                return Identifier(text=text, token_ids=tuple(ids))
    return _of_several_tokens(tokenizer, class_name=class_name, seed=seed)


def judge_identifier(tokenizer: Tokenizer, text: str, *, class_name: str) -> list[str]:
    """Sentences that say why a user's own identifier may learn badly; empty when nothing is wrong with it."""
    name = f"subject.identifier {text!r}"
    warnings = []
    if any(not (character.isascii() and character.isalnum()) for character in text):
        warnings.append(
            f"{name} holds more than plain letters and digits: every space or mark becomes a token of its own, and "
            "the same text is harder to repeat in a prompt."
        )
    words = text.lower().split()
    class_words = class_name.lower().split()
    if set(words) & set(class_words):
        warnings.append(
            f"{name} repeats the class {class_name!r}: the model cannot tell the subject from every other {class_name}."
        )
    pieces = _pieces(tokenizer, text)
    if any(word in SHORT_WORDS for word in words) or _is_well_known(tokenizer, text):
        warnings.append(
            f"{name} is a common word: the model already has a picture of it, which mixes with your subject. "
            "Leave the field empty to get a rare token."
        )
    single = sum(len(piece) == 1 for piece in pieces)
    if len(pieces) > MAX_PIECES or single > 1:
        warnings.append(
            f"{name} splits into {len(pieces)} pieces ({', '.join(pieces)}), each with a strong prior of its own, so "
            "the subject binds to none of them well. Leave the field empty to get a single rare token."
        )
    return warnings


def _candidate_pools(tokenizer: Tokenizer) -> Iterator[list[str]]:
    """Pools of candidates in order of their ids, best pool first; pools with too few are kept for the end."""
    vocabulary = tokenizer.get_vocab()
    ids = {
        token.removesuffix(WORD_END): number
        for token, number in vocabulary.items()
        if token.endswith(WORD_END) and _is_short_and_meaningless(token.removesuffix(WORD_END))
    }
    spelled = sorted(ids, key=ids.__getitem__)
    pools = []
    for part in (RARE_PART, 2 * RARE_PART, 1.0):
        rare = [text for text in spelled if ids[text] >= (1 - part) * len(vocabulary)]
        pools.append([text for text in rare if not _VOWELS & set(text)])
        pools.append(rare)
    yield from (pool for pool in pools if len(pool) >= ENOUGH_CANDIDATES)
    yield from (pool for pool in pools if len(pool) < ENOUGH_CANDIDATES)


def _is_short_and_meaningless(text: str) -> bool:
    letters = text.isascii() and text.isalpha() and text.islower()
    return letters and len(text) in LETTERS and text not in SHORT_WORDS and text not in UNWANTED


def _touches_class(text: str, class_name: str) -> bool:
    squeezed = class_name.lower().replace(" ", "")
    return bool(squeezed) and (text in squeezed or squeezed in text)


def _of_several_tokens(tokenizer: Tokenizer, *, class_name: str, seed: int) -> Identifier:
    """Three consonants, as few tokens as two hundred draws give."""
    rng = random.Random(seed)
    best: Identifier | None = None
    for _ in range(200):
        text = "".join(rng.sample(_CONSONANTS, max(LETTERS)))
        ids = tokenizer.encode(text, add_special_tokens=False)
        usable = _is_short_and_meaningless(text) and not _touches_class(text, class_name)
        if usable and 0 < len(ids) <= MAX_PIECES and tokenizer.decode(ids).strip() == text:
            found = Identifier(text=text, token_ids=tuple(ids))
            best = found if best is None or len(ids) < len(best.token_ids) else best
    if best is None:
        raise BadModelError(
            "model: no rare token can be found in the model's tokenizer: choose a word yourself in subject.identifier"
        )
    return best


def _pieces(tokenizer: Tokenizer, text: str) -> list[str]:
    """What the tokenizer makes of the text, without the marks for the end of a word."""
    ids = tokenizer.encode(text, add_special_tokens=False)
    return [token.removesuffix(WORD_END) for token in tokenizer.convert_ids_to_tokens(ids)]


def _is_well_known(tokenizer: Tokenizer, text: str) -> bool:
    """One token from the frequent part of the vocabulary, and it can be spoken: a word, not a leftover of merging."""
    ids = tokenizer.encode(text, add_special_tokens=False)
    frequent = (1 - RARE_PART) * len(tokenizer.get_vocab())
    return len(ids) == 1 and ids[0] < frequent and bool(_VOWELS & set(text.lower()))
