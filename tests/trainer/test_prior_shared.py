"""Whole jobs with a prior cache between them: two at once, one that was killed, a second quickstart."""

from __future__ import annotations

import os
import re
import signal
from pathlib import Path
from typing import Any

import pytest
from trainer.test_job import output_of, trainer_pids, weights_of
from trainer.tiny_job import Launch, MakeConfig, Run

from kubooth_trainer.class_images import class_image_paths
from kubooth_trainer.progress import PriorEvent, StageEvent

IMAGES = 32


def job(make_config: MakeConfig, folder: Path, cache: str | None, **overrides: Any) -> dict[str, Any]:
    return make_config(
        prior__cache=cache,
        prior__images=IMAGES,
        training__steps=2,
        evaluation__prompts=["a {identifier} {class}"],
        evaluation__images_per_prompt=1,
        workdir=str(folder / "work"),
        output__uri=(folder / "output").as_uri(),
        checkpoints__uri=(folder / "checkpoints").as_uri(),
        **overrides,
    )


def pictures(config: dict[str, Any]) -> list[bytes]:
    (folder,) = (Path(config["workdir"]) / "prior").iterdir()
    return [path.read_bytes() for path in class_image_paths(folder, IMAGES)]


def taken(run: Run) -> int:
    """Images that a job has from the cache, by the line that its user reads."""
    (line,) = {e.note for e in run.events if isinstance(e, StageEvent) and e.stage == "Prior" and e.end is not None}
    found = re.search(r"(\d+) from the cache", line)
    return int(found[1]) if found else 0


def prior(run: Run) -> PriorEvent:
    return next(event for event in run.events if isinstance(event, PriorEvent))


def test_two_jobs_at_once_make_each_class_image_once_and_both_end_right(
    launch: Launch, make_config: MakeConfig, tmp_path: Path
) -> None:
    cache = (tmp_path / "cache").as_uri()
    configs = [job(make_config, tmp_path / name, cache) for name in ("a", "b")]
    started = [launch(config) for config in configs]
    runs = [run.finish() for run in started]
    assert all(run.result for run in runs)
    assert sum(IMAGES - taken(run) for run in runs) == IMAGES
    assert pictures(configs[0]) == pictures(configs[1])
    assert weights_of(output_of(configs[0])) == weights_of(output_of(configs[1]))
    third = launch(job(make_config, tmp_path / "c", cache)).finish()
    assert third.result
    assert prior(third).source == "Hit" and prior(third).seconds_saved > 0
    assert f"{IMAGES} from the cache" in (tmp_path / "c" / "output" / "report.html").read_text()
    assert weights_of(tmp_path / "c" / "output") == weights_of(output_of(configs[0]))


@pytest.mark.soak
def test_a_job_killed_half_way_leaves_a_cache_that_the_next_one_ends_right_with(
    launch: Launch, make_config: MakeConfig, tmp_path: Path
) -> None:
    cache = (tmp_path / "cache").as_uri()
    run = launch(job(make_config, tmp_path / "killed", cache, prior__sampler__steps=20))
    run.until(lambda event: isinstance(event, StageEvent) and event.stage == "Prior" and event.done > 0)
    os.kill(trainer_pids(run)[0], signal.SIGKILL)
    assert run.finish().code == 70
    config = job(make_config, tmp_path / "next", cache, prior__sampler__steps=20)
    alone = job(make_config, tmp_path / "alone", None, prior__sampler__steps=20)
    assert launch(config).finish().result and launch(alone).finish().result
    assert pictures(config) == pictures(alone)
    assert weights_of(output_of(config)) == weights_of(output_of(alone))
