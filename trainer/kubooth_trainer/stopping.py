"""Stopping well: SIGTERM sets a flag that all ranks agree on; a watchdog ends a rank that makes no progress."""

from __future__ import annotations

import faulthandler
import os
import signal
import sys
import threading
import time
from collections.abc import Callable

from kubooth_trainer.distributed import World
from kubooth_trainer.errors import StoppedError

STALL_SECONDS = 1800.0


class StopFlag:
    """Set by SIGTERM. Ranks compare notes at the same points, so that a save on the way out is collective."""

    def __init__(self) -> None:
        self._requested = False

    def install(self) -> None:
        signal.signal(signal.SIGTERM, self._on_signal)
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # the launcher turns Ctrl-C into SIGTERM

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
    """Ends the process, with the stacks of all threads, when nothing was heard for `seconds`.

    A collective whose peer has gone silent never returns; only a thread beside it can act.
    """

    def __init__(self, seconds: float, on_stall: Callable[[str], None]) -> None:
        self._seconds = seconds
        self._on_stall = on_stall
        self._last: float | None = None  # None: resting
        self._done = threading.Event()

    def start(self) -> None:
        threading.Thread(target=self._watch, name="watchdog", daemon=True).start()

    def beat(self) -> None:
        """Something has happened; from the first beat on, something must happen every `seconds`."""
        self._last = time.monotonic()

    def rest(self) -> None:
        """Nothing is expected until the next beat: ranks may wait long for one that downloads or uploads."""
        self._last = None

    def stop(self) -> None:
        self._done.set()

    def _watch(self) -> None:
        while not self._done.wait(min(1.0, self._seconds / 4)):
            last = self._last
            silent = 0.0 if last is None else time.monotonic() - last
            if silent > self._seconds:
                faulthandler.dump_traceback(file=sys.stderr, all_threads=True)
                self._on_stall(f"no progress for {silent:.0f} seconds")
                os._exit(75)
