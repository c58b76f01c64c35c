"""A training that runs out of memory on one rank: all start again with less, and learn the same."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from trainer.test_job import losses, output_of
from trainer.tiny_job import Launch, MakeConfig

from kubooth_trainer.progress import FailedEvent, InfoEvent, WarningEvent

FAULTS = Path(__file__).with_name("no_memory")
SHORT = {"training__steps": 5, "prior__enabled": False, "evaluation__prompts": ["a {identifier} {class}"]}


@pytest.fixture
def no_memory(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """From then on, rank 1 of a training asks for more memory than there is where it gets more than so many samples."""

    def give(samples: int) -> None:
        monkeypatch.setenv("PYTHONPATH", f"{FAULTS}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
        monkeypatch.setenv("MOST_SAMPLES", str(samples))

    return give


def test_one_rank_out_of_memory_makes_all_start_with_half_the_micro_batch(
    launch: Launch, make_config: MakeConfig, no_memory: Callable[[int], None], tmp_path: Path
) -> None:
    whole = launch(make_config(**SHORT)).finish()
    assert whole.result
    no_memory(1)
    places = {"output__uri": (tmp_path / "again").as_uri(), "checkpoints__uri": (tmp_path / "kept").as_uri()}
    config = make_config(**SHORT, **places, parallelism__devices_per_node=2)
    run = launch(config).finish()
    assert run.result
    tried = [event.value for event in run.events if isinstance(event, InfoEvent) and event.key == "microBatch"]
    assert tried == ["2 x 1", "1 x 2"]
    (told,) = [event.message for event in run.events if isinstance(event, WarningEvent)]
    assert "memory did not suffice for a larger micro-batch" in told and "micro-batch 1 x 2" in told
    assert losses(run.events) == pytest.approx(losses(whole.events), abs=1e-5)
    assert "memory did not suffice" in (output_of(config) / "report.html").read_text()


def test_a_job_that_fits_in_no_way_fails_and_says_what_to_change(
    launch: Launch, make_config: MakeConfig, no_memory: Callable[[int], None]
) -> None:
    no_memory(0)
    small = {"parallelism__devices_per_node": 2, "training__batch_size": 2}
    run = launch(make_config(**SHORT, **small, training__gradient_checkpointing="Enabled")).finish()
    assert (run.code, run.failure.reason) == (75, "DeviceOutOfMemory")
    assert "one photo at a time" in run.failure.message and "parallelism.offload" in run.failure.message
    assert len([event for event in run.events if isinstance(event, FailedEvent)]) == 1
