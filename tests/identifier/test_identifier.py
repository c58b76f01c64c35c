"""Which identifier is drawn, and what is said about one that a user brings."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from kubooth_trainer.common_words import SHORT_WORDS, UNWANTED
from kubooth_trainer.errors import BadModelError
from kubooth_trainer.identifier import RARE_PART, Tokenizer, choose_identifier, judge_identifier


@pytest.fixture(params=["clip", "small"])
def tokenizer(request: pytest.FixtureRequest) -> Tokenizer:
    made: Tokenizer = request.getfixturevalue(request.param)
    return made


@pytest.mark.parametrize("class_name", ["dog", "teapot", "bks", "backpack", "red cartoon", ""])
def test_a_rare_single_token_is_drawn(tokenizer: Tokenizer, class_name: str) -> None:
    vocabulary = len(tokenizer.get_vocab())
    for seed in range(4):
        found = choose_identifier(tokenizer, class_name=class_name, seed=seed)
        assert found.text.isascii() and found.text.isalpha() and found.text.islower()
        assert 2 <= len(found.text) <= 3
        assert found.text not in SHORT_WORDS | UNWANTED
        assert found.text not in class_name.replace(" ", "")
        assert list(found.token_ids) == tokenizer.encode(found.text, add_special_tokens=False)
        assert len(found.token_ids) == 1
        assert found.token_ids[0] >= (1 - RARE_PART) * vocabulary
        assert not judge_identifier(tokenizer, found.text, class_name=class_name)


def test_it_is_one_token_within_the_prompt_too(tokenizer: Tokenizer) -> None:
    found = choose_identifier(tokenizer, class_name="dog", seed=3)
    prompt = tokenizer.encode(f"a photo of {found.text} dog", add_special_tokens=False)
    assert prompt[-2] == found.token_ids[0]


def test_the_draw_depends_on_the_seed_alone(tokenizer: Tokenizer) -> None:
    drawn = [choose_identifier(tokenizer, class_name="dog", seed=seed) for seed in range(10)]
    assert drawn == [choose_identifier(tokenizer, class_name="dog", seed=seed) for seed in range(10)]
    assert len({found.text for found in drawn}) > 8
    assert drawn == [choose_identifier(tokenizer, class_name="teapot", seed=seed) for seed in range(10)]


def test_without_rare_tokens_a_short_string_is_taken(bare: Tokenizer) -> None:
    found = choose_identifier(bare, class_name="dog", seed=0)
    assert found == choose_identifier(bare, class_name="dog", seed=0)
    assert len(found.text) == 3
    assert 2 <= len(found.token_ids) <= 3
    assert bare.decode(list(found.token_ids)).strip() == found.text


class Deaf:
    """A tokenizer that knows nothing: everything is the unknown token."""

    def get_vocab(self) -> dict[str, int]:
        return {"<unk>": 0}

    def encode(self, text: str, *, add_special_tokens: bool) -> list[int]:
        return [0]

    def decode(self, token_ids: Sequence[int]) -> str:
        return ""

    def convert_ids_to_tokens(self, ids: Sequence[int]) -> list[str]:
        return ["<unk>" for _ in ids]


def test_a_tokenizer_that_cannot_spell_is_the_models_fault() -> None:
    with pytest.raises(BadModelError, match=r"subject\.identifier"):
        choose_identifier(Deaf(), class_name="dog", seed=0)


VERDICTS: dict[str, tuple[str, str, list[str]]] = {
    "word of the class": ("dog", "dog", ["repeats the class 'dog'", "common word"]),
    "word of a longer class": ("red", "red cartoon", ["repeats the class", "common word"]),
    "capitals make no difference": ("DOG", "dog", ["repeats the class"]),
    "frequent word": ("unique", "dog", ["common word: the model already has a picture"]),
    "short word": ("the", "dog", ["common word"]),
    "a name": ("rex", "dog", ["common word"]),
    "random string": ("xxy5syt00", "vase", ["splits into", ", 5, "]),
    "two words": ("my dog", "cat", ["more than plain letters", "common word"]),
    "punctuation": ("zq!", "cat", ["more than plain letters"]),
    "accent": ("é", "cat", ["more than plain letters"]),
    "emoji": ("🐕", "cat", ["more than plain letters", "pieces"]),
    "braces": ("{class}", "cat", ["more than plain letters"]),
}


@pytest.mark.parametrize(("text", "class_name", "sentences"), VERDICTS.values(), ids=VERDICTS.keys())
def test_verdicts(clip: Tokenizer, text: str, class_name: str, sentences: list[str]) -> None:
    found = " ".join(judge_identifier(clip, text, class_name=class_name))
    assert all(sentence in found for sentence in sentences), found
    assert f"subject.identifier {text!r}" in found


@pytest.mark.parametrize("text", ["sks", "zqx"])
def test_no_word_against_rare_strings(small: Tokenizer, text: str) -> None:
    found = judge_identifier(small, text, class_name="dog")
    pieces = small.encode(text, add_special_tokens=False)
    assert found == [] or len(pieces) > 1


def test_the_word_lists_are_disjoint_from_nothing_but_capitals() -> None:
    for word in SHORT_WORDS | UNWANTED:
        assert word == word.lower()
        assert word.isalpha()
