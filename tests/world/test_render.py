"""The renderer: the same scene gives the same picture, and the picture shows what the scene says."""

from dataclasses import replace

import numpy as np
import pytest

from kubooth_world.render import render
from kubooth_world.scene import held_out, is_held_out, sample_instance, sample_scene, second_colours
from kubooth_world.vocabulary import CLASSES, COLOURS, CONTEXTS, HATS, PATTERNS


@pytest.mark.parametrize("kind", CLASSES)
def test_same_scene_gives_same_pixels(kind: str) -> None:
    scenes = []
    for _ in range(2):
        rng = np.random.default_rng(7)
        scenes.append(sample_scene(rng, sample_instance(rng, kind=kind)))
    assert scenes[0] == scenes[1]
    pictures = [render(scene) for scene in scenes]
    assert pictures[0].shape == (64, 64, 3) and pictures[0].dtype == np.uint8
    assert np.array_equal(*pictures)


@pytest.mark.parametrize("context", CONTEXTS)
def test_a_larger_picture_shows_the_same_scene(context: str) -> None:
    scene = sample_scene(np.random.default_rng(3), context=context)
    small = render(scene).astype(float)
    large = render(scene, 256).astype(float).reshape(64, 4, 64, 4, 3).mean(axis=(1, 3))
    assert np.abs(small - large).mean() < 4


@pytest.mark.parametrize("colour", COLOURS)
@pytest.mark.parametrize("pattern", PATTERNS)
def test_main_colour_covers_more_than_any_other(colour: str, pattern: str) -> None:
    """Counted over all classes on a place whose own colours are far away (night)."""
    rng = np.random.default_rng(11)
    palette = np.array(list(COLOURS.values()), dtype=float)
    counts = np.zeros(len(COLOURS))
    for kind in CLASSES:
        scene = sample_scene(
            rng, sample_instance(rng, kind=kind, colour=colour, pattern=pattern), context="night", hat="none"
        )
        pixels = render(scene).reshape(-1, 3).astype(float)
        distance = np.linalg.norm(pixels[:, None] - palette, axis=2)
        near = distance.min(axis=1) < 30
        counts += np.bincount(distance.argmin(axis=1)[near], minlength=len(COLOURS))
    assert list(COLOURS)[int(counts.argmax())] == colour


@pytest.mark.parametrize(
    ("change", "instance_change"),
    [
        ({"context": "beach"}, {}),
        ({"hat": HATS[1]}, {}),
        ({}, {"kind": "cat"}),
        ({}, {"colour": "pink"}),
        ({}, {"pattern": "checked"}),
        ({}, {"shape": (0.9,) * 8}),
        ({}, {"phase": 0.9}),
    ],
)
def test_every_truth_shows(change: dict[str, object], instance_change: dict[str, object]) -> None:
    rng = np.random.default_rng(5)
    instance = replace(
        sample_instance(rng, kind="dog", colour="red", second="white", pattern="striped"), shape=(0.2,) * 8, phase=0.3
    )
    scene = sample_scene(rng, instance, context="snow", hat="none")
    other = replace(scene, instance=replace(instance, **instance_change), **change)  # type: ignore[arg-type]
    assert np.abs(render(scene).astype(int) - render(other)).max() > 60


def test_second_colours_stand_out() -> None:
    for colour in COLOURS:
        assert len(second_colours(colour)) >= 3 and colour not in second_colours(colour)


def test_held_out_share_is_one_in_eight() -> None:
    every = [(k, c, p, x) for k in CLASSES for c in COLOURS for p in PATTERNS for x in CONTEXTS]
    share = np.mean([is_held_out(*combination) for combination in every])
    assert 0.10 < share < 0.15
    scene = sample_scene(np.random.default_rng(0))
    subject = scene.instance
    assert held_out(scene) == is_held_out(subject.kind, subject.colour, subject.pattern, scene.context)
