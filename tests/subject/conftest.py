"""Photos made on the spot: textured, so that they are neither blank nor alike nor blurred."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

MakePhoto = Callable[..., Image.Image]


@pytest.fixture(scope="session")
def picture() -> MakePhoto:
    """A coarse random pattern with sharp edges: `picture(seed, size=(w, h))`."""

    def make(seed: int = 0, size: tuple[int, int] = (160, 120)) -> Image.Image:
        rng = random.Random(seed)
        coarse = Image.frombytes("RGB", (8, 6), rng.randbytes(8 * 6 * 3))
        return coarse.resize(size, Image.Resampling.NEAREST)

    return make


@pytest.fixture
def photos(tmp_path: Path, picture: MakePhoto) -> Path:
    """A folder of four good JPEG photos, 1.jpg to 4.jpg."""
    folder = tmp_path / "rex"
    folder.mkdir()
    for index in range(1, 5):
        picture(index).save(folder / f"{index}.jpg", quality=92)
    return folder
