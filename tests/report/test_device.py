"""What the report says of steps and memory."""

from __future__ import annotations

from report.conftest import MakeData

from kubooth_trainer.report import render_report
from kubooth_trainer.training_facts import TrainingFacts

FACTS = TrainingFacts(
    zero_stage=2,
    plan="ZeRO 2, micro-batch 1 x 2",
    reasoning="ZeRO 2, micro-batch 1 x 2: 12.0 of 20.0 GiB per rank, by the estimate",
    estimate={"weights": 3 << 30, "activations": 9 << 30},
    budget=20 << 30,
    peak=11 << 30,
    step_seconds={"data": 0.001, "forward": 0.1, "backward": 0.299, "optimizer": 0.1, "other": 0.0},
)


def test_time_and_memory_with_their_shares(data: MakeData) -> None:
    page = render_report(data(training=FACTS))
    for words in ("299.0 ms", "60%", "9.00 GiB", "75%", "12.0 of 20.0 GiB per rank", "11.00 GiB"):
        assert words in page


def test_without_steps_there_is_no_such_table(data: MakeData) -> None:
    page = render_report(data(training=TrainingFacts(**{**vars(FACTS), "step_seconds": {}})))
    assert "Where the time of a training step went" not in page and "9.00 GiB" in page
    assert "Device memory" not in render_report(data(training=None))
