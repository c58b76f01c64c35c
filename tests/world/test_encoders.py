"""The bundled metric encoders: small, loaded as public ones are, right about this world and silent about others."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import kubooth_world
from kubooth_trainer.encoders import Encoders, load_encoders
from kubooth_trainer.encoders.domain import texture
from kubooth_trainer.metrics import similarities
from kubooth_world import dataset, measuring
from kubooth_world.captions import prompt
from kubooth_world.scene import sample_instance, sample_scene

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def encoders() -> Encoders:
    folders = {role: kubooth_world.encoder_path(role) for role in kubooth_world.ENCODERS}
    uris = {role: folder.as_uri() for role, folder in folders.items()}
    return load_encoders(folders, uris, torch.device("cpu"))  # type: ignore[arg-type]


def pictures(images: np.ndarray) -> list[Image.Image]:
    return [Image.fromarray(image) for image in images]


def test_files_are_small_and_no_pickles() -> None:
    for role in kubooth_world.ENCODERS:
        files = [path for path in kubooth_world.encoder_path(role).rglob("*") if path.is_file()]
        assert {path.suffix for path in files} <= {".safetensors", ".json", ".txt"}
        assert all(path.stat().st_size < 2e6 for path in files)


def test_dino_tells_dogs_apart(encoders: Encoders) -> None:
    """Of two views of 24 dogs each, views of one dog are nearer than views of two dogs, nearly always."""
    assert encoders.dino is not None
    rng = np.random.default_rng(4)
    dogs = [sample_instance(rng, kind="dog") for _ in range(24)]
    scenes = [sample_scene(rng, dog) for _ in range(2) for dog in dogs]
    rows = encoders.dino.embed(pictures(dataset.describe(scenes, rng).images)).double().numpy()
    likeness = similarities(rows[:24], rows[24:])
    own, other = likeness.diagonal()[:, None], likeness[~np.eye(24, dtype=bool)].reshape(24, -1)
    assert (own > other).mean() > 0.9


def test_clip_hears_class_colour_and_place(encoders: Encoders) -> None:
    """A picture is nearer to its own description than to one in which a word was exchanged."""
    assert encoders.clip is not None
    rng = np.random.default_rng(5)
    said = {"kind": ("dog", "car"), "colour": ("red", "blue"), "context": ("snow", "beach")}
    right = {name: [] for name in said}
    for _ in range(12):
        for name, (one, two) in said.items():
            words = {"kind": "cat", "colour": "green", "pattern": "plain", "context": "grass", name: one}
            instance = sample_instance(rng, **{k: v for k, v in words.items() if k != "context"})
            scene = sample_scene(rng, instance, context=words["context"], hat="none")
            (row,) = encoders.clip.embed(pictures(dataset.describe([scene], rng).images)).double().numpy()[None, 0:1]
            texts = encoders.clip.read([prompt(**words), prompt(**{**words, name: two})]).double().numpy()
            true, false = similarities(row, texts)[0]
            right[name].append(true > false)
    assert {name: np.mean(hits) > 0.8 for name, hits in right.items()} == dict.fromkeys(said, True)


def test_lpips_sees_more_difference_between_subjects_than_in_noise(encoders: Encoders) -> None:
    assert encoders.lpips is not None
    rng = np.random.default_rng(6)
    images = dataset.describe([sample_scene(rng) for _ in range(8)], rng).images
    noisy = np.clip(images + rng.normal(0, 2, images.shape), 0, 255).astype(np.uint8)
    distances = encoders.lpips.distances(pictures(np.concatenate([images, noisy]))).numpy()
    same, others = distances[:8, 8:].diagonal(), distances[:8, :8][np.triu_indices(8, 1)]
    assert same.max() < others.min()


def test_photos_of_this_world_are_its_own_and_real_ones_are_not(encoders: Encoders) -> None:
    drawn = sorted((ROOT / "examples/quickstart/photos").glob("*.png"))
    real = sorted((ROOT / "examples/dog").glob("*.jpg"))
    assert drawn and real
    assert encoders.why_not([Image.open(path).convert("RGB") for path in drawn]) is None
    assert "drawn scenes of the bundled world alone" in (
        encoders.why_not([Image.open(path).convert("RGB") for path in real]) or ""
    )


def test_texture_is_the_same_here_and_where_it_is_used() -> None:
    pixels = torch.rand(3, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    assert torch.equal(measuring.texture(pixels), texture(pixels))


def test_nearly_every_subject_of_this_world_is_recognized_as_its_own(encoders: Encoders) -> None:
    images = dataset.sample(31, 60, training=False).images
    told = [encoders.why_not(pictures(images[start : start + 4])) is None for start in range(0, len(images), 4)]
    assert np.mean(told) >= 0.98
