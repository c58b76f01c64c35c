"""The life of a job from apply to its end, its suspension and its runtime, second by second, in `simulation.world`."""

from __future__ import annotations

import copy
import json
from datetime import timedelta
from typing import Any

import pytest
from simulation.scenarios import (
    LONG,
    child,
    fails_first,
    reasons,
    running,
    two_nodes,
)
from simulation.world import Behaviour, Ending, World, ended

from kubooth_operator.children import ref_of
from kubooth_operator.plan import Plan

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
    world.edit(runPolicy={})
    assert world.plan().requeue_after == 100


def test_who_takes_the_time_to_live_out_keeps_the_job() -> None:
    world = World(spec={"runPolicy": {"ttlSecondsAfterFinished": 100}})
    world.run_to_the_end()
    world.edit(runPolicy={})
    assert world.plan() == Plan()
    world.run(1000)
    assert world.job is not None


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


def test_what_goes_on_is_not_called_suspended_while_it_waits() -> None:
    """Resumed during the back-off after a failure, or when its spec is refused: it waits, and for something else."""
    world = two_nodes(fails_first(3), maxRestarts=9)
    world.run(until=lambda: world.status.get("reason") == "BackOff")
    world.edit(suspend=True)
    world.settle()
    assert world.condition("Suspended")["status"] == "True"
    world.edit(suspend=False)
    world.settle()
    assert (world.status["reason"], world.condition("Suspended")["status"]) == ("BackOff", "False")
    world = World(spec={"suspend": True})
    world.settle()
    world.runtime = None
    world.edit(suspend=False)
    world.settle()
    assert (world.status["reason"], world.condition("Suspended")["status"]) == ("RuntimeNotFound", "False")


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


def test_a_missing_label_holds_a_job_back_until_it_is_set_and_never_after_its_start() -> None:
    world = World(runtime={"limits": {"requiredLabels": ["team"]}}, script=fails_first(1))
    world.run(5)
    assert (world.phase, world.condition("Accepted")["reason"]) == ("Pending", "LabelRequired")
    assert not world.children
    world.label(team="vision")
    running(world)
    world.label()
    status = world.run_to_the_end()
    assert (status["phase"], status["attempts"]) == ("Succeeded", 2)


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


def test_built_in_values_that_an_upgrade_changes_do_not_reach_a_job_that_has_started() -> None:
    world = running(World(script=fails_first(1)))
    assert world.job is not None
    settled = world.job["status"]["resolved"]
    settled["training"]["learningRate"] = 3e-6  # as if by an older version, whose built-in value it was
    del settled["training"]["lrSchedule"]  # which it did not know
    world.edit(priorityClassName="low", runPolicy={"maxRestarts": 5})
    assert world.run_to_the_end()["attempts"] == 2
    config = json.loads(child(world, "ConfigMap")["data"]["config.json"])
    assert (config["training"]["learning_rate"], config["training"]["lr_schedule"]) == (3e-6, "Constant")
    assert world.batch_job()["spec"]["template"]["spec"]["priorityClassName"] == "low"
    assert world.status["resolved"]["runPolicy"]["maxRestarts"] == 5
    assert world.status["resolved"]["training"]["learningRate"] == 3e-6


RUN_POLICIES: list[tuple[str, dict[str, Any], dict[str, Any], dict[str, Any]]] = [
    ("never-given", {}, {}, {"maxRestarts": 7, "progressDeadlineSeconds": 7200, "startupDeadlineSeconds": 600}),
    ("given", {}, {"maxRestarts": 1}, {"maxRestarts": 1, "progressDeadlineSeconds": 7200}),
    ("the-runtimes", {"maxRestarts": 2}, {}, {"maxRestarts": 2, "progressDeadlineSeconds": 7200}),
    ("over-the-runtimes", {"maxRestarts": 2}, {"maxRestarts": 1}, {"maxRestarts": 1}),
    ("the-runtimes-without-a-built-in", {"activeDeadlineSeconds": 90_000}, {}, {"activeDeadlineSeconds": 90_000}),
    ("taken-out", {}, {"progressDeadlineSeconds": 60}, {"maxRestarts": 7, "activeDeadlineSeconds": None}),
]


