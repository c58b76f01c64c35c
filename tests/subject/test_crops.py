"""Square views: how many, how large, and the same every time."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Literal

import numpy as np
import pytest
from PIL import Image

from kubooth_trainer.subject import MIN_CROP, RANDOM_VIEWS, Photo, crops

Crop = Literal["Center", "Random"]


@pytest.fixture
def photo(picture: Callable[..., Image.Image]) -> Photo:
    return Photo(name="a.jpg", image=picture(3, size=(200, 150)), caption=None, sha256="ab" * 32)


COUNTS = {
    "centre": ("Center", False, 1),
    "centre with its mirror image": ("Center", True, 2),
    "random": ("Random", False, RANDOM_VIEWS),
    "random with flips": ("Random", True, RANDOM_VIEWS),
}


@pytest.mark.parametrize(("crop", "flip", "count"), COUNTS.values(), ids=COUNTS.keys())
def test_number_and_size(photo: Photo, crop: Crop, flip: bool, count: int) -> None:
    views = crops(photo, resolution=64, crop=crop, flip=flip, seed=1)
    assert len(views) == count
    assert {(view.size, view.mode) for view in views} == {((64, 64), "RGB")}


def test_same_arguments_same_bytes_and_every_argument_counts(photo: Photo) -> None:
    def views(seed: int = 1, of: Photo = photo) -> list[bytes]:
        return [v.tobytes() for v in crops(of, resolution=32, crop="Random", flip=False, seed=seed)]

    assert views() == views()
    assert len(set(views())) == RANDOM_VIEWS
    assert views() != views(seed=2)
    assert views() != views(of=dataclasses.replace(photo, sha256="cd" * 32))
    assert views() == views(of=dataclasses.replace(photo, name="renamed.jpg"))


def test_the_mirror_images(photo: Photo) -> None:
    plain, mirror = crops(photo, resolution=32, crop="Center", flip=True, seed=0)
    assert np.array_equal(np.asarray(plain)[:, ::-1], np.asarray(mirror))
    without = crops(photo, resolution=32, crop="Random", flip=False, seed=0)
    flipped = crops(photo, resolution=32, crop="Random", flip=True, seed=0)
    assert np.array_equal(np.asarray(without[0]), np.asarray(flipped[0]))
    assert np.array_equal(np.asarray(without[1])[:, ::-1], np.asarray(flipped[1]))


def test_the_centre_is_the_middle_square() -> None:
    image = Image.new("RGB", (100, 60), "red")
    image.paste("white", (20, 0, 80, 60))
    view = crops(
        Photo(name="x", image=image, caption=None, sha256="0"), resolution=60, crop="Center", flip=False, seed=0
    )[0]
    assert view.getextrema() == ((255, 255), (255, 255), (255, 255))


def test_random_views_show_at_least_the_promised_part() -> None:
    """On a horizontal ramp, the range of values in a view is the part of the width that it shows."""
    ramp = np.broadcast_to(np.linspace(0, 250, 251, dtype=np.uint8)[None, :, None], (251, 251, 3))
    photo = Photo(name="x", image=Image.fromarray(np.ascontiguousarray(ramp)), caption=None, sha256="1")
    for view in crops(photo, resolution=128, crop="Random", flip=False, seed=5):
        low, high = view.getextrema()[0]
        assert (high - low) / 250 >= MIN_CROP - 0.02
