"""Which job is looked at next: each at most once at a time, in order of arrival, the unlucky ones later.

Events, timers and failures all only name a key. A key that is named while it is being worked on comes up once more
afterwards. A key has one timer: the earliest time wins, and taking the key clears it, since the pass decides anew.
"""

from __future__ import annotations

import asyncio
import heapq
import random
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Final, Generic, TypeVar

K = TypeVar("K", bound=Hashable)
FIRST_BACKOFF_SECONDS: Final = 0.25
LONGEST_BACKOFF_SECONDS: Final = 60.0
_FEW: Final = 64  # stale timers that are no reason to look through all of them


class Schedule(Generic[K]):
    """The rules of the queue, without waiting: times come in as arguments. `WorkQueue` waits."""

    def __init__(self, jitter: Callable[[], float] = random.random) -> None:
        self._jitter = jitter
        self._ready: OrderedDict[K, None] = OrderedDict()
        self._working: dict[K, bool] = {}  # whether the key was named again meanwhile
        self._due: dict[K, float] = {}
        self._timers: list[tuple[float, int, K]] = []  # a heap; entries that `_due` does not confirm are stale
        self._order = 0
        self._failures: dict[K, int] = {}

    def add(self, key: K) -> None:
        """Names a key for now."""
        if key in self._working:
            self._working[key] = True
        else:
            self._ready.setdefault(key)

    def add_at(self, key: K, when: float) -> None:
        """Names a key for later, unless it is due earlier anyway."""
        if key in self._due and self._due[key] <= when:
            return
        self._due[key] = when
        self._order += 1
        heapq.heappush(self._timers, (when, self._order, key))
        if len(self._timers) > 2 * len(self._due) + _FEW:
            self._drop_stale()

    def take(self, now: float) -> K | None:
        """The key to work on, or None where nothing is due. It has to be given back by `done`."""
        while self._timers and self._timers[0][0] <= now:
            when, _, key = heapq.heappop(self._timers)
            if self._due.get(key) == when:
                del self._due[key]
                self.add(key)
        if not self._ready:
            return None
        key, _ = self._ready.popitem(last=False)
        self._working[key] = False
        self._due.pop(key, None)
        return key

    def done(self, key: K) -> None:
        """Ends the work on a key."""
        if self._working.pop(key):
            self._ready.setdefault(key)

    def retry(self, key: K, now: float, *, at_least: float = 0.0) -> float:
        """Names a key again after a back-off that doubles with each failure; returns it in seconds."""
        failures = self._failures.get(key, 0)
        self._failures[key] = failures + 1
        longest = min(FIRST_BACKOFF_SECONDS * 2.0 ** min(failures, 30), LONGEST_BACKOFF_SECONDS)
        seconds = max(longest * (0.5 + self._jitter() / 2), at_least)
        self.add_at(key, now + seconds)
        return seconds

    def succeeded(self, key: K) -> None:
        """Forgets failures of a key."""
        self._failures.pop(key, None)

    def next_due(self) -> float | None:
        """When the next timer ends; None where there is none."""
        while self._timers and self._due.get(self._timers[0][2]) != self._timers[0][0]:
            heapq.heappop(self._timers)
        return self._timers[0][0] if self._timers else None

    def __len__(self) -> int:
        """Keys that wait for a worker, timers apart."""
        return len(self._ready)

    def _drop_stale(self) -> None:
        """A job that trains is looked at every few seconds, and each time sets a timer that ends hours later."""
        self._timers = [(when, order, key) for order, (key, when) in enumerate(self._due.items())]
        heapq.heapify(self._timers)


class WorkQueue(Generic[K]):
    """A `Schedule` that workers wait at."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._schedule: Schedule[K] = Schedule()
        self._clock = clock
        self._wakers: set[asyncio.Future[None]] = set()
        self._is_closed = False

    def add(self, key: K, *, after: float = 0.0) -> None:
        """Names a key, for now or for `after` seconds from now."""
        if after > 0:
            self._schedule.add_at(key, self._clock() + after)
        else:
            self._schedule.add(key)
        self._wake()

    def retry(self, key: K, *, at_least: float = 0.0) -> float:
        """Names a key for after its back-off; returns that in seconds."""
        seconds = self._schedule.retry(key, self._clock(), at_least=at_least)
        self._wake()
        return seconds

    def succeeded(self, key: K) -> None:
        """Forgets failures of a key."""
        self._schedule.succeeded(key)

    def done(self, key: K) -> None:
        """Ends the work on a key that `get` gave."""
        self._schedule.done(key)
        self._wake()

    def close(self) -> None:
        """Hands out no further key."""
        self._is_closed = True
        self._wake()

    async def get(self) -> K | None:
        """Waits for a key that is due; None once the queue is closed."""
        while not self._is_closed:
            key = self._schedule.take(self._clock())
            if key is not None:
                return key
            waker = asyncio.get_running_loop().create_future()
            self._wakers.add(waker)
            due = self._schedule.next_due()
            try:
                async with asyncio.timeout(None if due is None else max(due - self._clock(), 0.0)):
                    await waker
            except TimeoutError:
                pass
            finally:
                self._wakers.discard(waker)
        return None

    def __len__(self) -> int:
        return len(self._schedule)

    def _wake(self) -> None:
        for waker in self._wakers:
            if not waker.done():
                waker.set_result(None)
