"""The life of a job under the operator, second by second, against a cluster in memory (`simulation.world`)."""

from __future__ import annotations

import copy
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

import pytest
from simulation.world import Behaviour, Ending, World, ended, index_of

from kubooth_operator.children import ref_of
from kubooth_operator.plan import Manifest, Plan, Ref

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


# From apply to the end


def test_a_job_runs_from_apply_to_succeeded() -> None:
    world = two_nodes()
    status = world.run_to_the_end()
    assert (status["phase"], status["attempts"], status.get("restarts")) == ("Succeeded", 1, None)
    assert reasons(world) == ["Accepted", "Started", "PodsReady", "Succeeded"]
    assert len(world.status_writes) == 3
    assert (status["startTime"], status["completionTime"]) == ("2026-01-31T12:00:00Z", "2026-01-31T12:01:03Z")


def test_a_pass_over_an_unchanged_job_writes_nothing() -> None:
    world = running(two_nodes())
    before = world.writes
    for _ in range(5):
        assert world.plan().writes_nothing
    assert world.writes == before


def test_the_attempt_is_written_before_anything_of_it_is_made() -> None:
    world = two_nodes()
    first = world.plan()
    assert first.apply == () and first.delete == ()
    assert first.status is not None and first.status["attempts"] == 1
    world.carry_out(first, world.observe())
    kinds = [each["kind"] for each in world.plan().apply]
    assert kinds == ["ServiceAccount", "NetworkPolicy", "Service", "Role", "RoleBinding", "ConfigMap"]
    observed = world.observe()
    world.carry_out(world.plan(observed), observed)
    assert [each["kind"] for each in world.plan().apply] == ["Job"]


def test_a_job_that_is_being_deleted_is_left_to_its_owner_references() -> None:
    world = running(two_nodes())
    assert world.job is not None
    world.job["metadata"]["deletionTimestamp"] = "2026-01-31T12:00:10Z"
    world.children.clear()
    assert world.plan() == Plan()


def test_a_finished_job_is_never_touched_again() -> None:
    world = two_nodes()
    world.run_to_the_end()
    world.edit(suspend=True, runPolicy={"maxRestarts": 9})
    world.children.clear()
    world.pods.clear()
    assert world.plan() == Plan()


def test_a_batch_job_that_turns_up_after_the_end_is_deleted() -> None:
    world = two_nodes()
    world.run_to_the_end()
    late = copy.deepcopy(world.batch_job())
    late["metadata"]["name"], late["status"] = "rex-kubooth-2", {}
    world.children[ref_of(late)] = late
    assert [each.ref.name for each in world.plan().delete] == ["rex-kubooth-2"]


def test_the_time_to_live_deletes_the_job_after_its_end() -> None:
    world = World(spec={"runPolicy": {"ttlSecondsAfterFinished": 100}})
    world.run_to_the_end()
    assert world.plan().requeue_after == 100
    world.now += timedelta(seconds=60)
    assert world.plan().requeue_after == 40
    world.now += timedelta(seconds=40)
    world.settle()
    assert world.job is None


def test_the_time_to_live_may_come_from_the_runtime_and_change_after_the_end() -> None:
    world = World(runtime={"defaults": {"runPolicy": {"ttlSecondsAfterFinished": 100}}})
    world.run_to_the_end()
    assert world.plan().requeue_after == 100
    world.edit(runPolicy={"ttlSecondsAfterFinished": 50})
    assert world.plan().requeue_after == 50


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


def test_a_name_that_stays_taken_fails_the_job_in_the_end() -> None:
    world = World(spec={"runPolicy": {"startupDeadlineSeconds": 60, "maxRestarts": 1}})
    for attempt in (1, 2):
        ref = Ref(api_version="batch/v1", kind="Job", namespace="team-a", name=f"rex-kubooth-{attempt}")
        world.foreign[ref] = {}
    status = world.run_to_the_end()
    assert (status["phase"], status["failure"]["reason"], status["restarts"]) == ("Failed", "NameTaken", 1)
    assert "rex-kubooth-2" in status["failure"]["message"]


