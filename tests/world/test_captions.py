"""Captions: true, incomplete at random, and silent about what makes an instance itself."""

import numpy as np
import pytest

from kubooth_world.captions import caption, describe, prompt, rival_captions
from kubooth_world.scene import sample_instance, sample_scene
from kubooth_world.tokenizer import caption_words
from kubooth_world.vocabulary import CLASSES, COLOURS, CONTEXTS


def test_captions_say_only_what_is_true() -> None:
    rng = np.random.default_rng(0)
    for _ in range(300):
        scene = sample_scene(rng)
        words = caption(scene, rng).split()
        subject = scene.instance
        assert [word for word in words if word in CLASSES] == [subject.kind]
        colours = [word for word in words if word in COLOURS]
        assert colours == [subject.colour, subject.second][: len(colours)]
        assert set(words) <= {*caption_words(), "an"}


def test_captions_leave_out_at_random() -> None:
    rng = np.random.default_rng(1)
    scene = sample_scene(rng, sample_instance(rng, kind="dog", colour="red"), context="snow")
    captions = [caption(scene, rng) for _ in range(400)]
    for words in ("red", CONTEXTS["snow"]):
        assert 0.6 < np.mean([words in text for text in captions]) < 0.9
    assert any(text.startswith("a photo of a ") for text in captions)
    assert "a photo of a dog" in captions


def test_rival_captions_differ_in_the_pattern_alone() -> None:
    rng = np.random.default_rng(2)
    scene = sample_scene(rng, sample_instance(rng, kind="dog", pattern="striped"), context="snow")
    words = ({"striped", "dotted", "checked"}, {"stripes", "dots", "checks"})
    for _ in range(50):
        rivals = [text.split() for text in rival_captions(scene, rng)]
        (place,) = [n for n, said in enumerate(zip(*rivals, strict=True)) if len(set(said)) > 1]
        assert {text[place] for text in rivals} in words
        assert rivals[0][place] in ("striped", "stripes")


@pytest.mark.parametrize(
    ("colour", "expected"),
    [
        ("red", "a photo of a red striped dog in the snow"),
        ("orange", "a photo of an orange striped dog in the snow"),
    ],
)
def test_prompt(colour: str, expected: str) -> None:
    assert prompt("dog", colour, "striped", "snow") == expected


def test_an_omitted_colour_is_not_hinted_at() -> None:
    rng = np.random.default_rng(2)
    texts = {describe(kind="cat", colour=None, second=None, pattern="dotted", rng=rng) for _ in range(50)}
    assert texts == {"dotted cat", "cat with dots"}
