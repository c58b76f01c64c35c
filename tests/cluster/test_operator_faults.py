"""Whatever happens to the operator or to the API server, a job ends in the state it would have ended in."""

from __future__ import annotations

import random
import signal
import time
from collections import Counter
from typing import Any

import pytest
from bed import kubelet
from bed.apiproxy import Call, Rule
from bed.controlplane import ControlPlane
from bed.eventually import eventually
from bed.jobs import Bench, job
from bed.kubelet import Kubelet
from bed.operator_process import SYSTEM_NAMESPACE, Operator
from bed.rest import Rest

LEASE = f"/apis/coordination.k8s.io/v1/namespaces/{SYSTEM_NAMESPACE}/leases/kubooth-operator"


def is_write(call: Call) -> bool:
    return call.is_write and call.resource not in ("leases", "events")


def end_state(bench: Bench, name: str = "rex") -> dict[str, Any]:
    """What is left of a finished job, without what no two runs have in common."""
    whole = bench.job(name)
    status = without_times({key: value for key, value in whole["status"].items() if not key.endswith("Seconds")})
    status["runtimeSnapshot"].pop("uid")
    children = {which: child.get("rules") or sorted(child.get("data", ())) for which, child in bench.children().items()}
    return {"status": status, "children": children, "pods": len(bench.pods())}


def without_times(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: without_times(each) for key, each in value.items() if not key.endswith("Time")}
    return [without_times(each) for each in value] if isinstance(value, list) else value


@pytest.fixture(scope="module")
def undisturbed() -> dict[str, Any]:
    """End states by what was run, for tests to compare with."""
    return {}


def life(bench: Bench, name: str = "rex", **options: Any) -> dict[str, Any]:
    bench.create(job(name, **options))
    with Kubelet(bench.rest, kubelet.succeed, bench.namespace):
        bench.wait_for_phase("Succeeded", name, seconds=90)
    return end_state(bench, name)


def test_a_life_without_faults(operator: Operator, bench: Bench, undisturbed: dict[str, Any]) -> None:
    operator.proxy.calls.clear()
    undisturbed["state"] = life(bench)
    writes = Counter((call.verb, call.resource) for call in operator.proxy.writes(bench.namespace) if is_write(call))
    once_more = writes["patch", "personalizationjobs/status"] - 2  # where Running was seen before it was over
    assert once_more in (0, 1)
    assert writes == Counter({("patch", "personalizationjobs/status"): once_more}) + Counter(
        (verb, resource) for verb, resource, _ in WRITES
    )
    assert undisturbed["state"]["status"]["attempts"] == 1
    assert undisturbed["state"]["pods"] == 1


WRITES = [  # of a life without faults, in order: verb, resource and which one of those
    ("patch", "personalizationjobs/status", 1),
    ("create", "serviceaccounts", 1),
    ("create", "networkpolicies", 1),
    ("create", "services", 1),
    ("create", "roles", 1),
    ("create", "rolebindings", 1),
    ("create", "configmaps", 1),
    ("create", "jobs", 1),
    ("patch", "personalizationjobs/status", 2),
]
SOME = (0, 4, 7, 8)
KILLS = [
    pytest.param(when, kills, id=f"{when}-{name}", marks=marks)
    for when in ("before", "after")
    for name, kills, marks in (
        ("some", tuple(WRITES[index] for index in SOME), ()),
        ("others", tuple(write for index, write in enumerate(WRITES) if index not in SOME), pytest.mark.soak),
    )
]


@pytest.mark.parametrize(("when", "kills"), KILLS)
def test_killed_at_a_write(
    operator: Operator, bench: Bench, undisturbed: dict[str, Any], when: str, kills: tuple[tuple[str, str, int], ...]
) -> None:
    """SIGKILL before the server hears of a write, or when it has done it and the operator does not know."""
    seen: Counter[tuple[str, str]] = Counter()
    left = list(kills)

    def is_due(call: Call) -> bool:
        if not is_write(call) or call.namespace != bench.namespace:
            return False
        which = (call.verb, call.resource)
        seen[which] += 1
        return (*which, seen[which]) in left

    def die(call: Call) -> None:
        which = (call.verb, call.resource)
        left.remove((*which, seen[which]))
        seen[which] -= when == "before"  # it is made again
        operator.kill()

    # An answer: else the proxy may pass a write on before it sees that who sent it is gone.
    operator.proxy.rules.append(Rule(is_due, times=len(kills), answer=503 if when == "before" else None, **{when: die}))
    bench.create(job())
    with Kubelet(bench.rest, kubelet.succeed, bench.namespace):
        deadline = time.monotonic() + 120
        while left or bench.status().get("phase") != "Succeeded":
            assert time.monotonic() < deadline, (left, bench.status(), operator.log[-3000:])
            if not operator.is_running:
                operator.start(until="")
            time.sleep(0.05)
    if undisturbed:
        assert end_state(bench) == undisturbed["state"]


def test_killed_at_random_instants(operator: Operator, bench: Bench, undisturbed: dict[str, Any]) -> None:
    random_ = random.Random(7)
    bench.create(job())
    with Kubelet(bench.rest, kubelet.succeed, bench.namespace):
        for _ in range(4):
            operator.kill()
            operator.start(until="")
            time.sleep(random_.uniform(0.5, 3.0))
        if not operator.is_running:
            operator.start()
        bench.wait_for_phase("Succeeded", seconds=60)
    if undisturbed:
        assert end_state(bench) == undisturbed["state"]