# Failure and retry


def test_a_failure_that_a_retry_can_mend_is_followed_by_another_attempt_at_once() -> None:
    world = two_nodes(fails_first(1))
    status = world.run_to_the_end()
    assert (status["phase"], status["attempts"], status["restarts"]) == ("Succeeded", 2, 1)
    assert "failure" not in status
    assert reasons(world) == [
        "Accepted", "Started", "PodsReady", "TrainerCrashed", "Restarted", "PodsReady", "Succeeded"
    ]  # fmt: skip


def test_between_counted_restarts_the_pauses_grow() -> None:
    world = two_nodes(fails_first(9), maxRestarts=100)
    world.run_to_the_end()
    pauses = []
    for before, after in zip(world.status_writes, world.status_writes[1:], strict=False):
        if after["attempts"] > before["attempts"] and "endTime" in before["attempt"]:
            pauses.append(before["attempt"].get("retryTime", "")[11:19])
    starts = [each["attempt"]["startTime"] for each in world.status_writes if each["reason"] == "Starting"]
    ends = {each["attempt"]["number"]: each["attempt"].get("endTime") for each in world.status_writes}
    gaps = [seconds_between(ends[number], start) for number, start in enumerate(starts) if ends.get(number)]
    assert gaps == [10, 20, 40, 80, 160, 300, 300, 300]
    assert len(pauses) == 8


def test_the_children_of_an_attempt_go_when_the_next_one_stands() -> None:
    world = two_nodes(fails_first(1, CRASH))
    world.run(until=lambda: world.status.get("attempts") == 2 and world.phase == "Running")
    names = sorted(each["metadata"]["name"] for each in world.children.values() if each["kind"] in {"Job", "ConfigMap"})
    assert names == ["rex-kubooth-2", "rex-kubooth-2"]


def test_without_restarts_left_the_job_fails_with_the_cause() -> None:
    world = two_nodes(fails_first(9), maxRestarts=1)
    status = world.run_to_the_end()
    assert (status["attempts"], status["restarts"]) == (2, 1)
    assert status["failure"] == {
        "reason": "TrainerCrashed",
        "message": "a bug (no restart is left: runPolicy.maxRestarts is 1)",
        "pod": status["failure"]["pod"],
        "exitCode": 70,
        "log": ["last line"],
    }
    assert world.condition("Failed")["reason"] == status["reason"] == "TrainerCrashed"
    assert reasons(world)[-1] == "Failed"


def test_a_failure_that_no_retry_mends_ends_the_job_at_once() -> None:
    world = two_nodes(fails_first(1, Ending(code=2, reason="BadSubject", message="IMG_1.jpg cannot be read")))
    status = world.run_to_the_end()
    assert (status["phase"], status["reason"], status["attempts"]) == ("Failed", "BadSubject", 1)
    assert (status.get("restarts"), status["message"]) == (None, "IMG_1.jpg cannot be read")
    assert all(ended(pod) for pod in world.pods.values())


def test_disruptions_restart_at_once_and_do_not_count() -> None:
    world = two_nodes(lambda attempt: Behaviour(every=Ending(after=60)), maxRestarts=0)
    for attempt in range(1, 6):
        world.run(until=lambda number=attempt: world.status.get("attempts") == number and world.phase == "Running")
        world.evict(world.pod(1))
    status = world.run_to_the_end()
    assert (status["phase"], status["attempts"], status.get("restarts")) == ("Succeeded", 6, None)
    assert reasons(world).count("Evicted") == 5


