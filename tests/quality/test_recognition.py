"""Class nouns and strangers among photos, told by the bundled encoders on renders of the bundled world."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from trainer.tiny_job import config_dict

import kubooth_world
from kubooth_trainer.config import TrainConfig
from kubooth_trainer.distributed import World
from kubooth_trainer.encoders import Encoders, load_encoders
from kubooth_trainer.errors import ConfigError
from kubooth_trainer.recognition import embedded, recognize, strangers, with_class
from kubooth_trainer.subject import Photo
from kubooth_world.render import render
from kubooth_world.scene import sample_instance, sample_scene
from kubooth_world.vocabulary import CLASSES

ALONE = World(rank=0, size=1, local_rank=0, local_size=1, device=torch.device("cpu"))
VIEWS = 4
DOG = Path(__file__).resolve().parents[2] / "examples" / "dog"


@pytest.fixture(scope="module")
def encoders() -> Encoders:
    folders = {role: kubooth_world.encoder_path(role) for role in ("dino", "clip")}
    return load_encoders(folders, {role: path.as_uri() for role, path in folders.items()}, ALONE.device)  # type: ignore[arg-type]


def views(kind: str, seed: int, count: int = VIEWS) -> list[Image.Image]:
    rng = np.random.default_rng(seed)
    instance = sample_instance(rng, kind=kind)
    return [Image.fromarray(render(sample_scene(rng, instance, hat="none"), 128)) for _ in range(count)]


@pytest.fixture(scope="module")
def subjects() -> list[tuple[str, list[Image.Image]]]:
    """Three subjects of each class, four views each."""
    return [(kind, views(kind, 3 * number + turn)) for number, kind in enumerate(CLASSES) for turn in range(3)]


def photos_of(images: list[Image.Image]) -> list[Photo]:
    return [Photo(name=f"{i}.png", image=image, caption=None, sha256=str(i)) for i, image in enumerate(images)]


def config_with(class_name: str, folder: Path) -> TrainConfig:
    return with_class(TrainConfig.model_validate(config_dict(folder, folder, folder)), class_name)


def test_auto_finds_the_class_of_renders(encoders: Encoders, subjects: list[tuple[str, list[Image.Image]]]) -> None:
    config = config_with("Auto", Path("/work"))
    only_clip = Encoders(clip=encoders.clip)
    right = dict.fromkeys(CLASSES, 0)
    for kind, images in subjects:
        right[kind] += recognize(config, only_clip, photos_of(images), ALONE).class_name == kind
    assert sum(right.values()) >= 0.9 * len(subjects), right
    assert min(right.values()) >= 1, right


def test_a_noun_that_does_not_fit_is_doubted_and_kept(
    encoders: Encoders, subjects: list[tuple[str, list[Image.Image]]]
) -> None:
    only_clip = Encoders(clip=encoders.clip)
    doubted, wrongly = 0, 0
    for kind, images in subjects:
        other = CLASSES[(CLASSES.index(kind) + 5) % len(CLASSES)]
        for given in (kind, other):
            found = recognize(config_with(given, Path("/work")), only_clip, photos_of(images), ALONE)
            assert found.class_name == given
            if given == other:
                doubted += any(f"rather than a {other} (" in finding.message for finding in found.findings)
            else:
                wrongly += len(found.findings)
    assert doubted >= 0.75 * len(subjects)
    assert wrongly <= 0.05 * len(subjects)


def test_a_noun_that_the_encoder_does_not_know_is_not_judged(encoders: Encoders) -> None:
    found = recognize(config_with("teapot", Path("/work")), encoders, photos_of(views("mug", 1)), ALONE)
    assert (found.class_name, found.findings) == ("teapot", ())


def test_strangers_are_told_and_whole_sets_left_alone(
    encoders: Encoders, subjects: list[tuple[str, list[Image.Image]]]
) -> None:
    assert encoders.dino is not None
    rows = [embedded(encoders.dino, images) for _, images in subjects]
    whole, other_class, same_class = 0, 0, 0
    for number, mine in enumerate(rows):
        whole += not strangers(mine)
        for step, offset in ((5 * 3, "other"), (1 if number % 3 < 2 else -2, "same")):
            guest = rows[(number + step) % len(rows)][0]
            told = [row for row, *_ in strangers(np.vstack([mine[:3], guest]))] == [3]
            other_class += told and offset == "other"
            same_class += told and offset == "same"
    assert whole >= 0.96 * len(rows)
    assert other_class >= 0.9 * len(rows)
    assert same_class >= 0.7 * len(rows)


def test_a_stranger_is_named(encoders: Encoders) -> None:
    images = [*views("dog", 1, 3), *views("house", 1, 1)]
    (finding,) = recognize(
        config_with("dog", Path("/work")), Encoders(dino=encoders.dino), photos_of(images), ALONE
    ).findings
    assert finding.photos == ("3.png",)
    assert finding.message.startswith("3.png looks like another subject than the other photos")


@pytest.mark.parametrize("count", [1, 2])
def test_of_one_or_two_photos_none_is_a_stranger(encoders: Encoders, count: int) -> None:
    assert encoders.dino is not None
    assert strangers(embedded(encoders.dino, [*views("dog", 1, 1), *views("house", 1, 1)][:count])) == []


def test_auto_is_refused_without_a_clip_that_knows_such_photos(encoders: Encoders) -> None:
    config = config_with("Auto", Path("/work"))
    with pytest.raises(ConfigError, match=r"^subject\.className: Auto needs spec\.encoders\.clip of the runtime"):
        recognize(config, Encoders(dino=encoders.dino), photos_of(views("dog", 1)), ALONE)
    real = photos_of([Image.open(path).convert("RGB") for path in sorted(DOG.glob("*.jpg"))])
    with pytest.raises(ConfigError, match=r"^subject\.className: Auto cannot be settled.*name the class"):
        recognize(config, encoders, real, ALONE)
    assert recognize(config_with("cat", Path("/work")), encoders, real, ALONE).findings == ()
