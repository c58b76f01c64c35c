"""Joins the two halves of `kubooth run`: the supervised launcher on one side, a presenter on the other."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from signal import Signals
from typing import BinaryIO

from kubooth_cli.devices import Devices
from kubooth_cli.outcome import LOG_LINES, Outcome
from kubooth_cli.presenter import Presenter, Run
from kubooth_cli.state import RunState
from kubooth_cli.supervise import Supervisor, log_lines
from kubooth_trainer.progress import Event

LAUNCHER: tuple[str, ...] = (sys.executable, "-m", "kubooth_trainer.launcher")


def run_launcher(
    run: Run,
    presenter: Presenter,
    *,
    launcher: Sequence[str] = LAUNCHER,
    lock: int,
    verbose: bool = False,
) -> Outcome:
    """Runs the trainer to its end, shown by `presenter`. `lock`: the descriptor that holds the folder."""
    state = RunState()
    began = time.monotonic()
    with run.log_path.open("ab", buffering=0) as log:
        log.write(f"--- {datetime.now().astimezone().isoformat(timespec='seconds')} {run.title}\n".encode())
        start = log.tell()
        audience = _Audience(presenter, state, run.log_path.open("rb") if verbose else None, start)
        supervisor = Supervisor(
            [*launcher, "--config", str(run.config_path), "--die-with-parent"],
            environment=trainer_environment(run.devices, os.environ),
            log=log,
            listener=audience,
            inherited=(lock,),
        )
        try:
            audience.tell(lambda: presenter.begin(run, state))
            ended = supervisor.run()
            audience.tick()
        finally:
            audience.close()
    tail = tuple(log_lines(run.log_path, start, LOG_LINES))
    return Outcome(run=run, state=state, ended=ended, seconds=time.monotonic() - began, log_tail=tail)


def trainer_environment(devices: Devices, inherited: Mapping[str, str]) -> dict[str, str]:
    """The environment of the launcher: ours, with the threads of each CPU rank, and unbuffered output."""
    environment = dict(inherited)
    environment["PYTHONUNBUFFERED"] = "1"
    environment["PYTHONSAFEPATH"] = "1"  # nothing is imported from the current folder (a torch.py beside a job)
    if devices.threads_per_rank is not None:
        environment["OMP_NUM_THREADS"] = str(devices.threads_per_rank)
    return environment


class _Audience:
    """Keeps the state, follows the log, and goes on without a presenter whose reader has gone (`| head`)."""

    def __init__(self, presenter: Presenter, state: RunState, log: BinaryIO | None, start: int) -> None:
        self._presenter = presenter
        self._state = state
        self._log = log
        self._rest = b""
        self._gone = False
        if log is not None:
            log.seek(start)

    def event(self, event: Event, line: str) -> None:
        changed = self._state.apply(event, time.monotonic())
        self._follow()
        self.tell(lambda: self._presenter.event(event, line, changed=changed))

    def stopping(self, cause: Signals) -> None:
        self.tell(lambda: self._presenter.stopping(cause))

    def tick(self) -> None:
        self._follow()
        self.tell(self._presenter.tick)

    def tell(self, message: Callable[[], None]) -> None:
        if self._gone:
            return
        try:
            message()
        except OSError as error:
            self._gone = True
            self._say(f"nobody reads the progress any more ({error.strerror}); training goes on")

    def close(self) -> None:
        self.tell(self._presenter.close)
        if self._log is not None:
            self._log.close()

    def _follow(self) -> None:
        if self._log is None:
            return
        *lines, self._rest = (self._rest + self._log.read()).split(b"\n")
        for line in lines:
            text = line.decode(errors="replace").rsplit("\r", 1)[-1]
            self.tell(lambda text=text: self._presenter.log(text))  # type: ignore[misc]

    @staticmethod
    def _say(text: str) -> None:
        with suppress(OSError):
            print(text, file=sys.stderr, flush=True)