def test_pods_of_a_lost_node_are_deleted_by_force_before_the_next_attempt() -> None:
    world = running(two_nodes(lambda attempt: Behaviour(every=LONG if attempt == 1 else Ending())))
    lost = world.pod(1)
    world.dead_nodes.add("node-1")
    lost["status"]["conditions"] = []  # the node controller marks pods of a silent node
    world.evict(lost, "DeletionByTaintManager")
    world.run(30)
    assert (world.status["failure"]["reason"], world.status["reason"]) == ("NodeLost", "Restarting")
    assert world.status["attempts"] == 1 and lost["metadata"]["name"] in world.pods
    world.run(270)
    assert lost["metadata"]["name"] in world.pods, "within its grace period it may still end by itself"
    world.dead_nodes.clear()
    world.dead_nodes.add("node-x")
    world.run(15)
    assert lost["metadata"]["name"] not in world.pods
    status = world.run_to_the_end()
    assert (status["phase"], status["attempts"], status.get("restarts")) == ("Succeeded", 2, None)


def test_a_pod_that_should_be_gone_and_is_not_is_taken_for_lost() -> None:
    world = running(two_nodes(lambda attempt: Behaviour(every=LONG if attempt == 1 else Ending())))
    lost = world.pod(1)
    world.dead_nodes.add("node-1")
    world.delete(ref_of(lost))
    world.run(309)
    assert world.phase == "Running"
    world.run(2)
    assert (world.status["failure"]["reason"], world.status["failure"]["pod"]) == ("NodeLost", lost["metadata"]["name"])


def test_the_verdict_waits_for_the_last_words_of_the_other_pods() -> None:
    endings = {
        0: Ending(after=20, code=70, reason="TrainerCrashed", message="Connection closed by peer"),
        1: Ending(after=21, code=137, oom=True),
    }
    world = two_nodes(lambda attempt: Behaviour(endings=endings, stop_seconds=8), maxRestarts=0)
    assert world.run_to_the_end()["failure"]["reason"] == "OutOfMemory"


def test_the_verdict_does_not_wait_for_ever() -> None:
    world = running(two_nodes(lambda attempt: Behaviour(endings={0: CRASH, 1: LONG}, stop_seconds=200)))
    world.run(60, until=lambda: world.status.get("restarts") == 1)
    assert (world.status["reason"], world.status["attempts"]) == ("Restarting", 1)
    assert len(world.pods) == 2
    world.run(300, until=lambda: world.status["attempts"] == 2)


ENDS: list[tuple[str, dict[str, Any], Callable[[World], Any]]] = [
    ("suspended", {}, lambda world: world.edit(suspend=True)),
    ("stalled", {}, lambda world: setattr(world, "now", world.now + timedelta(hours=2))),
    ("too-long", {"activeDeadlineSeconds": 60}, lambda world: setattr(world, "now", world.now + timedelta(seconds=90))),
    ("evicted", {}, lambda world: world.evict(world.pod(1))),
]


@pytest.mark.parametrize(("policy", "happens"), [c[1:] for c in ENDS], ids=[c[0] for c in ENDS])
def test_the_end_of_an_attempt_is_written_before_anything_is_deleted_for_it(
    policy: dict[str, Any], happens: Callable[[World], Any]
) -> None:
    world = running(two_nodes(lambda attempt: Behaviour(every=LONG), **policy))
    happens(world)
    observed = world.observe()
    plan = world.plan(observed)
    assert plan.status is not None and "endTime" in plan.status["attempt"] and plan.delete == ()
    world.carry_out(plan, observed)
    assert [each.ref.kind for each in world.plan().delete] == ["Job"]


# Suspension


def test_suspend_ends_the_pods_and_going_on_is_another_attempt() -> None:
    world = running(two_nodes(lambda attempt: Behaviour(every=LONG if attempt == 1 else Ending(), stop_seconds=30)))
    world.run(15)
    world.edit(suspend=True)
    world.settle()
    assert (world.phase, world.status["reason"]) == ("Running", "Suspending")
    world.run(29)
    assert world.pods
    world.run(5)
    assert (world.phase, world.condition("Suspended")["status"]) == ("Suspended", "True")
    assert not world.pods and not [each for each in world.children.values() if each["kind"] == "Job"]
    assert [each["state"] for each in world.status["stages"]] == ["Pending"]
    assert "eta" not in world.status["progress"]
    world.run(1000)
    world.edit(suspend=False)
    status = world.run_to_the_end()
    assert (status["phase"], status["attempts"], status.get("restarts")) == ("Succeeded", 2, None)
    assert world.condition("Suspended")["reason"] == "Resumed"
    assert reasons(world) == [
        "Accepted", "Started", "PodsReady", "Suspended", "Resumed", "PodsReady", "Succeeded"
    ]  # fmt: skip
    assert status["activeSeconds"] < 150, "time in suspension does not count"


