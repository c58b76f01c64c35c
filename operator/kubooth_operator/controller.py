"""The loop: takes a job from the queue, has `reconcile` look at it, carries the plan out, decides when to look again.

Level-triggered: a pass never asks what happened, only what is. Whatever the API server does, a pass ends and the job
comes up again; no error of one job reaches another.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Final

from kubooth_operator.cache import Key
from kubooth_operator.client import ApiError, ConflictError, NotFoundError, RefusedError, TemporaryError
from kubooth_operator.cluster import Cluster, NotYetError
from kubooth_operator.metrics import Metrics
from kubooth_operator.plan import Clock, Observed, Plan, Settings
from kubooth_operator.reach import Reach
from kubooth_operator.workqueue import WorkQueue

Reconcile = Callable[[Observed, Settings, Clock], Plan]
DRAIN_SECONDS: Final = 5.0
_MOST_WRITES_IN_A_ROW = 20
_SOONEST_SECONDS = 0.05
_BUG_SECONDS = 15.0

_log = logging.getLogger(__name__)


class Controller:
    """`workers` jobs are worked on at once."""

    def __init__(
        self,
        cluster: Cluster,
        queue: WorkQueue[Key],
        reach: Reach,
        reconcile: Reconcile,
        settings: Settings,
        metrics: Metrics,
    ) -> None:
        self._cluster = cluster
        self._queue = queue
        self._reach = reach
        self._reconcile = reconcile
        self._settings = settings
        self._metrics = metrics
        self._stopping = asyncio.Event()

    async def run(self, workers: int) -> None:
        """Returns after `stop`, when the passes under way have ended."""
        tasks = [asyncio.create_task(self._work(), name=f"worker {number}") for number in range(workers)]
        try:
            await self._stopping.wait()
            self._queue.close()
            await asyncio.wait(tasks, timeout=DRAIN_SECONDS)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    def stop(self) -> None:
        """Takes no further job from the queue."""
        self._stopping.set()

    async def _work(self) -> None:
        while (key := await self._queue.get()) is not None:
            try:
                await self._pass(key)
            finally:
                self._queue.done(key)

    async def _pass(self, key: Key) -> None:
        about = {"job": str(key)}
        started, error_word = time.monotonic(), None
        try:
            again_after = await self._look(key)
        except NotYetError as reason:
            _log.debug("%s", reason, extra=about)
            self._queue.add(key, after=reason.seconds)
        except (ConflictError, NotFoundError) as error:  # the cache was behind; it has been brought up to date
            error_word = "Conflict"
            seconds = self._queue.retry(key)
            _log.debug("again in %.1f s: %s", seconds, error, extra=about)
        except TemporaryError as error:
            error_word = "Temporary"
            seconds = self._queue.retry(key, at_least=error.retry_after or 0.0)
            _log.debug("again in %.1f s: %s", seconds, error, extra=about)
        except RefusedError:  # which `cluster` has said; a quota or a policy may change
            error_word = "Refused"
            self._queue.retry(key)
        except ApiError as error:
            error_word = "Api"
            seconds = self._queue.retry(key)
            _log.warning("again in %.1f s: %s", seconds, error, extra=about)
        except Exception:  # noqa: BLE001 - a bug shown by one job must not end the work on all others
            error_word = "Bug"
            seconds = self._queue.retry(key, at_least=_BUG_SECONDS)
            _log.exception("a pass failed; again in %.1f s", seconds, extra=about)
        else:
            self._queue.succeeded(key)
            if again_after is not None:
                self._queue.add(key, after=again_after)
        self._metrics.look_has_ended(time.monotonic() - started, error=error_word)

    async def _look(self, key: Key) -> float | None:
        """Passes until one has nothing to write: a job that is begun is brought on its way before the next one's turn.
        Returns when to look again, in seconds; None where only an event can change anything."""
        plan = Plan()
        for _ in range(_MOST_WRITES_IN_A_ROW):
            observed = await self._cluster.observe(key)
            if observed is None:
                return None
            clock = Clock(now=datetime.now(UTC), reachable_since=self._reach.since)
            plan = self._reconcile(observed, self._settings, clock)
            if not await self._cluster.carry_out(observed, plan):
                return None if plan.requeue_after is None else max(plan.requeue_after, _SOONEST_SECONDS)
            if self._stopping.is_set():
                return 0.0
        raise RuntimeError(f"{_MOST_WRITES_IN_A_ROW} passes in a row wrote something, the last: {_words(plan)}")


def _words(plan: Plan) -> str:
    parts = [f"deleted {each.ref.kind} {each.ref.name}" for each in plan.delete]
    parts += [f"applied {each['kind']} {each['metadata']['name']}" for each in plan.apply]
    if plan.status:
        parts.append(f"wrote status {', '.join(plan.status)}")
    return "; ".join(parts)
