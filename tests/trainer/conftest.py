"""What the trainer's tests share: a tiny random model, four pictures, configs, and real runs of the launcher."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from PIL import Image, ImageDraw
from trainer.tiny_job import RUN_SECONDS, MakeConfig, Run, config_dict


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A complete model of random weights, written in a process of its own: its libraries warn."""
    folder = tmp_path_factory.mktemp("model") / "tiny"
    code = f"from kubooth_world import tiny_model; tiny_model.write({str(folder)!r})"
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, timeout=RUN_SECONDS)
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


@pytest.fixture
def make_config(tiny_model: Path, photos: Path, tmp_path: Path) -> MakeConfig:
    """A small complete config; keywords override by path: `training__steps=4`."""

    def make(**overrides: Any) -> dict[str, Any]:
        return config_dict(tiny_model, photos, tmp_path, **overrides)

    return make


@pytest.fixture
def launch(tmp_path: Path) -> Any:
    """Starts the real launcher on a config; ends what is left of it after the test."""
    runs: list[Run] = []

    def start(config: dict[str, Any]) -> Run:
        number = len(runs)
        path = tmp_path / f"config-{number}.json"
        path.write_text(json.dumps(config))
        log = tmp_path / f"log-{number}.txt"
        with log.open("w") as stderr:
            process = subprocess.Popen(
                [sys.executable, "-m", "kubooth_trainer.launcher", "--config", str(path), "--die-with-parent"],
                stdout=subprocess.PIPE,
                stderr=stderr,
                text=True,
                env={**os.environ, "OMP_NUM_THREADS": "1"},
            )
        runs.append(Run(process, log))
        return runs[-1]

    yield start
    for run in runs:
        if run.process.poll() is None:
            run.process.kill()
        run.process.wait(timeout=60)
        assert run.process.stdout is not None
        run.process.stdout.close()