def test_a_job_that_is_suspended_from_the_start_is_judged_and_starts_nothing() -> None:
    world = World(spec={"suspend": True})
    world.run(100)
    assert (world.phase, world.condition("Accepted")["status"], world.status.get("attempts")) == (
        "Suspended",
        "True",
        None,
    )
    assert not world.children
    world.edit(suspend=False)
    assert world.run_to_the_end()["attempts"] == 1


def test_suspended_between_two_attempts_it_stays_down() -> None:
    world = two_nodes(fails_first(3), maxRestarts=9)
    world.run(until=lambda: world.status.get("reason") == "BackOff")
    attempts = world.status["attempts"]
    world.edit(suspend=True)
    world.run(1000)
    assert (world.phase, world.status["attempts"]) == ("Suspended", attempts)
    world.edit(suspend=False)
    assert world.run_to_the_end()["phase"] == "Succeeded"


def test_work_that_was_done_when_the_job_was_suspended_counts() -> None:
    world = running(two_nodes())
    world.run(100, until=lambda: all(ended(pod) for pod in world.pods.values()))
    world.edit(suspend=True)
    assert world.run_to_the_end()["phase"] == "Succeeded"


def test_suspended_before_its_batch_job_was_made() -> None:
    world = two_nodes()
    observed = world.observe()
    world.carry_out(world.plan(observed), observed)
    world.edit(suspend=True)
    world.run(10)
    assert (world.phase, world.status["attempts"], len(world.pods)) == ("Suspended", 1, 0)


# Deadlines


def test_a_pod_that_cannot_start_for_a_minute_shows_why() -> None:
    world = World(script=lambda attempt: Behaviour(waiting="ImagePullBackOff"))
    world.run(59)
    assert world.condition("PodsReady")["reason"] == "Starting"
    world.run(3)
    ready = world.condition("PodsReady")
    assert (ready["status"], ready["reason"], world.phase) == ("False", "ImagePull", "Starting")
    assert "cannot get its image" in ready["message"]
    assert reasons(world) == ["Accepted", "Started", "ImagePull"]


def test_pods_that_nobody_creates_are_said_too() -> None:
    world = World()
    world.settle()
    for _ in range(70):
        world.settle()
        world.now += timedelta(seconds=1)  # without the Job controller
    assert world.condition("PodsReady")["reason"] == "PodsNotCreated"


def test_the_startup_deadline_releases_the_attempt_and_tries_again_later() -> None:
    world = two_nodes(
        lambda attempt: Behaviour(waiting="ImagePullBackOff"), startupDeadlineSeconds=100, maxRestarts=1
    )  # fmt: skip
    world.run(until=lambda: "endTime" in world.status.get("attempt", {}))
    assert world.status["failure"]["reason"] == "ImagePull"
    assert "not ready within runPolicy.startupDeadlineSeconds (100 s)" in world.status["failure"]["message"]
    retry = seconds_between(world.status["attempt"]["endTime"], world.status["attempt"]["retryTime"])
    assert 10 <= retry <= 20
    status = world.run_to_the_end()
    assert (status["reason"], status["attempts"], status["restarts"]) == ("ImagePull", 2, 1)
    assert all(ended(pod) for pod in world.pods.values())


def test_jobs_that_give_up_together_do_not_come_back_together() -> None:
    waits = set()
    for number in range(4):
        world = two_nodes(lambda attempt: Behaviour(waiting="x"), startupDeadlineSeconds=30)
        assert world.job is not None
        world.job["metadata"]["uid"] = f"job-{number}"
        world.run(until=lambda world=world: "endTime" in world.status.get("attempt", {}))
        waits.add(world.status["attempt"]["retryTime"])
    assert len(waits) > 1


