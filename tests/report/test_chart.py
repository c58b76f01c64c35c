"""Charts as numbers: ranges, ticks and what happens at the edges."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import pytest

from kubooth_trainer.progress import ProgressEvent
from kubooth_trainer.report_chart import learning_rate_chart, loss_chart


def event(step: int, **changes: Any) -> ProgressEvent:
    values: dict[str, Any] = {
        "step": step,
        "total": 100,
        "loss": 0.2,
        "instance_loss": 0.1,
        "prior_loss": 0.1,
        "grad_norm": 1.0,
        "learning_rate": 1e-4,
        "samples_per_second": 1.0,
        "eta_seconds": 0.0,
        "time": 0.0,
    }
    return ProgressEvent(**{**values, **changes})


def points(text: str) -> list[tuple[float, float]]:
    return [(float(x), float(y)) for x, y in (pair.split(",") for pair in text.split())]


def test_a_loss_chart_spans_its_square() -> None:
    chart = loss_chart([event(step, instance_loss=1 / step, prior_loss=0.2) for step in range(1, 101)])
    assert chart is not None
    assert [line.name for line in chart.lines] == ["Instance loss", "Prior loss"]
    assert [line.style for line in chart.lines] == ["first", "second"]
    smooth = points(chart.lines[0].smooth)
    assert smooth[0][0] == 0
    assert smooth[-1][0] == 1000
    assert all(0 <= y <= 1000 for _, y in smooth)
    assert [tick.text for tick in chart.x_ticks] == ["25", "50", "75", "100"]
    assert chart.y_ticks[0].at == 100
    assert chart.y_ticks[-1].at == 0
    assert 3 <= len(chart.y_ticks) <= 6
    assert len(chart.rows) == 10
    assert chart.rows[0] == ("1", "1", "0.2")


def test_many_events_are_thinned_out() -> None:
    chart = loss_chart([event(step) for step in range(1, 5001)])
    assert chart is not None
    assert len(points(chart.lines[0].raw)) < 500
    assert points(chart.lines[0].raw)[-1][0] == 1000


def test_a_repeated_step_counts_once_as_it_was_last() -> None:
    chart = loss_chart([event(1), event(2, instance_loss=9.0), event(2, instance_loss=0.3), event(3)])
    assert chart is not None
    assert [row[:2] for row in chart.rows] == [("1", "0.1"), ("2", "0.3"), ("3", "0.1")]


NO_CHART = {
    "nothing": [],
    "one event": [event(1)],
    "not a number": [
        event(1, instance_loss=math.nan, prior_loss=None),
        event(2, instance_loss=math.inf, prior_loss=None),
    ],
}


@pytest.mark.parametrize("history", NO_CHART.values(), ids=NO_CHART.keys())
def test_too_little_for_a_chart(history: list[ProgressEvent]) -> None:
    assert loss_chart(history) is None


def test_holes_and_constants_are_fine() -> None:
    history = [event(step, instance_loss=0.0, prior_loss=None) for step in range(1, 6)]
    history[2] = dataclasses.replace(history[2], instance_loss=math.nan)
    chart = loss_chart(history)
    assert chart is not None
    assert len(chart.lines) == 1
    assert chart.lines[0].last == "0"


def test_a_constant_learning_rate_needs_no_chart() -> None:
    assert learning_rate_chart([event(1), event(2)]) is None
    chart = learning_rate_chart([event(step, learning_rate=step * 1e-6) for step in range(1, 11)])
    assert chart is not None
    assert chart.lines[0].raw == ""
    assert chart.lines[0].last == "1e-5"
    assert chart.y_ticks[-1].text == "1e-5"
