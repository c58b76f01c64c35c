"""The Lease against a server that reads and does not write."""

from __future__ import annotations

import asyncio

from aiohttp import web
from operator_edge.fake_server import connected, not_found

from kubooth_operator.leader import Lease


def test_a_server_that_took_no_writes_counts_as_having_been_out_of_reach() -> None:
    """As with a full etcd: reads are answered all the while, and no trainer's heartbeat is taken."""
    takes_writes = True

    async def handler(request: web.Request) -> web.Response:
        if request.method == "GET":
            return not_found()
        if not takes_writes:
            return web.json_response({"message": "etcdserver: mvcc: database space exceeded"}, status=500)
        body = await request.json()
        return web.json_response({**body, "metadata": {**body["metadata"], "resourceVersion": "1"}})

    async def act() -> None:
        nonlocal takes_writes
        async with connected(handler) as api:
            lease = Lease(api, "ns", "me")
            assert await lease._try()
            taken_over = api.reach.since
            assert await lease._try()
            assert api.reach.since == taken_over
            takes_writes = False
            assert not await lease._try()
            takes_writes, api.reach._last_write = True, api.reach._last_write - 11
            assert await lease._try()
            assert api.reach.since > taken_over

    asyncio.run(act())