def test_a_pod_that_is_lost_while_running_shows_and_does_not_trip_the_startup_deadline() -> None:
    world = running(two_nodes(lambda attempt: Behaviour(every=LONG), startupDeadlineSeconds=30))
    world.pod(1)["status"]["conditions"] = [{"type": "Ready", "status": "False"}]
    world.run(100)
    assert (world.phase, world.status["reason"], world.status["attempts"]) == ("Running", "PodNotReady", 1)


def test_the_active_deadline_counts_over_all_attempts() -> None:
    world = two_nodes(
        lambda attempt: Behaviour(every=LONG, endings={0: CRASH} if attempt == 1 else {}), activeDeadlineSeconds=100
    )  # fmt: skip
    status = world.run_to_the_end()
    assert (status["reason"], status["attempts"]) == ("DeadlineExceeded", 2)
    assert 100 <= status["activeSeconds"] <= 103
    assert seconds_between(status["startTime"], status["completionTime"]) < 115
    assert all(ended(pod) for pod in world.pods.values())


def test_time_in_suspension_does_not_count_for_the_active_deadline() -> None:
    world = running(two_nodes(lambda attempt: Behaviour(every=Ending(after=50)), activeDeadlineSeconds=100))
    world.edit(suspend=True)
    world.run(1000)
    world.edit(suspend=False)
    assert world.run_to_the_end()["phase"] == "Succeeded"


def test_an_attempt_without_progress_is_stalled() -> None:
    world = running(
        two_nodes(
            lambda attempt: Behaviour(every=LONG, beats=False) if attempt == 1 else Behaviour(),
            progressDeadlineSeconds=60,
        )
    )
    world.run(85)
    assert world.phase == "Running"
    world.run(10)
    assert (world.status["failure"]["reason"], world.status["restarts"]) == ("Stalled", 1)
    status = world.run_to_the_end()
    assert (status["phase"], status["attempts"]) == ("Succeeded", 2)


def test_the_last_words_of_a_stalled_pod_are_heard() -> None:
    world = running(
        two_nodes(
            lambda attempt: Behaviour(every=LONG, beats=False, lingers=True), progressDeadlineSeconds=60, maxRestarts=0
        )
    )
    world.run(until=lambda: "endTime" in world.status["attempt"])
    assert "log" not in world.status["failure"]
    status = world.run_to_the_end()
    assert (status["reason"], status["failure"]["log"], status["failure"]["exitCode"]) == (
        "Stalled",
        ["last line"],
        143,
    )


def test_heartbeats_put_the_progress_deadline_off() -> None:
    world = running(two_nodes(lambda attempt: Behaviour(every=Ending(after=600)), progressDeadlineSeconds=60))
    assert world.run_to_the_end()["attempts"] == 1


def test_while_the_api_was_away_nobody_could_report_progress() -> None:
    world = running(two_nodes(lambda attempt: Behaviour(every=LONG, beats=False), progressDeadlineSeconds=60))
    world.now += timedelta(seconds=600)
    world.reachable_since = world.now
    world.run(85)
    assert world.phase == "Running"
    world.run(10)
    assert world.status["failure"]["reason"] == "Stalled"


# The runtime


def test_a_job_waits_for_a_runtime_that_does_not_exist_yet() -> None:
    world = World()
    runtime, world.runtime = world.runtime, None
    world.run(10)
    assert (world.phase, world.status["reason"]) == ("Pending", "RuntimeNotFound")
    assert world.condition("Accepted")["status"] == "False"
    assert reasons(world) == ["RuntimeNotFound"] and not world.children
    world.runtime = runtime
    assert world.run_to_the_end()["phase"] == "Succeeded"