@pytest.mark.parametrize(
    ("defaults", "given", "expected"), [c[1:] for c in RUN_POLICIES], ids=[c[0] for c in RUN_POLICIES]
)
def test_a_run_policy_changes_by_what_is_given_now_and_never_by_an_upgrade(
    defaults: dict[str, Any], given: dict[str, Any], expected: dict[str, Any]
) -> None:
    world = running(World(runtime={"limits": {}, "defaults": {"runPolicy": defaults}}))
    assert world.job is not None
    older = {"maxRestarts": 7, "progressDeadlineSeconds": 7200, "startupDeadlineSeconds": 600}
    world.job["status"]["resolved"]["runPolicy"] = {**older, "activeDeadlineSeconds": 80_000}
    world.edit(runPolicy=given)
    world.settle()
    policy = world.status["resolved"]["runPolicy"]
    assert {name: policy.get(name) for name in expected} == expected
    assert world.phase == "Running"


def test_a_job_that_a_later_version_started_goes_on_under_this_one() -> None:
    world = running(World(script=fails_first(1)))
    assert world.job is not None
    status = world.job["status"]
    for later in (world.job["spec"], status["runtimeSnapshot"]["spec"]["limits"], status["resolved"]["training"]):
        later["newlyInvented"] = {"much": 1}
    assert world.run_to_the_end()["attempts"] == 2
    assert world.phase == "Succeeded"


def unreadable(world: World) -> World:
    """A job of a later version, which this one rolled back: values that it does not know, in every place."""
    world.job = copy.deepcopy(world.job)  # its spec may be shared
    assert world.job is not None
    status = world.job["status"]
    for later in (world.job["spec"].setdefault("training", {}), status["resolved"]["training"]):
        later |= {"optimizer": "Newest", "gradientAccumulation": "Newest"}
    status["runtimeSnapshot"]["spec"]["sharedMemory"] = "much"
    return world


def test_an_attempt_whose_spec_this_version_cannot_read_is_followed_to_its_success() -> None:
    world = unreadable(running(two_nodes()))
    world.settle()
    assert (world.phase, world.status["reason"], world.condition("Accepted")["status"]) == (
        "Running",
        "Running",
        "False",
    )
    settled = world.status["resolved"]
    assert settled["training"]["optimizer"] == "Newest", "the version that knows it will want it"
    status = world.run_to_the_end()
    assert (status["phase"], status["resolved"], status["attempts"]) == ("Succeeded", settled, 1)
    assert status["deviceSeconds"] > 0


def test_an_attempt_that_fails_and_cannot_be_read_has_no_successor_until_it_can() -> None:
    world = running(two_nodes(fails_first(1)))
    assert world.job is not None
    good = copy.deepcopy(world.job)
    unreadable(world)
    world.run(200)
    assert (world.phase, world.status["attempts"]) == ("Pending", 1)
    assert world.status["attempt"]["outcome"] == "Retry" and all(map(ended, world.pods.values()))
    assert world.status["reason"] == world.condition("Accepted")["reason"] != "Accepted"
    world.job["spec"] = good["spec"]
    for name in ("resolved", "runtimeSnapshot"):
        world.job["status"][name] = good["status"][name]
    assert world.run_to_the_end()["attempts"] == 2


def test_limits_and_suspension_hold_where_the_spec_cannot_be_read() -> None:
    world = unreadable(running(two_nodes(lambda attempt: Behaviour(every=LONG), activeDeadlineSeconds=100)))
    assert world.run_to_the_end()["failure"]["reason"] == "DeadlineExceeded"
    world = unreadable(running(two_nodes(lambda attempt: Behaviour(every=LONG))))
    world.edit(suspend=True)
    world.run(30)
    assert (world.phase, world.pods) == ("Suspended", {})


def test_nothing_is_made_of_a_spec_that_cannot_be_read() -> None:
    world = unreadable(running(two_nodes()))
    for kind in ("ConfigMap", "Service", "Job"):
        world.delete(ref_of(child(world, kind)))
    world.run(60)
    kinds = {each["kind"] for each in world.children.values()}
    assert not kinds & {"ConfigMap", "Service", "Job"} and not world.pods
    assert (world.phase, world.status["reason"]) == ("Starting", world.condition("Accepted")["reason"])


