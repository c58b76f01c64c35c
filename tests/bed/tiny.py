"""pytest plugin: what a training needs at least, for the session: a tiny random model and four pictures."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image, ImageDraw

_WRITE_SECONDS = 570  # a bound, not an expectation


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A complete model of random weights, written in a process of its own: its libraries warn."""
    folder = tmp_path_factory.mktemp("model") / "tiny"
    code = f"from kubooth_world import tiny_model; tiny_model.write({str(folder)!r})"
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, timeout=_WRITE_SECONDS)
    return folder


@pytest.fixture(scope="session")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four different pictures of 96 x 96 pixels."""
    folder = tmp_path_factory.mktemp("photos")
    for index, colour in enumerate(("red", "green", "blue", "orange")):
        image = Image.new("RGB", (96, 96), "white")
        ImageDraw.Draw(image).ellipse((10 + 4 * index, 20, 60 + 8 * index, 80), fill=colour)
        image.save(folder / f"{index}.png")
    return folder
