"""Children that are missing, changed, left over or in the hands of others, in `simulation.world`."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable
from math import inf
from typing import Any

import pytest
from simulation.scenarios import (
    LONG,
    child,
    reasons,
    running,
    two_nodes,
)
from simulation.world import Behaviour, World, ended, merged

from kubooth_operator.children import ref_of
from kubooth_operator.plan import Manifest, Ref

# Children


@pytest.mark.parametrize("kind", ["ServiceAccount", "NetworkPolicy", "Service", "Role", "RoleBinding", "ConfigMap"])
def test_a_child_deleted_by_hand_is_restored(kind: str) -> None:
    world = running(two_nodes())
    lost = child(world, kind)
    world.delete(ref_of(lost))
    world.settle()
    found = child(world, kind)
    strange = {"uid", "resourceVersion", "creationTimestamp"}
    assert found["metadata"]["uid"] != lost["metadata"]["uid"]
    assert {**found, "metadata": {k: v for k, v in found["metadata"].items() if k not in strange}} == {
        **lost,
        "metadata": {k: v for k, v in lost["metadata"].items() if k not in strange},
    }
    assert world.phase == "Running" and len(world.pods) == 2


def test_a_batch_job_deleted_by_hand_is_made_again_under_its_number_when_its_pods_are_gone() -> None:
    world = running(two_nodes(lambda attempt: Behaviour(every=LONG, stop_seconds=30)))
    old = world.batch_job()
    world.delete(ref_of(old))
    world.settle()
    assert not [each for each in world.children.values() if each["kind"] == "Job"]
    assert (world.phase, world.status["reason"]) == ("Starting", "JobDeleted")
    world.run(120, until=lambda: world.phase == "Running")
    assert world.batch_job()["metadata"]["uid"] != old["metadata"]["uid"]
    assert (world.status["attempts"], world.status.get("restarts")) == (1, None)


def test_a_batch_job_that_is_deleted_again_and_again_ends_its_attempts() -> None:
    world = two_nodes(lambda attempt: Behaviour(every=LONG), maxRestarts=1)
    for _ in range(4):
        world.run(until=lambda: world.phase == "Running")
        world.delete(ref_of(world.batch_job()))
        world.settle()
    status = world.run_to_the_end()
    assert (status["attempts"], status["restarts"], status["failure"]["reason"]) == (2, 1, "JobDeleted")
    assert "something in the cluster keeps deleting it" in status["message"]


ORPHANED: list[tuple[str, float, Callable[[World], Any], str]] = [
    ("while-running", 2, lambda world: None, "Running"),
    ("before-ready", inf, lambda world: None, "Starting"),
    ("suspended", 2, lambda world: world.edit(suspend=True), "Suspended"),
    ("too-long", 2, lambda world: world.edit(runPolicy={"activeDeadlineSeconds": 10}), "Failed"),
]


@pytest.mark.parametrize(("start_after", "happens", "phase"), [c[1:] for c in ORPHANED], ids=[c[0] for c in ORPHANED])
def test_pods_that_their_batch_job_left_behind_are_deleted_after_a_minute(
    start_after: float, happens: Callable[[World], Any], phase: str
) -> None:
    world = two_nodes(lambda attempt: Behaviour(every=LONG, start_after=start_after))
    world.run(5)
    orphans = list(world.pods.values())
    world.orphan(world.batch_job())
    happens(world)
    world.run(50)
    assert len(orphans) == 2 and not any("deletionTimestamp" in each["metadata"] for each in orphans)
    writes = world.writes
    world.run(4)
    assert world.writes == writes, "no more is written while it waits"
    world.run(120, until=lambda: world.phase == phase and all(map(ended, orphans)))
    world.run(5)
    assert (world.phase, world.status["attempts"]) == (phase, 1)
    assert len(world.pods) == (2 if phase in {"Running", "Starting"} else 0)


def test_pods_that_the_garbage_collector_leaves_do_not_keep_an_ended_attempt() -> None:
    world = running(two_nodes(lambda attempt: Behaviour(every=LONG)))
    orphans = list(world.pods.values())
    world.edit(suspend=True)
    world.settle()
    for pod in orphans:  # as if it had not come to them
        del pod["metadata"]["deletionTimestamp"], pod["metadata"]["stopped"]
        pod["metadata"]["ownerReferences"] = [{"uid": "gone"}]
    world.run(55)
    assert (world.phase, world.status["reason"]) == ("Running", "Suspending")
    world.run(20, until=lambda: world.phase == "Suspended")


@pytest.mark.parametrize(
    ("behaviour", "policy", "reason"),
    [
        (Behaviour(every=LONG, beats=False), {"progressDeadlineSeconds": 60}, "Stalled"),
        (Behaviour(every=LONG, start_after=inf), {"startupDeadlineSeconds": 60}, "JobDeleted"),
        (Behaviour(every=LONG), {"activeDeadlineSeconds": 60}, "DeadlineExceeded"),
    ],
    ids=["progress", "startup", "active"],
)
def test_deadlines_run_on_while_a_finalizer_holds_a_batch_job_that_was_deleted(
    behaviour: Behaviour, policy: dict[str, Any], reason: str
) -> None:
    world = two_nodes(lambda attempt: behaviour if attempt == 1 else Behaviour(), **policy)
    world.run(5)
    held = world.batch_job()["metadata"]
    held |= {"deletionTimestamp": "2026-01-31T12:00:10Z", "finalizers": ["example.com/keep"]}
    world.settle()
    assert world.status["reason"] == "JobDeleted"
    assert world.status["message"] == "the batch Job is being deleted and waits for its finalizers: example.com/keep"
    world.run(120, until=lambda: "endTime" in world.status["attempt"])
    assert world.status["failure"]["reason"] == reason
    assert world.run_to_the_end()["attempts"] == (1 if reason == "DeadlineExceeded" else 2)


DAMAGE: list[tuple[str, str, Callable[[Manifest], Any]]] = [
    ("service-selector", "Service", lambda each: each["spec"].update(selector={"app": "other"})),
    ("service-selector-more", "Service", lambda each: each["spec"]["selector"].update(app="other")),
    ("service-ports", "Service", lambda each: each["spec"].update(ports=[])),
    ("policy", "NetworkPolicy", lambda each: each["spec"].update(ingress=[{}])),
    ("role", "Role", lambda each: each["rules"].append({"apiGroups": ["*"], "resources": ["*"], "verbs": ["*"]})),
    ("binding-subject", "RoleBinding", lambda each: each.update(subjects=[])),
    ("label", "ConfigMap", lambda each: each["metadata"]["labels"].pop("kubooth.io/job")),
    ("job-label", "Job", lambda each: each["metadata"]["labels"].pop("kubooth.io/job")),
    ("parallelism", "Job", lambda each: each["spec"].update(parallelism=1)),
    ("owner", "Role", lambda each: each["metadata"].update(ownerReferences=[{"uid": "else"}])),
]


@pytest.mark.parametrize(("kind", "damage"), [c[1:] for c in DAMAGE], ids=[c[0] for c in DAMAGE])
def test_a_child_changed_by_hand_is_mended_with_one_write(kind: str, damage: Callable[[Manifest], Any]) -> None:
    world = running(two_nodes())
    good = copy.deepcopy(child(world, kind))
    damage(child(world, kind))
    plan = world.plan()
    assert [each["kind"] for each in plan.apply] == [kind] and not plan.delete and not plan.status
    if kind == "Job":
        assert "template" not in plan.apply[0]["spec"], "it cannot change, and a queue may have added to it"
    world.settle()
    del good["metadata"]["resourceVersion"], child(world, kind)["metadata"]["resourceVersion"]
    assert child(world, kind) == good


def test_what_others_add_to_a_child_is_theirs() -> None:
    world = running(two_nodes())
    for each in world.children.values():
        each["metadata"]["labels"]["team"] = "a"
        each["metadata"].setdefault("annotations", {})["note"] = "ours"
        each["metadata"]["ownerReferences"].append({"uid": "another"})
    child(world, "Service")["spec"]["ipFamilies"] = ["IPv4"]
    template = world.batch_job()["spec"]["template"]["spec"]
    template["tolerations"] = []  # a queue may change the template of a batch Job that it holds back
    assert world.plan().writes_nothing


def test_a_binding_to_another_role_is_replaced() -> None:
    world = running(two_nodes())
    child(world, "RoleBinding")["roleRef"]["name"] = "admin"
    world.settle()
    assert child(world, "RoleBinding")["roleRef"]["name"] == "rex-kubooth"


def test_a_configuration_of_another_version_is_made_anew_until_there_is_a_batch_job() -> None:
    """As where a quota refused the batch Job, and the operator was upgraded before there was room."""
    world = running(two_nodes())
    good = copy.deepcopy(child(world, "ConfigMap"))
    child(world, "ConfigMap")["data"] = {"config.json": "{}"}
    assert world.plan().writes_nothing, "pods read it: they and it are of one version"
    stored = child(world, "ConfigMap")["metadata"]["uid"]
    batch_job = world.batch_job()
    del world.children[ref_of(batch_job)]
    world.pods.clear()
    assert world.job is not None
    del world.job["status"]["attempt"]["readyTime"]
    plan = world.plan()
    assert [(each.ref.kind, each.uid) for each in plan.delete] == [("ConfigMap", stored)] and not plan.apply
    world.settle()
    assert child(world, "ConfigMap")["data"] == good["data"]
    assert world.batch_job()["metadata"]["name"] == batch_job["metadata"]["name"]


def test_a_service_account_of_the_runtime_is_used_and_none_is_made() -> None:
    world = running(World(runtime={"serviceAccountName": "cloud-identity"}))
    assert "ServiceAccount" not in {each["kind"] for each in world.children.values()}
    assert child(world, "RoleBinding")["subjects"][0]["name"] == "cloud-identity"


# Names that others hold


NEEDED = [
    ("v1", "ServiceAccount", "rex-kubooth"),
    ("v1", "Service", "rex-kubooth"),
    ("rbac.authorization.k8s.io/v1", "Role", "rex-kubooth"),
    ("v1", "ConfigMap", "rex-kubooth-1"),
    ("batch/v1", "Job", "rex-kubooth-1"),
]


@pytest.mark.parametrize(("version", "kind", "name"), NEEDED, ids=[each[1] for each in NEEDED])
def test_an_object_of_someone_else_is_never_touched(version: str, kind: str, name: str) -> None:
    world = World()
    ref = Ref(api_version=version, kind=kind, namespace="team-a", name=name)
    world.foreign[ref] = {}
    world.run(60)
    assert (world.condition("Accepted")["status"], world.condition("PodsReady")["reason"]) == ("True", "NameTaken")
    assert world.status["reason"] == "NameTaken"
    assert world.status["message"].startswith(f"{kind} {name} exists and does not belong to this job")
    assert ref not in world.children and not world.pods
    assert reasons(world) == ["Accepted", "Started", "NameTaken"]
    del world.foreign[ref]
    world.taken.clear()
    assert world.run_to_the_end()["phase"] == "Succeeded"


def test_a_child_that_the_cluster_refuses_is_said_until_it_is_taken() -> None:
    world = World()
    world.carry_out(world.plan(), world.observe())  # begins the first attempt, and makes nothing yet
    words = "exceeded quota: team, requested: count/services=1"

    def status_of_a_pass(child_refusal: str) -> Manifest | None:
        plan = world.plan(dataclasses.replace(world.observe(), child_refusal=child_refusal))
        assert plan.apply
        if plan.status is not None and world.job is not None:
            world.job["status"] = merged(world.status, plan.status)
        return plan.status

    told = status_of_a_pass(words) or {}
    assert told["reason"] == "Refused" and words in told["message"]
    assert world.condition("PodsReady")["reason"] == "Refused"
    assert status_of_a_pass(words) is None
    assert (status_of_a_pass("") or {})["reason"] == "Starting"


def test_a_name_that_stays_taken_fails_the_job_in_the_end() -> None:
    world = World(spec={"runPolicy": {"startupDeadlineSeconds": 60, "maxRestarts": 1}})
    for attempt in (1, 2):
        ref = Ref(api_version="batch/v1", kind="Job", namespace="team-a", name=f"rex-kubooth-{attempt}")
        world.foreign[ref] = {}
    status = world.run_to_the_end()
    assert (status["phase"], status["failure"]["reason"], status["restarts"]) == ("Failed", "NameTaken", 1)
    assert "rex-kubooth-2" in status["failure"]["message"]