def test_a_refusal_names_everything_and_a_changed_spec_is_judged_anew() -> None:
    world = World(runtime={"limits": {"steps": 500, "requireConsent": True}})
    world.run(5)
    accepted = world.condition("Accepted")
    assert (accepted["status"], accepted["reason"]) == ("False", "ConsentRequired")
    assert accepted["message"].count("\n") == 1 and "spec.training.steps" in accepted["message"]
    assert world.job is not None
    world.edit(training={"steps": 100}, subject={**world.job["spec"]["subject"], "consent": True})
    status = world.run_to_the_end()
    assert status["resolved"]["training"]["steps"] == 100
    assert status["observedGeneration"] == 2


def test_a_runtime_is_looked_at_anew_until_the_first_attempt_and_never_after() -> None:
    world = World(spec={"suspend": True}, runtime={"image": "trainer:1", "limits": {}})
    world.settle()
    assert world.runtime is not None
    world.runtime["spec"] = {"image": "trainer:2", "limits": {}}
    world.settle()
    assert world.status["runtimeSnapshot"]["spec"]["image"] == "trainer:2"
    world.edit(suspend=False)
    world.script = fails_first(1)
    running(world)
    world.runtime["spec"] = {"image": "trainer:3", "limits": {"steps": 1}}
    assert world.plan().writes_nothing
    world.runtime = None
    assert world.plan().writes_nothing
    status = world.run_to_the_end()
    assert (status["phase"], status["attempts"]) == ("Succeeded", 2)
    assert world.batch_job()["spec"]["template"]["spec"]["containers"][0]["image"] == "trainer:2"


def test_a_priority_class_that_is_refused_later_holds_the_next_attempt_back() -> None:
    world = World(runtime={"limits": {"priorityClasses": ["low"]}}, script=fails_first(1))
    running(world)
    world.edit(priorityClassName="high")
    world.settle()
    assert (world.phase, world.condition("Accepted")["reason"]) == ("Running", "PriorityClassNotAllowed")
    world.delete(ref_of(child(world, "Service")))
    world.settle()
    assert child(world, "Service")
    world.run(100)
    assert (world.phase, world.status["reason"], world.status["attempts"]) == ("Pending", "PriorityClassNotAllowed", 1)
    world.edit(priorityClassName="low")
    assert world.run_to_the_end()["phase"] == "Succeeded"
    assert world.batch_job()["spec"]["template"]["spec"]["priorityClassName"] == "low"


def test_a_runtime_that_cannot_be_read_is_said() -> None:
    world = World(runtime={"sharedMemory": "much"})
    world.settle()
    assert world.condition("Accepted")["reason"] == "InvalidRuntime"
    assert "spec.sharedMemory" in world.condition("Accepted")["message"]


# Queues


