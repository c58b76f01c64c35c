"""What fails, what is tried again, when and how often, in `simulation.world`."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from simulation.scenarios import (
    CRASH,
    LONG,
    fails_first,
    reasons,
    running,
    seconds_between,
    two_nodes,
)
from simulation.world import Behaviour, Ending, World, ended, stamp

from kubooth_operator.children import ref_of

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
    world = two_nodes(lambda attempt: Behaviour(every=Ending(after=900)), maxRestarts=0)
    evict_again_and_again(world, times=5, saves=True)
    status = world.run_to_the_end()
    assert (status["phase"], status["attempts"], status.get("restarts")) == ("Succeeded", 6, None)
    assert reasons(world).count("Evicted") == 5
    assert pauses_between_attempts(world) == [0, 0, 0, 0, 0]


def test_between_disruptions_that_let_nothing_be_saved_the_pauses_grow() -> None:
    world = two_nodes(lambda attempt: Behaviour(every=Ending(after=900)), maxRestarts=0)
    evict_again_and_again(world, times=8, saves=False)
    evict_again_and_again(world, times=2, saves=True)
    evict_again_and_again(world, times=2, saves=False)
    status = world.run_to_the_end()
    assert (status["phase"], status.get("restarts")) == ("Succeeded", None)
    assert pauses_between_attempts(world) == [0, 10, 20, 40, 80, 160, 300, 300, 0, 0, 0, 10]


def test_a_checkpoint_that_is_saved_on_the_way_out_is_headway() -> None:
    def script(attempt: int) -> Behaviour:
        saved = {"checkpoint": {"uri": "s3://b/c", "step": 10 * attempt}}
        return Behaviour(every=Ending(after=900), stop_summary=saved, lingers=True)

    world = two_nodes(script, maxRestarts=0)
    evict_again_and_again(world, times=3, saves=False)
    assert world.run_to_the_end()["phase"] == "Succeeded"
    assert pauses_between_attempts(world) == [0, 0, 0]


def evict_again_and_again(world: World, *, times: int, saves: bool) -> None:
    """Evicts a pod of each of the next attempts when it has run for more than ten minutes; `saves`: and has saved."""
    for _ in range(times):
        before = world.status.get("attempts", 0) if "endTime" in world.status.get("attempt", {}) else None
        world.run(until=lambda ended=before: world.phase == "Running" and world.status.get("attempts") != ended)
        world.run(620)
        if saves and world.job is not None:
            step = world.status.get("checkpoint", {}).get("step", 0) + 10
            world.job["status"]["checkpoint"] = {"uri": "s3://b/c", "step": step}
        world.evict(world.pod(1))
        world.run(until=lambda: "endTime" in world.status["attempt"])


def pauses_between_attempts(world: World) -> list[float]:
    """Of each attempt that another followed: the seconds from its end to the time before which none may begin."""
    last = {each["attempt"]["number"]: each["attempt"] for each in world.status_writes if "attempt" in each}
    attempts = [attempt for number, attempt in sorted(last.items())][:-1]
    return [seconds_between(each["endTime"], each["retryTime"]) if "retryTime" in each else 0 for each in attempts]


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


def test_a_pod_that_goes_before_it_has_a_node_was_stopped() -> None:
    world = two_nodes(lambda attempt: Behaviour(start_after=2 if attempt > 1 else 10_000))
    world.run(5)
    pod = world.pod(1)
    del pod["spec"]["nodeName"]
    world.dead_nodes.add("")  # no kubelet looks after it
    pod["metadata"] |= {"deletionTimestamp": stamp(world.now), "stopped": world.now}
    world.run(15, until=lambda: "failure" in world.status)
    message = f"pod {pod['metadata']['name']} was deleted before it had a node"
    assert (world.status["failure"]["reason"], world.status["failure"]["message"]) == ("Stopped", message)
    assert world.status["restarts"] == 1
    assert world.run_to_the_end()["phase"] == "Succeeded"


@pytest.mark.parametrize("fails_at_once", [False, True], ids=["failure-target", "failed-at-once"])
def test_the_verdict_waits_for_the_last_words_of_the_other_pods(fails_at_once: bool) -> None:
    endings = {
        0: Ending(after=20, code=70, reason="TrainerCrashed", message="Connection closed by peer"),
        1: Ending(after=21, code=137, oom=True),
    }
    world = two_nodes(lambda attempt: Behaviour(endings=endings, stop_seconds=8), maxRestarts=0)
    world.fails_at_once = fails_at_once
    assert world.run_to_the_end()["failure"]["reason"] == "OutOfMemory"


def test_the_verdict_does_not_wait_for_ever() -> None:
    world = running(two_nodes(lambda attempt: Behaviour(endings={0: CRASH, 1: LONG}, stop_seconds=200)))
    world.run(60, until=lambda: world.status.get("restarts") == 1)
    assert (world.status["reason"], world.status["attempts"]) == ("Restarting", 1)
    assert len(world.pods) == 2
    world.run(300, until=lambda: world.status["attempts"] == 2)


def is_tainted(world: World) -> None:
    world.pod(1)["status"]["conditions"] = []
    world.evict(world.pod(1), "DeletionByTaintManager")


def comes_back(world: World) -> None:
    world.dead_nodes.clear()


LOST_PEER = Ending(after=20, code=75, reason="PeerLost", message="Connection reset by peer")
NODES_THAT_DIE: list[tuple[str, Ending, Callable[[World], Any], float, str, int | None]] = [
    ("is-tainted-later", LOST_PEER, is_tainted, 81, "NodeLost", None),
    ("never-says-a-word", LOST_PEER, lambda world: None, 315, "NodeLost", None),
    ("comes-back", LOST_PEER, comes_back, 85, "PeerLost", 1),
    ("the-job-is-suspended", LOST_PEER, lambda world: world.edit(suspend=True), 81, "PeerLost", 1),
    ("another-pod-has-the-cause", CRASH, lambda world: None, 11, "TrainerCrashed", 1),
]


@pytest.mark.parametrize(
    ("said", "happens", "within", "reason", "restarts"),
    [c[1:] for c in NODES_THAT_DIE],
    ids=[c[0] for c in NODES_THAT_DIE],
)
def test_a_node_that_dies_is_waited_for_where_the_other_pods_only_miss_it(
    said: Ending, happens: Callable[[World], Any], within: float, reason: str, restarts: int | None
) -> None:
    first = Behaviour(endings={0: said, 1: LONG})
    world = running(two_nodes(lambda attempt: first if attempt == 1 else Behaviour()))
    world.run(18)
    world.dead_nodes.add("node-1")
    world.run(until=lambda: world.pods and any(map(ended, world.pods.values())))
    if within > 80:
        world.run(80)
        assert (world.phase, world.condition("PodsReady")["reason"]) == ("Running", "PodNotReady")
    happens(world)
    start = world.now
    world.run(until=lambda: "failure" in world.status)
    assert (world.now - start).total_seconds() + (80 if within > 80 else 0) <= within
    assert (world.status["failure"]["reason"], world.status.get("restarts")) == (reason, restarts)
    world.edit(suspend=False)
    world.dead_nodes.discard("node-1")
    status = world.run_to_the_end()
    assert (status["phase"], status["attempts"], status.get("restarts")) == ("Succeeded", 2, restarts)


def test_the_pause_after_a_failure_runs_while_a_silent_node_is_waited_for() -> None:
    def script(attempt: int) -> Behaviour:
        return Behaviour(endings={0: LOST_PEER, 1: LONG} if attempt <= 4 else {}, stop_seconds=30)

    world = two_nodes(script, maxRestarts=9)
    assert world.run_to_the_end()["restarts"] == 4
    assert pauses_between_attempts(world) == [0, 0, 0, 20]


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


@pytest.mark.parametrize("known_by", ["reachable_since", "status_refused_at"])
def test_while_the_api_took_no_reports_nobody_could_report_progress(known_by: str) -> None:
    world = running(two_nodes(lambda attempt: Behaviour(every=LONG, beats=False), progressDeadlineSeconds=60))
    world.now += timedelta(seconds=600)
    setattr(world, known_by, world.now)
    world.run(85)
    assert world.phase == "Running"
    world.run(10)
    assert world.status["failure"]["reason"] == "Stalled"
