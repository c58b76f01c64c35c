"""How the process ends where two things end it at once."""

from __future__ import annotations

import asyncio

from aiohttp import web
from operator_edge.fake_server import connected

from kubooth_operator.leader import LeaseLostError
from kubooth_operator.main import WORKING, Options, _Operator
from kubooth_operator.metrics import Metrics
from kubooth_operator.plan import Clock, Observed, Plan, Settings


async def _no_answer(_: web.Request) -> web.Response:
    return web.Response(status=503)


def _nothing(observed: Observed, settings: Settings, clock: Clock) -> Plan:
    return Plan()


def test_told_to_end_while_the_lease_is_lost_it_does_not_wait_for_ever() -> None:
    """The workers are gone with the Lease: nobody says any more that the passes under way have ended."""
    options = Options(
        trainer_image="trainer:1",
        lease_namespace="ns",
        identity="me",
        workers=1,
        health_port=0,
        leader_election=True,
    )

    async def lose() -> None:
        raise LeaseLostError("you holds the lease")

    async def end() -> bool:
        async with connected(_no_answer) as api:
            operator = _Operator(options, _nothing, api, Metrics("1"))
            operator._state = WORKING
            work = asyncio.create_task(lose())
            await asyncio.wait_for(operator._drain(work), 30)
            return isinstance(work.exception(), LeaseLostError)

    assert asyncio.run(end())
