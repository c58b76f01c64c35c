"""Stopping well: SIGTERM sets a flag that all ranks agree on; a watchdog ends a rank when nothing moves any more."""

from __future__ import annotations

import faulthandler
import os
import signal
import tempfile
import threading
import time
from collections.abc import Callable

from kubooth_trainer.distributed import World
from kubooth_trainer.errors import StalledError, StoppedError


class StopFlag:
    """Set by SIGTERM. Ranks compare notes at the same points, so that a save on the way out is collective."""

    def __init__(self) -> None:
        self._requested = False

    def install(self) -> None:
        signal.signal(signal.SIGTERM, self._on_signal)
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # the launcher turns Ctrl-C into SIGTERM

    @property
    def requested_here(self) -> bool:
        """True once this rank was told to stop; others may not know yet."""
        return self._requested

    def requested(self, world: World) -> bool:
        """True on every rank once any rank was told to stop. Collective."""
        return world.any(self._requested)

    def raise_if_requested(self, world: World) -> None:
        """Collective; for stages that keep what they have done on disk as they go."""
        if self.requested(world):
            raise StoppedError("stopped on request; what is done is kept, the next start goes on from there")

    def raise_if_set_here(self) -> None:
        """Not collective: for work that only this rank does."""
        if self._requested:
            raise StoppedError("stopped on request; what is done is kept, the next start goes on from there")

    def _on_signal(self, *_: object) -> None:
        self._requested = True


class Watchdog:
    """Ends the process, with the stacks of all threads, when no work has moved for `seconds`, here or on any rank.

    A collective whose peer has gone silent never returns; only a thread beside it can act.
    """

    def __init__(self, seconds: float, on_stall: Callable[[str], None]) -> None:
        """`on_stall` gets a sentence; the process ends with the code for "retry" when it returns."""
        self.listeners: list[Callable[[], None]] = []  # told of every beat of this rank
        self._seconds = seconds
        self._on_stall = on_stall
        self._last = time.monotonic()
        self._done = threading.Event()

    def start(self) -> None:
        self._last = time.monotonic()
        threading.Thread(target=self._watch, name="watchdog", daemon=True).start()

    def beat(self) -> None:
        """Work has moved on this rank: a step, an image, some bytes."""
        self._last = time.monotonic()
        for listener in self.listeners:
            listener()

    def heard(self) -> None:
        """Work has moved on another rank, for which this one may be waiting."""
        self._last = time.monotonic()

    def stop(self) -> None:
        self._done.set()

    def _watch(self) -> None:
        while not self._done.wait(min(1.0, self._seconds / 4)):
            silent = time.monotonic() - self._last
            if silent > self._seconds:
                dump_stacks()
                self._on_stall(f"no progress for {silent:.0f} seconds")
                os._exit(StalledError.exit_code)


def dump_stacks() -> None:
    """The stacks of all threads to standard error, in one piece, so that those of several ranks do not mix."""
    with tempfile.TemporaryFile() as file:
        faulthandler.dump_traceback(file=file, all_threads=True)
        file.seek(0)
        os.write(2, file.read())
