"""Where the time of a training step goes, without waiting for the device. Used by the loop, shown in the report."""

from __future__ import annotations

import time
from typing import Literal

import torch

StepPart = Literal["data", "forward", "backward", "optimizer", "other"]
STEP_PARTS: tuple[StepPart, ...] = ("data", "forward", "backward", "optimizer", "other")


class StepTimes:
    """Marks on the device's own time line: CUDA events there, the clock on a CPU, which does one thing at a time.

    Events are read when the device has passed them, so that no step waits for the one before.
    """

    def __init__(self, device: torch.device) -> None:
        self._is_cuda = device.type == "cuda"
        self._device = device
        self.begin()

    def begin(self) -> None:
        """Forgets what was: the first step, which warms up, does not count."""
        self._seconds: dict[StepPart, float] = dict.fromkeys(STEP_PARTS, 0.0)
        self._steps = 0
        self._pending: list[tuple[StepPart, torch.cuda.Event]] = []
        self._last_event = self._event() if self._is_cuda else None
        self._last = time.perf_counter()

    def mark(self, part: StepPart) -> None:
        """All since the last mark was `part`; "other" ends a step."""
        if self._is_cuda:
            self._pending.append((part, self._event()))
        else:
            now = time.perf_counter()
            self._seconds[part] += now - self._last
            self._last = now
        self._steps += part == "other"

    def read(self) -> None:
        """Takes up what the device has passed; call it where the device was waited for anyway."""
        while self._pending and self._pending[0][1].query():  # type: ignore[no-untyped-call]
            part, event = self._pending.pop(0)
            assert self._last_event is not None
            self._seconds[part] += self._last_event.elapsed_time(event) / 1000
            self._last_event = event

    def means(self) -> dict[str, float]:
        """Mean seconds per step by part; empty where no step counted. Waits for the device."""
        if self._is_cuda:
            torch.cuda.synchronize(self._device)
            self.read()
        return {part: seconds / self._steps for part, seconds in self._seconds.items()} if self._steps else {}

    def _event(self) -> torch.cuda.Event:
        event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        event.record()
        return event
