"""Plain lines for logs and pipes: one per change of a stage, and now and then one from inside it."""

from __future__ import annotations

import time
from collections.abc import Callable
from signal import Signals
from typing import TextIO

from kubooth_cli import format as fmt
from kubooth_cli.presenter import Run, stopping_text
from kubooth_cli.state import RunState
from kubooth_cli.wording import stage_line, training_parts
from kubooth_trainer.progress import (
    CheckpointEvent,
    Event,
    InfoEvent,
    ProgressEvent,
    StageEvent,
    WarningEvent,
)

SECONDS_BETWEEN = 10.0


class Lines:
    """Writes to one stream, flushed, no escape codes."""

    def __init__(self, stream: TextIO, clock: Callable[[], float] = time.monotonic) -> None:
        self._stream = stream
        self._clock = clock
        self._quiet_until = 0.0
        self._state = RunState()

    def begin(self, run: Run, state: RunState) -> None:
        self._state = state
        self._write(f"kubooth run: {run.title}")
        self._write(f"working folder: {run.workdir}")

    def event(self, event: Event, line: str, *, changed: bool) -> None:
        match event:
            case StageEvent():
                self._stage(event, changed=changed)
            case ProgressEvent():
                if self._due():
                    self._write(f"Train: {fmt.share(event.step, event.total)}  {'  '.join(training_parts(event))}")
            case CheckpointEvent():
                self._write(f"checkpoint saved at step {event.step}")
            case WarningEvent():
                self._write(f"warning: {event.message}")
            case InfoEvent():
                self._write(f"{fmt.words(event.key)}: {event.value}")
            case _:
                pass  # the result and the failure are the summary's to tell

    def log(self, line: str) -> None:
        self._write(f"| {line}")

    def say(self, text: str) -> None:
        """A line of its own."""
        self._write(text)

    def stopping(self, cause: Signals) -> None:
        self._write(stopping_text(cause, self._state))

    def tick(self) -> None:
        pass

    def close(self) -> None:
        pass

    def _stage(self, event: StageEvent, *, changed: bool) -> None:
        if changed and event.state != "Pending":
            self._quiet_until = self._clock() + SECONDS_BETWEEN
            self._write(stage_line(event))
        elif event.state == "Running" and event.stage != "Train" and event.total and self._due():
            self._write(f"{event.stage}: {fmt.share(event.done, event.total, event.unit)}")

    def _due(self) -> bool:
        now = self._clock()
        if now < self._quiet_until:
            return False
        self._quiet_until = now + SECONDS_BETWEEN
        return True

    def _write(self, text: str) -> None:
        self._stream.write(text + "\n")
        self._stream.flush()
