"""Real trainings in real pods: whatever happens on the way, the weights are the undisturbed run's, bit for bit."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from bed.eventually import eventually
from bed.rest import condition
from bed.trainings import Trainings, Undisturbed

Disturbance = Callable[[Trainings], None]


def rank_killed(trainings: Trainings) -> None:
    trainings.pod(1).kill(rank=1)


def pod_killed(trainings: Trainings) -> None:
    trainings.pod(0).kill()


def pod_deleted(trainings: Trainings) -> None:
    trainings.cluster.plane.kubectl(
        "delete", "pod", trainings.pod_name(1), "-n", trainings.bench.namespace, "--wait=false"
    )


def operator_killed(trainings: Trainings) -> None:
    trainings.operator.kill()
    trainings.pod(1).kill(rank=1)  # while nobody looks
    trainings.operator.start()


def node_drained(trainings: Trainings) -> None:
    kubectl = trainings.cluster.plane.kubectl
    node = trainings.cluster.node_of(trainings.bench.namespace, trainings.pod_name(1)).name
    kubectl("drain", node, "--delete-emptydir-data", "--ignore-daemonsets", "--timeout=120s")
    failure = eventually(lambda: trainings.bench.status().get("failure"), "a word on why it began again")
    assert failure["reason"] == "Evicted"
    kubectl("uncordon", node)


def network_silenced(trainings: Trainings) -> None:
    trainings.pod(1).silence()


def suspended(trainings: Trainings) -> None:
    bench = trainings.bench
    bench.rest.merge(bench.job_path(), {"spec": {"suspend": True}})
    status = bench.wait_for_phase("Suspended", seconds=120)
    assert condition({"status": status}, "Suspended")["status"] == "True"
    assert all(pod["status"]["phase"] in ("Succeeded", "Failed") for pod in bench.pods()), "devices are held"
    eventually(lambda: not bench.pods(), "no pod")
    bench.rest.merge(bench.job_path(), {"spec": {"suspend": False}})


@pytest.mark.parametrize(
    ("disturb", "restarts"),
    [
        pytest.param(rank_killed, 1, marks=pytest.mark.soak),  # as operator_killed does too
        pytest.param(pod_killed, 1, marks=pytest.mark.soak),
        pytest.param(pod_deleted, 1, marks=pytest.mark.soak),
        (operator_killed, 1),
        (node_drained, 0),
        (network_silenced, 1),
        (suspended, 0),
    ],
    ids=lambda value: value.__name__ if callable(value) else "",
)
def test_disturbed_in_training(
    trainings: Trainings, undisturbed: Undisturbed, disturb: Disturbance, restarts: int
) -> None:
    expected = undisturbed.weights(trainings)
    trainings.submit(run_policy={"progressDeadlineSeconds": 60} if disturb is network_silenced else None)
    trainings.wait_for_checkpoint()
    disturb(trainings)
    status = trainings.succeed()
    assert (status["attempts"], status.get("restarts", 0)) == (2, restarts), trainings.story()
    train = next(stage for stage in status["stages"] if stage["name"] == "Train")
    assert train["note"].startswith("resumed at step ")
    assert trainings.weights() == expected
    trainings.assert_nothing_is_left()


def test_a_node_is_gone(trainings: Trainings, undisturbed: Undisturbed) -> None:
    expected = undisturbed.weights(trainings)
    trainings.submit()
    trainings.wait_for_checkpoint()
    node = trainings.cluster.node_of(trainings.bench.namespace, trainings.pod_name(0))
    node.vanish()
    try:
        status = trainings.succeed()
    finally:
        node.come_back()
    assert (status["attempts"], status.get("restarts", 0)) == (2, 0)
    assert trainings.weights() == expected
    path = f"/api/v1/nodes/{node.name}"
    eventually(lambda: not trainings.cluster.api.request("GET", path)["spec"].get("taints"), "the node")
    trainings.assert_nothing_is_left()
