"""Whatever happens to the operator, its children and its cache: a job comes to its end, once, and nothing is left over.

A seed decides when the operator is killed between two writes, when it sees an old state, which children are deleted,
which pods are evicted and when the job is suspended. `simulation.world` checks after every write that attempts and
restarts grow one by one, that no two attempts live at once, and that a finished job is not written again.
"""

from __future__ import annotations

import random

import pytest
from simulation.chaos import Chaos
from simulation.world import Behaviour, Ending, World, ended

MOST_SECONDS = 6000


@pytest.mark.parametrize("seed", range(12))
def test_a_job_comes_to_its_end(seed: int) -> None:
    live_through(seed)


@pytest.mark.soak
@pytest.mark.parametrize("seed", range(12, 300))
def test_a_job_comes_to_its_end_whatever_happens(seed: int) -> None:
    live_through(seed)


def live_through(seed: int) -> None:
    """One job under faults; then the world is left in peace, and nothing more may be written."""
    world = World(
        spec={"parallelism": {"nodes": 2}, "training": {"batchSize": 2}, "runPolicy": {"maxRestarts": 100}},
        script=lambda attempt: behaviour(seed, attempt),
    )
    chaos = Chaos(world, seed)
    for _ in range(MOST_SECONDS):
        chaos.step()
        if world.phase in {"Succeeded", "Failed"}:
            break
    assert world.phase == "Succeeded", world.describe()
    end = world.status
    chaos.left = 0
    for _ in range(20):
        chaos.step()
    world.settle()
    assert world.plan().writes_nothing
    assert world.status == end
    assert all(ended(pod) for pod in world.pods.values())
    announced = [each.reason for each in world.announced]
    assert announced.count("Succeeded") <= 1 and announced.count("Started") <= 1


def behaviour(seed: int, attempt: int) -> Behaviour:
    """What the pods of an attempt do: the first eight may fail."""
    chance = random.Random(f"{seed}/{attempt}")
    if attempt <= 8 and chance.random() < 0.3:
        reason = chance.choice(["", "TrainerCrashed", "DiskFull"])
        ending = Ending(after=chance.randrange(1, 40), code=chance.choice([70, 75, 137]), reason=reason)
        return Behaviour(endings={chance.randrange(2): ending})
    return Behaviour(every=Ending(after=chance.randrange(5, 60)))
