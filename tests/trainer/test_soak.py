"""Kills at random instants of a whole job: every one resumes to the same weights. Long: `scripts/soak` runs it."""

from __future__ import annotations

import os
import random
import signal

import pytest
from trainer.test_job import Reference, output_of, reference, trainer_pids, weights_of  # noqa: F401 - a fixture
from trainer.tiny_job import Launch, MakeConfig

KILLS = 50


@pytest.mark.soak
@pytest.mark.parametrize("seed", range(KILLS))
def test_killed_anywhere(
    reference: Reference,  # noqa: F811
    launch: Launch,
    make_config: MakeConfig,
    seed: int,
) -> None:
    config = make_config(checkpoints__every_steps=5)
    instant = random.Random(seed).randrange(6, len(reference.events) - 1)
    run = launch(config)
    seen = iter(range(len(reference.events)))
    run.until(lambda _: next(seen) == instant)
    for pid in trainer_pids(run):
        os.kill(pid, signal.SIGKILL)
    run.finish()
    assert launch(config).finish().result
    assert weights_of(output_of(config)) == reference.weights
