"""The job in the report: the operator's own models accept it, and it resolves to what was trained."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from kubooth_trainer.config import TrainConfig
from kubooth_trainer.repeat import repeat_job

CHANGES: dict[str, dict[str, Any]] = {
    "as it is": {},
    "catalogue name": {"model": {"name": "small-world"}},
    "averaged weights": {"training": {"ema": {"decay": 0.995}}},
    "a fixed resolution": {"training": {"resolution": 512, "snr_gamma": 5.0}},
    "own class images": {"prior": {"uri": "s3://photos/dogs/"}},
    "an odd prompt": {"evaluation": {"prompts": ["a {identifier} {class}: 'quoted' # not a comment"]}},
}


@pytest.mark.parametrize("changes", CHANGES.values(), ids=CHANGES.keys())
def test_it_resolves_to_the_same_training(
    config: Callable[..., TrainConfig], tmp_path: Path, changes: dict[str, Any]
) -> None:
    from kubooth_operator.api.load import load_job
    from kubooth_operator.api.local import local_runtime
    from kubooth_operator.resolve import Target, resolve

    trained = config(**changes)
    manifest = tmp_path / "job.yaml"
    manifest.write_text(repeat_job(trained, identifier="zqx"))
    job = load_job(manifest)
    runtime = local_runtime({"small-world": trained.model.uri})
    target = Target(
        workdir=trained.workdir,
        checkpoints_uri=trained.checkpoints.uri,
        base_uri=None,
        devices=2,
        output=None,
        attempt=1,
        namespace="team-a",
    )
    again = resolve(job, runtime, target)
    pinned = trained.subject.model_copy(update={"identifier": "zqx"})
    assert again == trained.model_copy(update={"subject": pinned, "storage": again.storage})
