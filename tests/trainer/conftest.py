"""What the trainer's tests share: configs, and real runs of the launcher."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from trainer.tiny_job import MakeConfig, Run, config_dict, start_launcher


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
        runs.append(start_launcher(config, tmp_path, str(len(runs))))
        return runs[-1]

    yield start
    for run in runs:
        if run.process.poll() is None:
            run.process.kill()
        run.process.wait(timeout=60)
        assert run.process.stdout is not None
        run.process.stdout.close()
