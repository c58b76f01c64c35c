"""The life of a job under the operator, second by second, against a cluster in memory (`simulator`)."""

from __future__ import annotations

from simulation.world import World


def test_a_job_runs_from_apply_to_succeeded() -> None:
    world = World(spec={"parallelism": {"nodes": 2}, "training": {"batchSize": 2}})
    status = world.run_to_the_end()
    assert (status["phase"], status["attempts"], status.get("restarts")) == ("Succeeded", 1, None)
    assert [each.reason for each in world.announced] == ["Accepted", "Started", "PodsReady", "Succeeded"]
    assert len(world.status_writes) == 3
