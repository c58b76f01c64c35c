"""Many jobs at once, and quiet when they are done. `bench/many_jobs.py` does it with 200 and writes figures down."""

from __future__ import annotations

import time

from bed.jobs import Bench, job
from bed.kubelet import Kubelet, succeed
from bed.operator_process import Operator

JOBS = 20
QUIET_SECONDS = 2.0


def test_twenty_jobs_at_once(operator: Operator, bench: Bench) -> None:
    names = [f"job-{number}" for number in range(JOBS)]
    operator.proxy.calls.clear()
    with Kubelet(bench.rest, succeed, bench.namespace):
        for name in names:
            bench.create(job(name))
        for name in names:
            bench.wait_for_phase("Succeeded", name, seconds=120)
    ended = time.monotonic()
    deadline = ended + QUIET_SECONDS
    while time.monotonic() < deadline:
        time.sleep(0.1)
    assert operator.proxy.writes(bench.namespace, since=ended) == [], "a finished job is not written again"
    writes = [call for call in operator.proxy.writes(bench.namespace) if call.resource != "events"]
    # Seven children; accepted, perhaps running, succeeded.
    assert 9 * JOBS <= len(writes) <= 10 * JOBS, len(writes) / JOBS
    assert {bench.status(name)["attempts"] for name in names} == {1}
