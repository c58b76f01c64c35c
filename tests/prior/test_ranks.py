"""The prior stage on a real model: the same pictures at any number of ranks, hits that load and make nothing."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from trainer.tiny_job import RUN_SECONDS, config_dict

from kubooth_trainer.class_images import class_image_paths

DRIVER = Path(__file__).with_name("ranks.py")
IMAGES = 20  # three batches, the last one not full


def prior_stage(
    model: Path, folder: Path, *, ranks: int, cache: str = "none", threads: int = 1, slow: bool = False
) -> dict[str, Any]:
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config_dict(model, folder, folder, prior__images=IMAGES)))
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks)]
    done = subprocess.run(
        [*command, str(DRIVER), str(model), str(folder / "config.json"), cache, *(["slow"] if slow else [])],
        capture_output=True,
        text=True,
        timeout=RUN_SECONDS,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": str(threads)},
    )
    assert done.returncode == 0, done.stderr[-4000:]
    facts: dict[str, Any] = json.loads(next(line for line in done.stdout.splitlines() if line.startswith('{"digests"')))
    return facts


@pytest.fixture(scope="module")
def alone(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], Path, str]:
    """One rank that fills a cache: what it said, its pictures, the cache."""
    folder = tmp_path_factory.mktemp("alone")
    cache = (folder / "cache").as_uri()
    return prior_stage(tiny_model, folder / "work-1", ranks=1, cache=cache), folder / "work-1" / "work" / "prior", cache


def test_one_rank_makes_all(alone: tuple[dict[str, Any], Path, str]) -> None:
    facts, _, _ = alone
    assert (facts["taken"], facts["made"], facts["warnings"]) == (0, IMAGES, [])
    assert len(set(facts["digests"])) == IMAGES
    assert facts["batch_difference"] <= 1


def test_three_ranks_make_the_same_bytes(
    alone: tuple[dict[str, Any], Path, str], tiny_model: Path, tmp_path: Path
) -> None:
    facts = prior_stage(tiny_model, tmp_path / "work", ranks=3)
    assert (facts["digests"], facts["made"]) == (alone[0]["digests"], IMAGES)


def test_of_two_ranks_the_slow_one_makes_fewer_and_the_bytes_are_the_same(
    alone: tuple[dict[str, Any], Path, str], tiny_model: Path, tmp_path: Path
) -> None:
    facts = prior_stage(tiny_model, tmp_path / "work", ranks=2, slow=True)
    assert (sum(facts["batches"]), facts["made"]) == (3, IMAGES)
    assert facts["batches"][0] >= 2
    assert facts["digests"] == alone[0]["digests"]


def test_another_number_of_threads_changes_no_pixel_by_more_than_one(
    alone: tuple[dict[str, Any], Path, str], tiny_model: Path, tmp_path: Path
) -> None:
    prior_stage(tiny_model, tmp_path / "work", ranks=1, threads=2)
    ours = class_image_paths(tmp_path / "work" / "work" / "prior", IMAGES)
    for one, two in zip(class_image_paths(alone[1], IMAGES), ours, strict=True):
        with Image.open(one) as first, Image.open(two) as second:
            assert np.abs(np.array(first, dtype=int) - np.array(second, dtype=int)).max() <= 1


def test_two_ranks_take_what_one_has_made(
    alone: tuple[dict[str, Any], Path, str], tiny_model: Path, tmp_path: Path
) -> None:
    facts = prior_stage(tiny_model, tmp_path / "work", ranks=2, cache=alone[2])
    assert (facts["digests"], facts["taken"], facts["made"]) == (alone[0]["digests"], IMAGES, 0)
    assert facts["saved"] > 0
