"""Worlds that several tests begin with, and short questions to them."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Any

from simulation.world import Behaviour, Ending, World

from kubooth_operator.plan import Manifest

TWO_NODES: dict[str, Any] = {"parallelism": {"nodes": 2}, "training": {"batchSize": 2}}
CRASH = Ending(after=20, code=70, reason="TrainerCrashed", message="a bug")
LONG = Ending(after=100_000)


def two_nodes(script: Callable[[int], Behaviour] = lambda attempt: Behaviour(), **run_policy: Any) -> World:
    return World(spec={**TWO_NODES, "runPolicy": run_policy}, script=script)


def fails_first(times: int, ending: Ending = CRASH) -> Callable[[int], Behaviour]:
    """The first attempts fail, then one succeeds."""
    return lambda attempt: Behaviour(endings={0: ending}) if attempt <= times else Behaviour()


def running(world: World) -> World:
    """The world once the job's pods run."""
    world.run(until=lambda: world.phase == "Running")
    return world


def child(world: World, kind: str) -> Manifest:
    return next(each for each in world.children.values() if each["kind"] == kind)


def reasons(world: World) -> list[str]:
    return [each.reason for each in world.announced]


def seconds_between(start: str, end: str) -> float:
    return (datetime.fromisoformat(end) - datetime.fromisoformat(start)).total_seconds()
