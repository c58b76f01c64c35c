"""The seam between a run and the one who watches it: what every presenter is told, in which order.

`begin`, then any number of `event`, `log`, `stopping` and `tick`, then `close`, also after an error.
Implemented by bars (`bars.py`), plain lines (`lines.py`) and JSON lines (`jsonlines.py`).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from signal import Signals
from typing import Protocol

from kubooth_cli.devices import Devices
from kubooth_cli.state import RunState
from kubooth_trainer.config import TrainConfig
from kubooth_trainer.progress import Event


@dataclass(frozen=True)
class Run:
    """What is about to run."""

    config: TrainConfig
    devices: Devices
    workdir: Path
    config_path: Path
    log_path: Path

    @property
    def title(self) -> str:
        """`rex: a dog, on CPU, 2 ranks`."""
        return f"{self.config.job.name} ({self.config.subject.class_name}) on {self.devices}"


class Presenter(Protocol):
    """Shows a run while it goes on. A method may raise OSError when its reader has gone; the run goes on."""

    def begin(self, run: Run, state: RunState) -> None:
        """The launcher is about to start. `state` is kept up to date before each `event`."""

    def event(self, event: Event, line: str, *, changed: bool) -> None:
        """The trainer said something; `changed`: a stage entered another state."""

    def log(self, line: str) -> None:
        """A line of the library log (only with --verbose)."""

    def stopping(self, cause: Signals) -> None:
        """The request to stop was passed on."""

    def tick(self) -> None:
        """A few times a second."""

    def close(self) -> None:
        """Nothing more comes: leave the terminal as it was found."""


def stopping_text(cause: Signals, state: RunState) -> str:
    """What to say when a first request to stop has been passed on."""
    doing = "saving a checkpoint" if state.running == "Train" else "keeping what is done"
    if cause is Signals.SIGINT:
        return f"{doing}; press Ctrl-C again to stop at once"
    return f"{cause.name} received: {doing}, then stopping"
