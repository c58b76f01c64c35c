"""An HTTP server that plays an API server by a script, and the operator's own client connected to it."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable

from aiohttp import web
from kubernetes.aio.client import ApiClient, Configuration

from kubooth_operator.client import Api

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@contextlib.asynccontextmanager
async def served(handler: Handler) -> AsyncIterator[str]:
    """The address of a server that answers every request by `handler`."""
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", handler)
    runner = web.AppRunner(app, shutdown_timeout=0)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


@contextlib.asynccontextmanager
async def connected(handler: Handler) -> AsyncIterator[Api]:
    """A client of such a server."""
    async with served(handler) as server:
        configuration = Configuration()
        configuration.host = server
        api = Api(ApiClient(configuration))
        try:
            yield api
        finally:
            await api.close()


def not_found() -> web.Response:
    return web.json_response({"kind": "Status", "reason": "NotFound", "message": "not found"}, status=404)
