"""The queue's rules under a clock of our own, and that its workers wake up."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from kubooth_operator.workqueue import FIRST_BACKOFF_SECONDS, LONGEST_BACKOFF_SECONDS, Schedule, WorkQueue


def schedule(jitter: float = 1.0) -> Schedule[str]:
    return Schedule(jitter=lambda: jitter)


def all_due(queue: Schedule[str], now: float) -> list[str]:
    """What is due, each worked on and done before the next is taken."""
    taken = []
    while (key := queue.take(now)) is not None:
        taken.append(key)
        queue.done(key)
    return taken


def test_keys_come_in_order_of_arrival_and_once() -> None:
    queue = schedule()
    for key in ("a", "b", "a", "c", "b"):
        queue.add(key)
    assert len(queue) == 3
    assert all_due(queue, 0) == ["a", "b", "c"]


def test_a_key_is_with_one_worker_at_a_time() -> None:
    queue = schedule()
    queue.add("a")
    assert queue.take(0) == "a"
    queue.add("a")
    queue.add("a")
    assert queue.take(0) is None
    queue.done("a")
    assert all_due(queue, 0) == ["a"]


def test_a_key_named_while_worked_on_goes_to_the_end() -> None:
    queue = schedule()
    queue.add("busy")
    assert queue.take(0) == "busy"
    queue.add("busy")
    queue.add("other")
    queue.done("busy")
    assert all_due(queue, 0) == ["other", "busy"]


def test_of_two_timers_the_earlier_wins() -> None:
    queue = schedule()
    queue.add_at("a", 30)
    queue.add_at("a", 10)
    queue.add_at("a", 20)
    assert queue.next_due() == 10
    assert all_due(queue, 9.9) == []
    assert all_due(queue, 10) == ["a"]
    assert queue.next_due() is None
    assert all_due(queue, 100) == []


def test_a_pass_clears_the_timer() -> None:
    queue = schedule()
    queue.add_at("a", 30)
    queue.add("a")
    assert all_due(queue, 1) == ["a"]
    assert all_due(queue, 31) == []


def test_a_timer_set_during_a_pass_stays() -> None:
    queue = schedule()
    queue.add("a")
    assert queue.take(0) == "a"
    queue.add_at("a", 5)
    queue.done("a")
    assert queue.take(4) is None
    assert all_due(queue, 5) == ["a"]


def test_a_timer_that_ends_during_a_pass_leads_to_one_more() -> None:
    queue = schedule()
    queue.add("a")
    assert queue.take(0) == "a"
    queue.add_at("a", 5)
    assert queue.take(6) is None
    queue.done("a")
    assert all_due(queue, 6) == ["a"]


def test_back_off_doubles_up_to_a_bound_and_a_success_forgets() -> None:
    queue = schedule()
    waits = [queue.retry("a", 0) for _ in range(12)]
    assert waits[:3] == [FIRST_BACKOFF_SECONDS, 2 * FIRST_BACKOFF_SECONDS, 4 * FIRST_BACKOFF_SECONDS]
    assert waits[-1] == LONGEST_BACKOFF_SECONDS
    queue.succeeded("a")
    assert queue.retry("a", 0) == FIRST_BACKOFF_SECONDS


def test_back_off_is_per_key_and_jittered() -> None:
    queue = schedule(jitter=0.0)
    queue.retry("a", 0)
    assert queue.retry("a", 0) == FIRST_BACKOFF_SECONDS
    assert queue.retry("b", 0) == FIRST_BACKOFF_SECONDS / 2


def test_a_server_that_asks_for_patience_gets_it() -> None:
    queue = schedule()
    assert queue.retry("a", 100, at_least=7) == 7
    assert queue.next_due() == 107


def test_an_event_does_not_wait_for_the_back_off() -> None:
    queue = schedule()
    queue.retry("a", 0)
    queue.add("a")
    assert all_due(queue, 0) == ["a"]


def test_many_stale_timers_leave_nothing_behind() -> None:
    queue = schedule()
    for when in range(1000, 0, -1):
        queue.add_at("a", when)
    queue.add("a")
    assert all_due(queue, 0) == ["a"]
    assert queue.next_due() is None
    assert not queue._timers


def test_a_key_that_is_looked_at_often_does_not_gather_timers() -> None:
    queue = schedule()
    for now in range(5000):  # a job that trains, whose deadline moves on with each report
        queue.add("a")
        assert all_due(queue, now) == ["a"]
        queue.add_at("a", now + 604_800)
    assert len(queue._timers) < 100
    assert queue.next_due() == 4999 + 604_800
    assert all_due(queue, 4999 + 604_800) == ["a"]


async def _give(queue: WorkQueue[str], act: Callable[[], object]) -> str | None:
    taker = asyncio.create_task(queue.get())
    await asyncio.sleep(0)
    assert not taker.done()
    act()
    return await asyncio.wait_for(taker, 5)


@pytest.mark.parametrize(
    "act",
    [
        pytest.param(lambda queue: queue.add("a"), id="named"),
        pytest.param(lambda queue: queue.add("a", after=0.01), id="named for later"),
        pytest.param(lambda queue: (queue.add("a", after=600), queue.add("a", after=0.01)), id="named for earlier"),
        pytest.param(lambda queue: queue.retry("a"), id="retried"),
    ],
)
def test_a_waiting_worker_wakes_up(act: Callable[[WorkQueue[str]], object]) -> None:
    async def work() -> str | None:
        queue: WorkQueue[str] = WorkQueue()
        return await _give(queue, lambda: act(queue))

    assert asyncio.run(work()) == "a"


def test_closing_sends_workers_home() -> None:
    async def work() -> str | None:
        queue: WorkQueue[str] = WorkQueue()
        return await _give(queue, queue.close)

    assert asyncio.run(work()) is None


def test_many_workers_share_many_keys() -> None:
    async def work() -> list[str]:
        queue: WorkQueue[str] = WorkQueue()
        at_work: set[str] = set()
        seen: list[str] = []

        async def worker() -> None:
            while (key := await queue.get()) is not None:
                assert key not in at_work
                at_work.add(key)
                await asyncio.sleep(0)
                if seen.count(key) < 2:
                    queue.add(key)
                at_work.remove(key)
                seen.append(key)
                queue.done(key)
                if len(seen) == 300:
                    queue.close()

        for number in range(100):
            queue.add(str(number))
        await asyncio.gather(*(worker() for _ in range(8)))
        return seen

    seen = asyncio.run(work())
    assert {seen.count(key) for key in seen} == {3}
