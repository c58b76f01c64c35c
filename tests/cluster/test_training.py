"""Real trainings in real pods: whatever happens on the way, the weights are the undisturbed run's, bit for bit."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest
from bed.eventually import eventually
from bed.rest import condition
from bed.trainings import STEPS, SUCCESS_SECONDS, Trainings

Disturbance = Callable[[Trainings], None]


@pytest.fixture(scope="module")
def undisturbed() -> dict[str, dict[str, str]]:
    """Weights of the undisturbed run, kept by the first test for the others."""
    return {}


def weights_of_the_undisturbed(trainings: Trainings, kept: dict[str, dict[str, str]]) -> dict[str, str]:
    if not kept:
        trainings.submit("calm")
        trainings.succeed("calm")
        kept["weights"] = trainings.weights("calm")
    return kept["weights"]


def test_from_apply_to_a_model_in_the_bucket(trainings: Trainings, undisturbed: dict[str, dict[str, str]]) -> None:
    trainings.submit()
    status = trainings.succeed()
    trainings.cluster.plane.kubectl(
        "wait", "--for=condition=Succeeded", "pjob/rex", "-n", trainings.bench.namespace, "--timeout=10s"
    )
    assert status["attempts"] == 1 and status.get("restarts", 0) == 0 and "failure" not in status
    assert [(stage["name"], stage["state"]) for stage in status["stages"]] == [
        (name, "Succeeded") for name in ("Download", "Prior", "Prepare", "Train", "Evaluate", "Upload")
    ]
    assert status["progress"]["summary"] == f"{STEPS}/{STEPS} 100%" and status["identifier"]
    assert status["output"]["uri"] == trainings.output() and status["report"]["uri"].endswith("/report.html")
    assert status["deviceSeconds"] > 0 and status["completionTime"]
    keys = trainings.keys()
    assert {"manifest.json", "report.html", "model_index.json"} <= set(keys)
    assert not [key for key in keys if key.startswith(".kubooth/")]
    undisturbed["weights"] = trainings.weights()
    assert {name.partition("/")[0] for name in undisturbed["weights"]} >= {"unet", "text_encoder", "vae"}
    nothing_is_left(trainings)


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
    assert not bench.pods()
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
    trainings: Trainings, undisturbed: dict[str, dict[str, str]], disturb: Disturbance, restarts: int
) -> None:
    expected = weights_of_the_undisturbed(trainings, undisturbed)
    trainings.submit(run_policy={"progressDeadlineSeconds": 60} if disturb is network_silenced else None)
    trainings.wait_for_checkpoint()
    disturb(trainings)
    status = trainings.succeed()
    assert (status["attempts"], status.get("restarts", 0)) == (2, restarts), trainings.story()
    train = next(stage for stage in status["stages"] if stage["name"] == "Train")
    assert train["note"].startswith("resumed at step ")
    assert trainings.weights() == expected
    nothing_is_left(trainings)


def test_a_node_is_gone(trainings: Trainings, undisturbed: dict[str, dict[str, str]]) -> None:
    expected = weights_of_the_undisturbed(trainings, undisturbed)
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
    eventually(lambda: not trainings.cluster.api.request("GET", path)["spec"].get("taints"), "the node", seconds=60)
    nothing_is_left(trainings)


@pytest.mark.parametrize("late", ["pod", pytest.param("name", marks=pytest.mark.soak)])
def test_rank_0_is_late(trainings: Trainings, undisturbed: dict[str, dict[str, str]], late: str) -> None:
    expected = weights_of_the_undisturbed(trainings, undisturbed)
    until = time.monotonic() + 30
    if late == "pod":
        trainings.cluster.delay_pods("rex-kubooth-1-0-", until)
    else:
        trainings.cluster.delay_dns(f"rex-kubooth-1-0.rex-kubooth.{trainings.bench.namespace}", until)
    trainings.submit()
    status = trainings.succeed()
    assert time.monotonic() > until and status["attempts"] == 1
    assert trainings.weights() == expected


def test_the_api_server_is_away_for_a_minute(trainings: Trainings, undisturbed: dict[str, dict[str, str]]) -> None:
    expected = weights_of_the_undisturbed(trainings, undisturbed)
    trainings.submit()
    trainings.wait_for_checkpoint()
    trainings.cluster.plane.stop_apiserver()
    back = time.monotonic() + 60
    try:  # it ends in the dark: the last word of its pods says how
        eventually(
            lambda: time.monotonic() > back and "manifest.json" in trainings.keys(),  # noqa: SIM118
            "a result, and a minute without the API",
            seconds=SUCCESS_SECONDS,
        )
    finally:
        trainings.cluster.plane.start_apiserver()
    status = trainings.succeed()
    assert status["attempts"] == 1
    assert trainings.weights() == expected


def nothing_is_left(trainings: Trainings) -> None:
    """No process of an ended pod; and once the job is deleted, no object."""
    bench = trainings.bench
    running = [container for node in trainings.cluster.nodes for pod in node.pods for container in pod.containers
               if container.is_running and pod.manifest["metadata"]["namespace"] == bench.namespace]  # fmt: skip
    assert not running
    for name in ("rex", "calm"):
        if bench.rest.find(bench.job_path(name)):
            bench.rest.delete(bench.job_path(name), propagationPolicy="Background")
    eventually(lambda: not bench.children() and not bench.pods(), "no child", seconds=60, tell=bench.children)
