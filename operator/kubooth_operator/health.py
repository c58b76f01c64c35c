"""Answers the kubelet's probes: `/healthz` while the loop turns, `/readyz` once the operator can do its part; and
Prometheus: `/metrics`.

A standby is ready. An API server that does not answer makes neither fail: a restart would mend nothing.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable
from typing import Final

from aiohttp import web

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"


@contextlib.asynccontextmanager
async def serving(
    port: int, *, is_ready: Callable[[], bool], state: Callable[[], str], metrics: Callable[[], bytes]
) -> AsyncIterator[None]:
    """Serves on all addresses for the time of the block; port 0 serves nothing. `state` is shown to who asks."""
    if port == 0:
        yield
        return

    async def healthz(_: web.Request) -> web.Response:
        return web.Response(text=f"ok: {state()}\n")

    async def readyz(_: web.Request) -> web.Response:
        ready = is_ready()
        return web.Response(text=f"{'ok' if ready else 'starting'}: {state()}\n", status=200 if ready else 503)

    async def exposed(_: web.Request) -> web.Response:
        return web.Response(body=metrics(), headers={"Content-Type": CONTENT_TYPE})

    app = web.Application()
    app.add_routes([web.get("/healthz", healthz), web.get("/readyz", readyz), web.get("/metrics", exposed)])
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    try:
        await web.TCPSite(runner, port=port).start()
        yield
    finally:
        await runner.cleanup()