@pytest.mark.parametrize(
    "fault",
    [
        pytest.param({"answer": 429, "headers": {"Retry-After": "1"}}, id="throttled"),
        pytest.param({"answer": 500}, id="server error"),
        pytest.param({"answer": 503}, id="unavailable"),
        pytest.param({"answer": 409}, id="conflict"),
        pytest.param({"answer": 403}, id="forbidden for a moment"),
        pytest.param({"cut": True}, id="answers lost"),
    ],
)
def test_calls_that_fail(operator: Operator, bench: Bench, undisturbed: dict[str, Any], fault: dict[str, Any]) -> None:
    """Every second write fails, the first ones and some later ones."""
    count = 0

    def every_second(call: Call) -> bool:
        nonlocal count
        if not is_write(call) or call.namespace != bench.namespace:
            return False
        count += 1
        return count % 2 == 1

    times = 2 if fault.get("answer") == 403 else 6
    operator.proxy.rules.append(Rule(every_second, times=times, **fault))
    pid = operator.pid
    state = life(bench)
    if undisturbed:
        assert state == undisturbed["state"]
    assert operator.pid == pid and operator.is_running


def test_watches_that_are_too_old_begin_anew(operator: Operator, bench: Bench) -> None:
    """410 on every watch, and what was deleted while nobody watched is missed all the same."""
    bench.create(job())
    bench.wait_for_pods()
    operator.proxy.rules.append(Rule(lambda call: call.verb == "watch", times=20, answer=410))
    operator.proxy.drop_watches()
    before = bench.children()
    for kind, name in before:
        bench.rest.delete(bench.child_path(kind, name), propagationPolicy="Background")
    eventually(
        lambda: {which: child["metadata"]["uid"] for which, child in bench.children().items()}.keys() == before.keys(),
        "all children again",
    )
    bench.rest.delete(bench.job_path())
    eventually(lambda: not bench.children() and not bench.pods(), "nothing left", seconds=90)
    operator.proxy.rules.clear()
    bench.create(job("max"))
    eventually(bench.pods, "a job that came when all was well again", seconds=120)  # watches have backed off


def test_an_outage_of_the_api_server(operator: Operator, bench: Bench, api_server: ControlPlane) -> None:
    bench.create(job())
    bench.wait_for_pods()
    pid, said = operator.pid, len(operator.log)
    api_server.stop_apiserver()
    try:
        time.sleep(8)  # the outage itself
        assert operator.probe("healthz")[0] == 200
        assert operator.probe("readyz")[0] == 200
    finally:
        api_server.start_apiserver()
    with Kubelet(bench.rest, kubelet.succeed, bench.namespace):
        bench.wait_for_phase("Succeeded", seconds=60)
    assert operator.pid == pid and operator.is_running
    log = operator.log[said:]
    assert log.count("the API server does not answer") == 1, log
    assert log.count("the API server answers again") == 1, log


def test_two_replicas_take_turns(operator: Operator, standby: Operator, bench: Bench, rest: Rest) -> None:
    standby.start(until="standing by")
    assert rest.get(LEASE)["spec"]["holderIdentity"] == operator.identity
    bench.create(job("one"))
    bench.wait_for_pods(1)
    operator.proxy.calls.clear()
    killed = time.monotonic()
    operator.kill()
    bench.create(job("two"))
    standby.wait_for_state("working")
    assert time.monotonic() - killed < 40
    bench.wait_for_pods(2)
    assert {call.agent.partition("(")[2] for call in operator.proxy.writes()} == {f"{standby.identity})"}
    operator.start(until="standing by")
    assert standby.stop() == 0
    assert rest.get(LEASE)["spec"]["holderIdentity"] in ("", operator.identity), "the lease was given back"
    operator.wait_for_state("working")


def test_who_loses_the_lease_ends(operator: Operator, rest: Rest) -> None:
    rest.merge(LEASE, {"spec": {"holderIdentity": "somebody-else", "leaseDurationSeconds": 1}})
    assert operator.wait() == 3
    assert "somebody-else holds the lease" in operator.log
    operator.start()


def test_a_lease_that_cannot_be_renewed_stops_writes(operator: Operator, bench: Bench) -> None:
    """The API answers, but not about the Lease: nothing is written until it does."""
    bench.create(job("before"))
    bench.wait_for_pods(1)
    operator.proxy.rules.append(Rule(lambda call: call.resource == "leases", times=10_000, answer=500))
    time.sleep(11)  # what a Lease lasts after its last renewal, less the margin
    operator.proxy.calls.clear()
    bench.create(job("meanwhile"))
    time.sleep(2)
    assert not operator.proxy.writes()
    operator.proxy.rules.clear()
    bench.wait_for_pods(2)
    assert operator.is_running


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_told_to_end_it_ends_soon(operator: Operator, rest: Rest, number: signal.Signals) -> None:
    started = time.monotonic()
    assert operator.end_by(number) == 0
    assert time.monotonic() - started < 6
    assert rest.get(LEASE)["spec"]["holderIdentity"] == ""


def test_logs_say_what_happened_once(operator: Operator, bench: Bench) -> None:
    said = len(operator.log)
    life(bench)
    about = f"job={bench.namespace}/rex"

    def lines() -> list[str]:
        said_of_it = [line for line in operator.log[said:].splitlines() if about in line and " INFO " in line]
        return [line for line in said_of_it if " -> " in line]

    eventually(lambda: " -> Succeeded" in "".join(lines()[-1:]), "the last phase")
    assert " -> Starting" in lines()[0]
    assert len(lines()) == len(set(lines()))
