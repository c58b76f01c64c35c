"""Many jobs at once, and quiet when they are done. `bench/many_jobs.py` does it with 200 and writes figures down."""

from __future__ import annotations

from bed.jobs import Bench, job
from bed.kubelet import Kubelet, succeed
from bed.operator_process import Operator

JOBS = 20


def test_twenty_jobs_at_once(operator: Operator, bench: Bench) -> None:
    names = [f"job-{number}" for number in range(JOBS)]
    operator.proxy.calls.clear()
    with Kubelet(bench.rest, succeed, bench.namespace):
        for name in names:
            bench.create(job(name))
        for name in names:
            bench.wait_for_phase("Succeeded", name, seconds=120)
    operator.wait_for_rest(bench.namespace)
    writes = [call for call in operator.proxy.writes(bench.namespace) if call.resource != "events"]
    events = bench.rest.items(f"/api/v1/namespaces/{bench.namespace}/events")
    late = {event["involvedObject"]["name"] for event in events if event["reason"] == "PodsNotCreated"}
    # Seven children; accepted, perhaps running, succeeded; and twice more where pods took ten seconds to be created.
    assert 9 * JOBS <= len(writes) <= 10 * JOBS + 2 * len(late), len(writes) / JOBS
    assert {bench.status(name)["attempts"] for name in names} == {1}
