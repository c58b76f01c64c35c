"""Between a client and the API server: writes down every call, and misbehaves on request.

    with api_proxy(plane.endpoint, plane.ca) as proxy:
        proxy.rules.append(Rule(lambda call: call.verb == "create", times=1, after=lambda call: operator.kill()))

The client speaks plain HTTP to `proxy.endpoint`; its token is passed on. A server that is down looks like a connection
that breaks.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
from aiohttp import web

_OWN = {"host", "connection", "transfer-encoding", "content-length", "content-encoding", "date", "keep-alive"}
_VERBS = {"POST": "create", "PUT": "update", "PATCH": "patch"}


@dataclass(frozen=True)
class Call:
    """One request, in the words of RBAC."""

    at: float
    verb: str
    group: str
    resource: str  # with a subresource: personalizationjobs/status
    namespace: str
    name: str
    agent: str
    path: str

    @property
    def is_write(self) -> bool:
        return self.verb not in ("get", "list", "watch")


@dataclass
class Rule:
    """What happens to the next `times` calls that `match`."""

    match: Callable[[Call], bool]
    times: int = 1
    answer: int | None = None  # this status instead of asking the server
    headers: dict[str, str] = field(default_factory=dict)  # of that answer
    before: Callable[[Call], object] | None = None  # called before the server hears of it
    after: Callable[[Call], object] | None = None  # called when the server has done it, before the client hears of it
    cut: bool = False  # the client hears nothing


class ApiProxy:
    """Filled by a thread of its own; tests only read, and add rules."""

    def __init__(self, upstream: str, ca: Path) -> None:
        self.endpoint = ""
        self.calls: list[Call] = []
        self.rules: list[Rule] = []
        self._upstream = upstream
        self._context = ssl.create_default_context(cafile=str(ca))
        self._session: aiohttp.ClientSession | None = None
        self._watches: dict[int, web.Request] = {}  # requests are mappings: a set will not have them
        self._loop: asyncio.AbstractEventLoop | None = None

    def writes(self, namespace: str | None = None, *, since: float = 0.0) -> list[Call]:
        """Writes to anything but the Lease; in one namespace, since jobs of other tests may be on their way too."""
        return [
            call
            for call in list(self.calls)
            if call.is_write and call.at > since and call.resource != "leases" and namespace in (None, call.namespace)
        ]

    def drop_watches(self) -> None:
        """Breaks every watch that is open."""
        assert self._loop
        self._loop.call_soon_threadsafe(lambda: [_broken(request) for request in list(self._watches.values())])

    async def handle(self, request: web.Request) -> web.StreamResponse:
        call = _call(request)
        body = await request.read()
        self.calls.append(call)
        rule = next((rule for rule in self.rules if rule.times > 0 and rule.match(call)), None)
        if rule:
            rule.times -= 1
            if rule.before:
                await asyncio.to_thread(rule.before, call)
            if rule.answer:
                status = {"kind": "Status", "apiVersion": "v1", "code": rule.answer, "message": "so the test wants it"}
                return web.json_response(status, status=rule.answer, headers=rule.headers)
        return await self._pass_on(request, body, rule, call)

    async def _pass_on(self, request: web.Request, body: bytes, rule: Rule | None, call: Call) -> web.StreamResponse:
        assert self._session
        headers = {name: value for name, value in request.headers.items() if name.lower() not in _OWN}
        try:
            async with self._session.request(
                request.method, self._upstream + request.raw_path, data=body or None, headers=headers
            ) as answer:
                kept = {name: value for name, value in answer.headers.items() if name.lower() not in _OWN}
                if rule and (rule.after or rule.cut):
                    await answer.read()
                    if rule.after:
                        await asyncio.to_thread(rule.after, call)
                    if rule.cut:
                        return _broken(request)
                if "watch" not in request.query:
                    return web.Response(body=await answer.read(), status=answer.status, headers=kept)
                return await self._stream(request, answer, kept)
        except (aiohttp.ClientError, ConnectionError):
            return _broken(request)

    async def _stream(
        self, request: web.Request, answer: aiohttp.ClientResponse, headers: dict[str, str]
    ) -> web.StreamResponse:
        stream = web.StreamResponse(status=answer.status, headers=headers)
        self._watches[id(request)] = request
        try:
            await stream.prepare(request)
            async for chunk in answer.content.iter_any():
                await stream.write(chunk)
        finally:
            del self._watches[id(request)]
        return stream

    async def serve(self, started: Callable[[str], None], stopping: asyncio.Event) -> None:
        self._loop = asyncio.get_running_loop()
        app = web.Application(client_max_size=2**24)
        app.router.add_route("*", "/{path:.*}", self.handle)
        runner = web.AppRunner(app, access_log=None, handler_cancellation=True, shutdown_timeout=0.1)
        connector = aiohttp.TCPConnector(ssl=self._context, limit=0)
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=5)
        async with aiohttp.ClientSession(connector=connector, timeout=timeout, auto_decompress=False) as self._session:
            await runner.setup()
            site = web.TCPSite(runner, "127.0.0.1", 0)
            await site.start()
            host, port = runner.addresses[0][:2]
            started(f"http://{host}:{port}")
            await stopping.wait()
            await runner.cleanup()


@contextlib.contextmanager
def api_proxy(upstream: str, ca: Path) -> Iterator[ApiProxy]:
    """A proxy for the time of the block."""
    proxy = ApiProxy(upstream, ca)
    ready = threading.Event()
    ends: dict[str, Any] = {}

    async def main() -> None:
        ends.update(loop=asyncio.get_running_loop(), stopping=asyncio.Event())

        def started(endpoint: str) -> None:
            proxy.endpoint = endpoint
            ready.set()

        await proxy.serve(started, ends["stopping"])
        await asyncio.sleep(0.1)  # in which the loop says good-bye on connections that were closed

    thread = threading.Thread(target=lambda: asyncio.run(main()), name="api proxy")
    thread.start()
    try:
        assert ready.wait(60)
        yield proxy
    finally:
        ends["loop"].call_soon_threadsafe(ends["stopping"].set)
        thread.join(20)


def _broken(request: web.Request) -> web.Response:
    if request.transport:
        request.transport.abort()
    return web.Response()


def _call(request: web.Request) -> Call:
    parts = request.path.strip("/").split("/")
    group, rest = ("", parts[2:]) if parts[0] == "api" else (parts[1] if len(parts) > 1 else "", parts[3:])
    namespace = ""
    if len(rest) > 2 and rest[0] == "namespaces":
        namespace, rest = rest[1], rest[2:]
    resource, name, subresource = ([*rest, "", "", ""])[:3]
    if request.method == "GET":
        verb = "watch" if "watch" in request.query else "get" if name or not resource else "list"
    elif request.method == "DELETE":
        verb = "delete" if name else "deletecollection"
    else:
        verb = _VERBS[request.method]
    full = f"{resource}/{subresource}" if subresource else resource
    agent = request.headers.get("User-Agent", "")
    return Call(time.monotonic(), verb, group, full, namespace, name, agent, request.path)
