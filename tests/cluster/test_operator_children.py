"""What the operator makes of a job: the right objects, kept as they should be, and never anybody else's."""

from __future__ import annotations

import time
from typing import Any

import pytest
from bed import kubelet
from bed.controlplane import ControlPlane
from bed.eventually import eventually
from bed.jobs import CHILD_PATHS, Bench, job, limit, runtime
from bed.operator_process import QUIET_SECONDS, TRAINER_IMAGE, Operator
from bed.rest import RUNTIMES, condition

SHARED = ("ServiceAccount", "Role", "RoleBinding", "Service", "NetworkPolicy")
OF_AN_ATTEMPT = ("ConfigMap", "Job")


def names(job_name: str = "rex", attempt: int = 1) -> set[tuple[str, str]]:
    shared = {(kind, f"{job_name}-kubooth") for kind in SHARED}
    return shared | {(kind, f"{job_name}-kubooth-{attempt}") for kind in OF_AN_ATTEMPT}


def settled(bench: Bench, name: str = "rex") -> None:
    """Waits until the job has all its children and its pods."""
    eventually(lambda: names(name) <= set(bench.children()), "all children", tell=lambda: bench.job(name))


def stays_quiet(operator: Operator, bench: Bench, act: Any = lambda: None) -> None:
    """After `act`, whatever passes there are write nothing."""
    operator.proxy.calls.clear()
    act()
    deadline = time.monotonic() + QUIET_SECONDS
    while time.monotonic() < deadline:
        assert not operator.proxy.writes(bench.namespace), operator.proxy.writes(bench.namespace)
        time.sleep(0.05)


def test_children_and_pods_appear(operator: Operator, bench: Bench, api_server: ControlPlane) -> None:
    api_server.kubectl("label", "namespace", bench.namespace, "pod-security.kubernetes.io/enforce=restricted")
    uid = bench.create(job(nodes=2))["metadata"]["uid"]
    pods = bench.wait_for_pods(2)
    children = bench.children()
    assert set(children) == names()
    for child in children.values():
        assert child["metadata"]["labels"]["kubooth.io/job-uid"] == uid
        (owner,) = child["metadata"]["ownerReferences"]
        assert (owner["kind"], owner["uid"], owner["controller"]) == ("PersonalizationJob", uid, True)
        assert not owner.get("blockOwnerDeletion")
    for index, pod in enumerate(sorted(pods, key=lambda pod: pod["metadata"]["name"])):
        assert pod["spec"]["hostname"] == f"rex-kubooth-1-{index}"
        assert pod["spec"]["subdomain"] == "rex-kubooth"
        assert pod["spec"]["containers"][0]["image"] == TRAINER_IMAGE
    status = bench.status()
    assert status["attempts"] == 1
    assert (condition(bench.job(), "Accepted") or {}).get("status") == "True"


def test_passes_with_nothing_to_do_write_nothing(operator: Operator, bench: Bench) -> None:
    bench.create(job())
    pod = bench.wait_for_pods()[0]["metadata"]["name"]
    settled(bench)
    path = f"/api/v1/namespaces/{bench.namespace}/pods/{pod}"

    def touch() -> None:
        bench.rest.merge(bench.job_path(), {"metadata": {"annotations": {"touched": "yes"}}})
        bench.rest.merge(bench.child_path("Job", "rex-kubooth-1"), {"metadata": {"annotations": {"touched": "yes"}}})
        bench.rest.merge(path, {"metadata": {"annotations": {"touched": "yes"}}})

    operator.wait_for_rest(bench.namespace)
    stays_quiet(operator, bench, touch)
    kubelet.run(bench.rest, bench.rest.get(path))  # a pod that does not start would be explained after a minute
    bench.wait_for_phase("Running")
    operator.wait_for_rest(bench.namespace)
    stays_quiet(operator, bench, operator.restart)


def test_children_deleted_by_hand_come_back(operator: Operator, bench: Bench) -> None:
    bench.create(job())
    bench.wait_for_pods()
    settled(bench)
    before = bench.children()
    for kind, name in before:
        bench.rest.delete(bench.child_path(kind, name), propagationPolicy="Background")
    after = eventually(
        lambda: (now := bench.children()).keys() == before.keys() and all(map(is_new(before), now.items())) and now,
        "all children anew",
        tell=lambda: set(before) - set(bench.children()),
    )
    for which, child in after.items():
        assert child.get("data") == before[which].get("data")
        assert child.get("rules") == before[which].get("rules")
    assert bench.status()["attempts"] == 1
    bench.wait_for_pods()


def is_new(before: dict[tuple[str, str], Any]) -> Any:
    return lambda item: item[1]["metadata"]["uid"] != before[item[0]]["metadata"]["uid"]


EDITS: dict[str, dict[str, Any]] = {
    "ServiceAccount": {"metadata": {"labels": {"app.kubernetes.io/name": "other"}}},
    "Role": {"rules": []},
    "RoleBinding": {"subjects": []},
    "Service": {"spec": {"publishNotReadyAddresses": False}},
    "NetworkPolicy": {"spec": {"ingress": [{}]}},
    "ConfigMap": {"metadata": {"labels": {"kubooth.io/job": "other"}}},
    "Job": {"metadata": {"labels": {"app.kubernetes.io/managed-by": "other"}}},
}


