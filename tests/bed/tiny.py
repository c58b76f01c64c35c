"""pytest plugin: what a training needs at least, for the session: a tiny random model and four pictures."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from bed.shared import alone_with, shared_folder
from PIL import Image, ImageDraw

_WRITE_SECONDS = 570  # a bound, not an expectation


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A complete model of random weights, written in a process of its own: its libraries warn. Only to be read."""
    folder = shared_folder(tmp_path_factory) / "tiny"
    with alone_with(folder):
        if not folder.exists():
            part = folder.with_suffix(".part")
            code = f"from kubooth_world import tiny_model; tiny_model.write({str(part)!r})"
            subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, timeout=_WRITE_SECONDS)
            part.rename(folder)
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
