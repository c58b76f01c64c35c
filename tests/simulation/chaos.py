"""Faults for a world, from a seed; then peace, in which the job must come to its end."""

from __future__ import annotations

import contextlib
import random
from datetime import timedelta

from simulation.world import World, ended

from kubooth_operator.plan import Observed


class KilledError(Exception):
    """The operator was killed."""


class Chaos:
    """Faults, from a seed: kills between writes, old views, deletions, evictions, silent nodes, a queue, suspension."""

    def __init__(self, world: World, seed: int) -> None:
        self.world, self.random = world, random.Random(seed)
        self.old: list[Observed] = []
        self.left = 40  # faults; then the world is left in peace and must come to its end

    def happens(self, probability: float) -> bool:
        if self.left <= 0 or self.random.random() >= probability:
            return False
        self.left -= 1
        return True

    def step(self) -> None:
        """One second with one pass of the operator, or none."""
        world = self.world
        world.before_write = self._before_write
        fresh = world.observe()
        self.old = [*self.old[-6:], fresh]
        # A cache lags behind by parts: the job may be newer than the children, and the other way about.
        children = self.random.choice(self.old).children if self.happens(0.1) else fresh.children
        pods = self.random.choice(self.old).pods if self.happens(0.1) else fresh.pods
        job = self.random.choice(self.old).job if self.happens(0.1) else fresh.job
        observed = Observed(job=job, runtime=fresh.runtime, children=children, pods=pods, taken=fresh.taken)
        with contextlib.suppress(KilledError):
            world.carry_out(world.plan(observed), observed)
        if world.job is None:
            return
        if self.happens(0.03) and world.children:
            world.delete(self.random.choice(list(world.children)))
        if self.happens(0.02) and (live := [each for each in world.pods.values() if not ended(each)]):
            world.evict(self.random.choice(live))
        if self.happens(0.01):
            self._toggle_queue()
        if self.happens(0.01):
            world.dead_nodes ^= {"node-1"}
        if self.happens(0.02):
            world.edit(suspend=not world.job["spec"].get("suspend", False))
        if self.left <= 0:
            world.dead_nodes.clear()
            self._release_queue()
            if world.job["spec"].get("suspend"):
                world.edit(suspend=False)
        world.now += timedelta(seconds=1)
        world.tick()

    def _toggle_queue(self) -> None:
        """A queue takes the devices back, or gives them again."""
        self.world.hold_jobs = not self.world.hold_jobs
        for child in self.world.children.values():
            if child["kind"] == "Job":
                child["spec"]["suspend"] = self.world.hold_jobs

    def _release_queue(self) -> None:
        if self.world.hold_jobs:
            self._toggle_queue()

    def _before_write(self) -> None:
        if self.happens(0.05):
            raise KilledError