def test_a_field_that_does_not_exist_keeps_a_job_from_its_start() -> None:
    world = World(spec={"newlyInvented": 1})
    world.settle()
    assert world.condition("Accepted")["reason"] == "InvalidSpec"
    assert "spec.newlyInvented: is not a known field" in world.condition("Accepted")["message"]


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
    world.run(1)
    assert (world.phase, world.status["reason"], world.condition("PodsReady")["reason"]) == ("Starting",) * 3
    status = world.run_to_the_end()
    assert (status["phase"], status["attempts"]) == ("Succeeded", 1)
    assert status["activeSeconds"] < 100


def test_devices_that_a_queue_takes_back_end_the_attempt_which_is_free() -> None:
    policy = {"activeDeadlineSeconds": 200, "maxRestarts": 0}
    world = World(spec={"queueName": "gpus", "runPolicy": policy}, script=saving_for_ten_seconds)
    running(world)
    world.run(20)
    hold(world)
    world.run(5)
    failure = world.status["failure"]
    assert (failure["reason"], failure["message"]) == ("Preempted", "the queue took the job's devices back")
    world.run(1000)
    assert (world.phase, world.status["reason"], world.status["attempts"]) == ("Pending", "Queued", 2)
    assert world.batch_job()["spec"]["suspend"] is True and "startTime" not in world.status["attempt"]
    assert 30 <= world.status["deviceSeconds"] <= 33, "counted once"
    hold(world, held=False)
    status = world.run_to_the_end()
    assert (status["phase"], status["attempts"], status.get("restarts")) == ("Succeeded", 2, None)
    assert status["activeSeconds"] < 100
    assert reasons(world).count("Preempted") == 1


def saving_for_ten_seconds(attempt: int) -> Behaviour:
    return Behaviour(every=LONG if attempt == 1 else Ending(), stop_seconds=10)


def hold(world: World, *, held: bool = True) -> None:
    """A queue takes the devices back, or gives them."""
    world.hold_jobs = held
    world.batch_job()["spec"]["suspend"] = held


def test_devices_that_come_back_while_the_pods_still_stop_are_too_late() -> None:
    world = running(World(spec={"queueName": "gpus"}, script=saving_for_ten_seconds))
    hold(world)
    world.run(1)
    for batch_job in (each for each in world.children.values() if each["kind"] == "Job"):
        batch_job["spec"]["suspend"] = False
    world.hold_jobs = False
    status = world.run_to_the_end()
    assert (status["phase"], status["attempts"], status.get("restarts")) == ("Succeeded", 2, None)


def test_a_batch_job_that_was_taken_back_unseen_was_preempted_too() -> None:
    world = running(World(spec={"queueName": "gpus", "runPolicy": {"maxRestarts": 0}}, script=saving_for_ten_seconds))
    hold(world)
    for _ in range(12):  # without the operator
        world.now += timedelta(seconds=1)
        world.tick()
    assert "FailureTarget" in {each["type"] for each in world.batch_job()["status"]["conditions"]}
    world.settle()
    assert world.status["failure"]["reason"] == "Preempted"
    hold(world, held=False)
    assert world.run_to_the_end()["phase"] == "Succeeded"


TAKEN_BACK_EARLY = [
    ("image", "ImagePullBackOff", "ImagePull"),
    ("nothing-known", "PodInitializing", "StartupDeadlineExceeded"),
]


@pytest.mark.parametrize(("waiting", "reason"), [c[1:] for c in TAKEN_BACK_EARLY], ids=[c[0] for c in TAKEN_BACK_EARLY])
def test_a_queue_that_does_not_wait_for_pods_ends_the_attempt_for_their_cause_and_that_counts(
    waiting: str, reason: str
) -> None:
    world = World(
        spec={"queueName": "gpus", "runPolicy": {"maxRestarts": 1, "startupDeadlineSeconds": 600}},
        script=lambda attempt: Behaviour(waiting=waiting),
    )
    for number in (1, 2):
        world.run(until=lambda number=number: world.status.get("attempts") == number and bool(world.pods))
        world.run(100)
        hold(world)
        world.run(5)
        assert world.status["failure"]["reason"] == reason
        assert "took the job's devices back before its pods were ready" in world.status["failure"]["message"]
        assert world.phase == ("Failed" if number == 2 else "Starting")
        world.hold_jobs = False
    assert (world.status["restarts"], world.status["attempts"]) == (1, 2)