def test_a_batch_job_that_a_queue_holds_back_waits_without_a_deadline() -> None:
    world = World(spec={"queueName": "gpus", "runPolicy": {"startupDeadlineSeconds": 30}})
    world.hold_jobs = True
    world.run(1000)
    assert (world.phase, world.status["reason"], world.status["message"]) == (
        "Pending",
        "Queued",
        "waiting for queue gpus",
    )
    assert world.condition("PodsReady")["reason"] == "Queued" and not world.pods
    assert world.batch_job()["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == "gpus"
    world.batch_job()["spec"]["suspend"] = False
    status = world.run_to_the_end()
    assert (status["phase"], status["attempts"]) == ("Succeeded", 1)
    assert status["activeSeconds"] < 100


def test_devices_that_a_queue_takes_back_stop_the_clocks() -> None:
    world = World(
        spec={"queueName": "gpus", "runPolicy": {"activeDeadlineSeconds": 200}}, script=lambda attempt: Behaviour()
    )
    running(world)
    world.run(20)
    world.batch_job()["spec"]["suspend"] = True
    world.run(1000)
    assert (world.phase, world.status["reason"], world.status["attempts"]) == ("Pending", "Queued", 1)
    assert 20 <= world.status["deviceSeconds"] <= 25
    world.batch_job()["spec"]["suspend"] = False
    assert world.run_to_the_end()["phase"] == "Succeeded"


# What the trainer said


SUMMARY: dict[str, Any] = {
    "stages": [
        {"name": "Train", "state": "Succeeded", "start": "2026-01-31T12:00:05Z", "end": "2026-01-31T12:01:00Z"},
        {"name": "Upload", "state": "Running", "start": "2026-01-31T12:01:00Z"},
    ],
    "progress": {"step": 800, "total": 800, "percent": 100.0, "summary": "800/800 100%", "eta": "0s", "etaSeconds": 0},
    "identifier": "sks",
    "output": {"uri": "s3://models/personalized/rex/", "bytes": 7},
    "report": {"uri": "s3://models/personalized/rex/report.html"},
}


def test_the_last_word_fills_what_the_trainer_could_not_send() -> None:
    world = World(script=lambda attempt: Behaviour(beats=False, every=Ending(summary=SUMMARY)))
    status = world.run_to_the_end()
    assert [(each["name"], each["state"]) for each in status["stages"]] == [
        ("Train", "Succeeded"),
        ("Upload", "Succeeded"),
    ]
    assert status["progress"] == {"step": 800, "total": 800, "percent": 100.0, "summary": "800/800 100%"}
    assert (status["identifier"], status["output"]["bytes"], status["report"]["uri"]) == (
        "sks",
        7,
        "s3://models/personalized/rex/report.html",
    )


def test_the_last_word_is_heard_though_the_verdict_waits_for_other_pods() -> None:
    endings = {0: Ending(after=20, code=75, reason="DiskFull", summary=SUMMARY), 1: LONG}
    world = running(two_nodes(lambda attempt: Behaviour(endings=endings, beats=False, stop_seconds=8)))
    world.run(60, until=lambda: world.status.get("identifier") == "sks")
    assert "endTime" not in world.status["attempt"]
    del world.pods[next(name for name, pod in world.pods.items() if ended(pod))]
    world.run(60, until=lambda: "restarts" in world.status)
    assert [each["state"] for each in world.status["stages"]] == ["Succeeded", "Failed"]


def test_what_does_not_fit_the_api_is_dropped() -> None:
    summary = {**SUMMARY, "stages": [{"name": "Cook"}], "identifier": 7, "phase": "Failed", "progress": "x"}
    world = World(script=lambda attempt: Behaviour(beats=False, every=Ending(summary=summary)))
    status = world.run_to_the_end()
    assert "stages" not in status and "identifier" not in status and "progress" not in status
    assert (status["phase"], status["output"]["bytes"]) == ("Succeeded", 7)


def test_without_a_last_word_the_output_is_named_and_no_stage_stays_open() -> None:
    status = World().run_to_the_end()
    assert status["output"] == {"uri": "s3://models/personalized/rex/"}
    assert {each["state"] for each in status["stages"]} == {"Succeeded"}


def test_a_failed_attempt_leaves_no_stage_running_even_when_a_pod_writes_late() -> None:
    world = running(two_nodes(lambda attempt: Behaviour(endings={0: CRASH}, every=LONG, stop_seconds=100)))
    world.run(until=lambda: "endTime" in world.status["attempt"])
    assert [each["state"] for each in world.status["stages"]] == ["Failed"]
    world._beat()
    world.settle()
    assert [each["state"] for each in world.status["stages"]] == ["Failed"]
    assert "eta" not in world.status["progress"]


def test_device_seconds_add_up_over_attempts_and_devices() -> None:
    spec = {"parallelism": {"nodes": 2, "devicesPerNode": 4}, "training": {"batchSize": 8}}
    world = World(spec=spec, script=fails_first(1))
    status = world.run_to_the_end()
    # Two pods of four devices: 20 s and, stopped with the first, a little longer; then 60 s both.
    assert 4 * (20 + 20 + 60 + 60) <= status["deviceSeconds"] <= 4 * (20 + 28 + 60 + 60)


def seconds_between(start: str, end: str) -> float:
    return (datetime.fromisoformat(end) - datetime.fromisoformat(start)).total_seconds()


def test_the_pods_are_those_of_the_job() -> None:
    world = running(two_nodes())
    assert sorted(index_of(pod) for pod in world.pods.values()) == [0, 1]
