"""The client against a server that answers what an API server does not."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import urllib.request

import pytest
from aiohttp import web
from operator_edge.fake_server import connected

from kubooth_operator import client
from kubooth_operator.cache import Store
from kubooth_operator.client import IdleError, TemporaryError
from kubooth_operator.kinds import POD
from kubooth_operator.watch import Watch

PAGE = "<html>Please log in</html>"


@pytest.mark.parametrize("text", [PAGE, "", "[1]", '{"kind": "PodLi'])
def test_an_answer_that_is_none_is_a_matter_of_time(text: str) -> None:
    async def handler(_: web.Request) -> web.Response:
        return web.Response(text=text, content_type="text/html")

    async def ask() -> None:
        async with connected(handler) as api:
            await api.get("/version")

    with pytest.raises(TemporaryError, match="not what an API server answers"):
        asyncio.run(ask())


def test_a_watch_goes_on_after_a_line_that_was_cut_short() -> None:
    """The line is asked for again: nothing is lost, and the operator does not end."""
    seen: list[str] = []
    all_there = asyncio.Event()

    def added(name: str, version: str) -> str:
        metadata = {"namespace": "ns", "name": name, "uid": name, "resourceVersion": version}
        return json.dumps({"type": "ADDED", "object": {"apiVersion": "v1", "kind": "Pod", "metadata": metadata}})

    async def handler(request: web.Request) -> web.Response:
        if "watch" not in request.query:
            return web.json_response({"metadata": {"resourceVersion": "10"}, "items": []})
        first = request.query["resourceVersion"] == "10"
        return web.Response(text=f"{added('a', '11')}\n{added('b', '12')[:40]}" if first else added("b", "12") + "\n")

    async def follow() -> None:
        async with connected(handler) as api:
            store = Store()

            def note(pod: dict[str, dict[str, str]]) -> None:
                seen.append(pod["metadata"]["name"])
                if "b" in seen:
                    all_there.set()

            running = asyncio.create_task(Watch(api, POD, store, note).run())
            reached = asyncio.create_task(all_there.wait())
            await asyncio.wait({running, reached}, return_when=asyncio.FIRST_COMPLETED, timeout=30)
            assert not running.done() or running.exception() is None
            running.cancel()
            reached.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await running

    asyncio.run(follow())
    assert seen[:2] == ["a", "b"]


def test_a_log_whose_connection_is_silent_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kubooth_operator.client._IDLE_SECONDS", 0.05)
    done = asyncio.Event()

    async def handler(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        await response.write(b"a line\n")
        await done.wait()
        return response

    lines: list[str] = []

    async def read() -> None:
        async with connected(handler) as api:
            try:
                async for line in api.lines("/log", {}):
                    lines.append(line)
            finally:
                done.set()

    with pytest.raises(IdleError):
        asyncio.run(read())
    assert lines == ["a line"]


@pytest.mark.parametrize("name", ["NO_PROXY", "no_proxy"])
@pytest.mark.parametrize("given", [None, "10.0.0.0/8,.svc", "10.0.0.1", "*"])
def test_the_api_server_of_a_pod_is_not_behind_its_proxy(
    monkeypatch: pytest.MonkeyPatch, name: str, given: str | None
) -> None:
    """As aiohttp sees it, by the standard library."""
    for each in ("NO_PROXY", "no_proxy"):
        monkeypatch.setenv(each, "")  # put back afterwards, whatever becomes of it
        monkeypatch.delenv(each)
    if given is not None:
        monkeypatch.setenv(name, given)
    monkeypatch.setenv("HTTPS_PROXY", "http://proxy.example:3128")
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.0.0.1")
    monkeypatch.setattr(client.kube_config, "load_incluster_config", lambda **_: None)
    for _ in range(2):
        client._in_cluster(client.Configuration())
    assert urllib.request.proxy_bypass("10.0.0.1")
    assert os.environ.get(name, "10.0.0.1").count("10.0.0.1") == (given != "*")
    assert urllib.request.proxy_bypass("s3.example") == (given == "*")


def test_a_watch_that_ends_at_once_is_opened_again_after_a_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    pauses: list[float] = []
    rested = asyncio.Event()

    async def rest(pause: float) -> float:
        pauses.append(pause)
        if len(pauses) == 3:
            rested.set()
        await asyncio.sleep(0)
        return pause * 2

    async def handler(request: web.Request) -> web.Response:
        if "watch" in request.query:
            return web.Response()
        return web.json_response({"metadata": {"resourceVersion": "10"}, "items": []})

    async def follow() -> None:
        async with connected(handler) as api:
            running = asyncio.create_task(Watch(api, POD, Store(), lambda _: None).run())
            await asyncio.wait_for(rested.wait(), 30)
            running.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await running

    monkeypatch.setattr("kubooth_operator.watch.take_rest", rest)
    asyncio.run(follow())
    assert pauses[:3] == [0.1, 0.2, 0.4]