def test_children_edited_by_hand_are_put_right(operator: Operator, bench: Bench) -> None:
    bench.create(job())
    bench.wait_for_pods()
    settled(bench)
    before = bench.children()
    for kind, name in before:
        bench.rest.merge(bench.child_path(kind, name), EDITS[kind])
    for which, child in before.items():
        eventually(
            lambda which=which, child=child: essence(bench.rest.get(bench.child_path(*which))) == essence(child),
            f"{which} as it was",
            tell=lambda: operator.log[-6000:],
        )
    assert {each["metadata"]["uid"] for each in before.values()} == {
        each["metadata"]["uid"] for each in bench.children().values()
    }


def essence(manifest: dict[str, Any]) -> dict[str, Any]:
    whole = {
        name: value for name, value in manifest.items() if name not in ("metadata", "status", "kind", "apiVersion")
    }
    return {**whole, "labels": manifest["metadata"]["labels"], "owners": manifest["metadata"]["ownerReferences"]}


@pytest.mark.parametrize("name", ["default", "web", "kubernetes"])
def test_objects_of_others_are_untouched(operator: Operator, bench: Bench, name: str) -> None:
    space = bench.namespace
    foreign = {
        "ServiceAccount": {"metadata": {"name": f"{name}-kubooth"}},
        "Role": {"metadata": {"name": f"{name}-kubooth"}, "rules": []},
        "Service": {"metadata": {"name": f"{name}-kubooth"}, "spec": {"ports": [{"port": 80}]}},
        "ConfigMap": {"metadata": {"name": f"{name}-kubooth-1"}, "data": {"mine": "yes"}},
    }
    for kind, manifest in foreign.items():
        bench.rest.post(CHILD_PATHS[kind].format(space), manifest)
    bench.rest.post(
        CHILD_PATHS["Service"].format(space), {"metadata": {"name": name}, "spec": {"ports": [{"port": 80}]}}
    )
    eventually(
        lambda: bench.rest.find(f"{CHILD_PATHS['ConfigMap'].format(space)}/kube-root-ca.crt"), "the cluster's own"
    )
    before = {kind: bench.rest.get(CHILD_PATHS[kind].format(space))["items"] for kind in foreign}
    bench.create(job(name))
    bench.wait_for_reason("NameTaken", name)
    assert {kind: bench.rest.get(CHILD_PATHS[kind].format(space))["items"] for kind in foreign} == before
    assert not bench.pods()
    for kind, manifest in foreign.items():
        bench.rest.delete(bench.child_path(kind, manifest["metadata"]["name"]))
    bench.touch(name)
    bench.wait_for_pods()
    bench.rest.get(bench.child_path("Service", name))


def test_a_runtime_may_come_later_and_go(operator: Operator, bench: Bench) -> None:
    bench.create(job(runtime="late"))
    waiting = eventually(lambda: condition(bench.job(), "Accepted"), "a verdict", tell=bench.job)
    assert waiting["status"] == "False"
    bench.create_runtime(runtime("late", env=[{"name": "A", "value": "1"}]))
    (pod,) = bench.wait_for_pods()
    assert {"name": "A", "value": "1"} in pod["spec"]["containers"][0]["env"]
    settled(bench)

    def edit_and_delete() -> None:
        bench.rest.merge(f"{RUNTIMES}/late", {"spec": {"env": [{"name": "A", "value": "2"}]}})
        bench.rest.delete(f"{RUNTIMES}/late")

    operator.wait_for_rest(bench.namespace)
    stays_quiet(operator, bench, edit_and_delete)
    assert bench.pods()[0]["metadata"]["uid"] == pod["metadata"]["uid"]
    assert bench.status()["runtimeSnapshot"]["spec"]["env"] == [{"name": "A", "value": "1"}]


def test_a_child_over_quota_is_said_and_made_when_there_is_room(operator: Operator, bench: Bench) -> None:
    quota = limit(bench, "count/services")
    bench.create(job())
    status = bench.wait_for_reason("Refused")
    assert "exceeded quota: tight, requested: count/services=1" in status["message"]
    assert condition({"status": status}, "PodsReady")["reason"] == "Refused"
    bench.rest.delete(quota)
    bench.touch()  # else it waits longer and longer
    bench.wait_for_pods()
    settled(bench)


def test_pods_over_quota_are_said_in_the_cluster_s_words(operator: Operator, bench: Bench) -> None:
    limit(bench, "pods")
    bench.create(job())
    status = bench.wait_for_reason("PodsNotCreated")
    assert "exceeded quota: tight, requested: pods=1" in status["message"]


def test_deleting_a_job_frees_everything(operator: Operator, bench: Bench) -> None:
    bench.create(job())
    bench.wait_for_pods()
    settled(bench)
    assert not bench.job()["metadata"].get("finalizers")
    bench.rest.delete(bench.job_path())
    eventually(lambda: not bench.children() and not bench.pods(), "nothing left", tell=bench.children)


def test_a_job_made_again_at_once_waits_for_the_objects_of_the_old_one(operator: Operator, bench: Bench) -> None:
    bench.create(job())
    settled(bench)
    bench.rest.delete(bench.job_path())
    bench.create(job())
    uid = bench.job()["metadata"]["uid"]

    def is_whole() -> bool:
        children = bench.children()
        owners = {owner["uid"] for child in children.values() for owner in child["metadata"]["ownerReferences"]}
        return names() <= set(children) and owners == {uid}

    # In a control plane that has just started, the garbage collector hears of our kinds after half a minute.
    eventually(is_whole, "children of the new job", seconds=120, tell=bench.status)
    events = bench.rest.get(f"/apis/events.k8s.io/v1/namespaces/{bench.namespace}/events")["items"]
    assert "NameTaken" not in {event["reason"] for event in events}
