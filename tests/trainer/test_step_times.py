"""The split of a training step's time."""

from __future__ import annotations

import time
from itertools import count

import pytest
import torch

from kubooth_trainer.step_times import STEP_PARTS, StepTimes


def test_each_part_has_the_mean_of_its_seconds_and_together_they_are_the_step(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = count()  # each look at it is a second later
    monkeypatch.setattr(time, "perf_counter", lambda: float(next(clock)))
    times = StepTimes(torch.device("cpu"))
    for part in STEP_PARTS:  # the first step, which does not count
        times.mark(part)
    times.begin()
    assert times.means() == {}
    for accumulation in (1, 3):
        for _ in range(accumulation):
            for part in ("data", "forward", "backward", "optimizer"):
                times.mark(part)  # type: ignore[arg-type]
        times.mark("other")
    times.read()
    means = times.means()
    assert means == {"data": 2.0, "forward": 2.0, "backward": 2.0, "optimizer": 2.0, "other": 1.0}
    assert sum(means.values()) == (5 + 13) / 2


@pytest.mark.gpu
def test_events_of_a_device_add_up_to_its_time() -> None:
    if not torch.cuda.is_available():
        pytest.skip("needs a GPU")
    device = torch.device("cuda")
    times = StepTimes(device)
    work = torch.randn(2048, 2048, device=device)
    torch.cuda.synchronize()
    began = time.perf_counter()
    times.begin()
    for part in STEP_PARTS:
        for _ in range(10):
            work = work @ work / 50
        times.mark(part)
    means = times.means()
    assert all(seconds > 0 for seconds in means.values())
    assert sum(means.values()) <= time.perf_counter() - began