def test_a_batch_job_that_a_queue_takes_in_unasked_waits_and_loses_no_attempt() -> None:
    """A queue may be the namespace's default, or Kueue manage all batch Jobs."""
    world = World(spec={"runPolicy": {"startupDeadlineSeconds": 30, "maxRestarts": 0}})
    world.hold_jobs = True
    world.run(1000)
    assert (world.phase, world.status["reason"], world.status["attempts"]) == ("Pending", "Queued", 1)
    hold(world, held=False)
    assert world.run_to_the_end()["attempts"] == 1


def check_that_it_is_queued_again_for_free(world: World) -> None:
    """Somebody deletes the batch Job; the one that is made again waits for quota, in the same attempt."""
    world.hold_jobs = True
    world.delete(ref_of(world.batch_job()))
    world.run(1000)
    assert (world.phase, world.status["reason"], world.status["attempts"]) == ("Pending", "Queued", 1)
    world.script = lambda attempt: Behaviour()
    hold(world, held=False)
    assert world.run_to_the_end()["attempts"] == 1


def test_a_batch_job_that_is_made_again_waits_in_the_queue_again_and_loses_no_attempt() -> None:
    world = running(World(spec={"queueName": "gpus", "runPolicy": {"maxRestarts": 0}}, script=saving_for_ten_seconds))
    check_that_it_is_queued_again_for_free(world)


def test_a_batch_job_that_is_made_again_before_its_pods_were_ready_waits_in_the_queue_again() -> None:
    world = World(
        spec={"queueName": "gpus", "runPolicy": {"maxRestarts": 0}},
        script=lambda attempt: Behaviour(waiting="ImagePullBackOff"),
    )
    world.run(until=lambda: bool(world.pods))
    world.run(100)
    check_that_it_is_queued_again_for_free(world)


@pytest.mark.parametrize("code", [0, 70])
def test_a_pod_that_outlived_its_batch_job_does_not_count_for_the_one_that_is_made_again(code: int) -> None:
    endings = {0: Ending(after=50, code=code)}
    world = running(World(script=lambda attempt: Behaviour(endings=endings), spec={"runPolicy": {"maxRestarts": 0}}))
    world.run(30)
    world.orphan(world.batch_job())
    world.run(until=lambda: any(ended(pod) for pod in world.pods.values()))
    (orphan,) = world.pods.values()
    world.script = lambda attempt: Behaviour(start_after=100)
    world.run(until=lambda: len(world.pods) == 2)
    world.run(50)
    assert (world.phase, world.condition("PodsReady")["status"]) == ("Starting", "False")
    status = world.run_to_the_end()
    assert (status["phase"], status["attempts"]) == ("Succeeded", 1)
    assert orphan["metadata"]["name"] in world.pods


def test_a_node_that_starts_anew_and_refuses_what_ran_on_it_is_a_lost_node() -> None:
    world = running(two_nodes(lambda attempt: Behaviour(every=LONG if attempt == 1 else Ending()), maxRestarts=0))
    world.pod(1)["status"] = {
        "phase": "Failed", "reason": "UnexpectedAdmissionError", "message": "no devices", "conditions": [],
    }  # fmt: skip
    status = world.run_to_the_end()
    assert (status["phase"], status["attempts"], status.get("restarts")) == ("Succeeded", 2, None)
    assert "NodeLost" in reasons(world)


def test_the_next_attempt_does_not_begin_with_the_end_of_a_stage() -> None:
    """The trainer's apply does not take out what the operator wrote."""
    world = running(World(script=lambda attempt: Behaviour(every=LONG, start_after=2 if attempt == 1 else 1000)))
    world.run(30)
    world.evict(world.pod(0))
    world.run(until=lambda: world.status["attempts"] == 1 and "failure" in world.status)
    (stage,) = world.status["stages"]
    assert stage["state"] == "Failed" and "end" in stage
    world.run(until=lambda: world.status["attempts"] == 2)
    (stage,) = world.status["stages"]
    assert stage["state"] == "Failed" and "end" not in stage
