"""The Lease against a server that reads and does not write, or knows more than the operator."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
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


@pytest.mark.parametrize(("holder", "left"), [("me", ""), ("another", "another")])
def test_it_is_given_back_although_a_renewal_was_cut_short(holder: str, left: str) -> None:
    """SIGTERM may come between a write and its answer: the server has a version that the operator does not know."""
    kept: dict[str, Any] = {}

    async def handler(request: web.Request) -> web.Response:
        if request.method == "GET":
            return web.json_response(kept) if kept else not_found()
        body = await request.json()
        if kept and body["metadata"]["resourceVersion"] != kept["metadata"]["resourceVersion"]:
            return web.json_response({"reason": "Conflict", "message": "the object has been modified"}, status=409)
        version = str(int(body["metadata"].get("resourceVersion", "0")) + 1)
        kept.update({**body, "metadata": {**body["metadata"], "resourceVersion": version}})
        return web.json_response(kept)

    async def act() -> None:
        async with connected(handler) as api:
            lease = Lease(api, "ns", "me")
            assert await lease._try()
            kept["metadata"] = {**kept["metadata"], "resourceVersion": "7"}
            kept["spec"] = {**kept["spec"], "holderIdentity": holder}
            await lease.release()
            assert not lease.is_held

    asyncio.run(act())
    assert kept["spec"]["holderIdentity"] == left
