"""`kubooth logs`, where a cluster would have to be caught at the moment."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any

import pytest

from kubooth_cli.logs import _Logs
from kubooth_operator.client import IdleError, NotFoundError, TemporaryError


class Node:
    """Has not heard of the pod when it is first asked."""

    def __init__(self) -> None:
        self.asked = 0

    async def lines(self, path: str, query: dict[str, str]) -> AsyncIterator[str]:
        self.asked += 1
        if self.asked == 1:
            raise NotFoundError("pod does not exist", status=404)
        yield "a line"


@pytest.mark.parametrize(("phase", "shown"), [("Pending", True), ("Running", True), ("Succeeded", False)])
def test_a_pod_that_its_node_has_not_heard_of_is_asked_again(
    phase: str, shown: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    node = Node()
    session: Any = SimpleNamespace(api=node, namespace="default")
    logs = _Logs(session, "rex", attempt=None, tail=None, raw=False)
    pod = {"metadata": {"name": "rex-kubooth-1-0-x"}, "status": {"phase": phase}}
    asyncio.run(logs._show(pod, follow=True))
    assert not logs.shown and ("rex-kubooth-1-0-x" in logs._over) != shown
    asyncio.run(logs._show(pod, follow=True))
    assert "a line" in capsys.readouterr().out


# Streams that end before their pod


class Script:
    """Each reading of a pod's log gives one entry: lines, and what they end with. Keeps what it was asked since."""

    def __init__(self, *readings: tuple[list[str], Exception | None]) -> None:
        self.readings = list(readings)
        self.since: list[int | None] = []

    async def lines(self, path: str, query: dict[str, str]) -> AsyncIterator[str]:
        self.since.append(int(query["sinceSeconds"]) if "sinceSeconds" in query else None)
        lines, error = self.readings.pop(0)
        for line in lines:
            yield line
        if error:
            raise error


class Clock:
    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1000.0
        monkeypatch.setattr("kubooth_cli.logs.time", SimpleNamespace(monotonic=lambda: self.now))


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


def logs_of(script: Script) -> _Logs:
    session: Any = SimpleNamespace(api=script, namespace="default")
    return _Logs(session, "rex", attempt=None, tail=None, raw=False)


def pod(name: str = "a", phase: str = "Running", **status: Any) -> dict[str, Any]:
    return {"metadata": {"name": name}, "status": {"phase": phase, **status}}


def test_each_pod_is_asked_for_what_it_has_said_since_its_own_last_line(clock: Clock) -> None:
    lost = TemporaryError("lost")
    script = Script((["a1"], lost), (["b1"], lost), ([], lost), ([], lost))
    logs = logs_of(script)
    asyncio.run(logs._show(pod("a"), follow=True))
    clock.now += 60
    asyncio.run(logs._show(pod("b"), follow=True))
    clock.now += 5
    for name in ("a", "b"):
        asyncio.run(logs._show(pod(name), follow=True))
    assert script.since == [None, None, 66, 6]


def test_a_silent_connection_is_opened_anew_without_a_word(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    script = Script((["a line"], IdleError("idle")), ([], IdleError("idle")), ([], None))
    logs = logs_of(script)
    for _ in script.readings.copy():
        asyncio.run(logs._show(pod(), follow=True))
        clock.now += 150.1
    assert script.since == [None, 150, 150]
    told = capsys.readouterr()
    assert told.out.count("a line") == 1 and not told.err


def test_a_pod_whose_log_ends_is_over_when_it_says_so(clock: Clock) -> None:
    logs = logs_of(Script((["a line"], None)))
    asyncio.run(logs._show(pod(), follow=True))
    terminated = {"name": "trainer", "state": {"terminated": {"exitCode": 0}}}
    assert logs._settles(pod()) and not logs._over
    for over in (pod(phase="Succeeded"), pod(containerStatuses=[terminated])):
        logs._over.clear()
        assert logs._settles(over) and logs._over == {"a"}


def test_a_log_that_a_restarting_node_ended_is_opened_again(clock: Clock) -> None:
    script = Script((["a line"], None), (["more"], None))
    logs = logs_of(script)
    asyncio.run(logs._show(pod(), follow=True))
    clock.now += 4
    assert logs._settles(pod())
    clock.now += 2
    assert not logs._settles(pod()) and not logs._over
    asyncio.run(logs._show(pod(), follow=True))
    assert script.since == [None, 7]
