"""Every way a job can fail, produced for real: the status says what a person needs; no result is written."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable

import pytest
from bed.eventually import eventually
from bed.rest import condition
from bed.s3 import GUEST_ACCESS_KEY, GUEST_SECRET_KEY
from bed.trainings import SECRET, Trainings

NO_RESTART = {"maxRestarts": 0}
IN_A_HURRY = {"maxRestarts": 0, "startupDeadlineSeconds": 20}
LONG = {"steps": 20_000}
# Stands in for an accelerator that has no memory left: the exception is torch's own, at the door of the training loop.
NO_DEVICE_MEMORY = """
import sys
def hook(event, arguments):
    if event == "import" and arguments[0] == "kubooth_trainer.loop":
        raise sys.modules["torch"].OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB.")
sys.addaudithook(hook)
"""


def image_pull(trainings: Trainings) -> None:
    trainings.change_runtime(image="registry.example/none:1")
    trainings.submit(nodes=1, run_policy=IN_A_HURRY)


def unschedulable(trainings: Trainings) -> None:
    trainings.change_runtime(nodeSelector={"nowhere": "true"})
    trainings.submit(nodes=1, run_policy=IN_A_HURRY)


def out_of_memory(trainings: Trainings) -> None:
    trainings.change_runtime(resources={"limits": {"memory": "150Mi"}})
    trainings.submit(nodes=1, run_policy=NO_RESTART)


def device_out_of_memory(trainings: Trainings) -> None:
    meta = {"name": "faults", "namespace": trainings.bench.namespace}
    data = {"sitecustomize.py": NO_DEVICE_MEMORY}
    trainings.cluster.plane.apply({"apiVersion": "v1", "kind": "ConfigMap", "metadata": meta, "data": data})
    path = ":".join(
        ["/faults", *(f"/opt/kubooth/source/{folder}" for folder in ("operator", "trainer", "world", "cli"))]
    )
    trainings.change_runtime(
        volumes=[{"name": "faults", "mountPath": "/faults", "source": {"configMap": {"name": "faults"}}}],
        env=[{"name": "OMP_NUM_THREADS", "value": "1"}, {"name": "PYTHONPATH", "value": path}],
    )
    trainings.submit(nodes=1, run_policy=NO_RESTART)


def bad_subject(trainings: Trainings) -> None:
    photos = f"bad/{trainings.bench.namespace}/"
    trainings.s3.put(f"{photos}1.jpg", b"a letter, not a picture")
    subject = {"className": "dog", "images": trainings.s3.uri(photos)}
    trainings.submit(nodes=1, spec={"subject": subject})


def bad_model(trainings: Trainings) -> None:
    trainings.submit(nodes=1, spec={"model": {"uri": trainings.s3.uri("photos/")}})


def storage_denied(trainings: Trainings) -> None:
    keys = {"AWS_ACCESS_KEY_ID": GUEST_ACCESS_KEY, "AWS_SECRET_ACCESS_KEY": GUEST_SECRET_KEY}
    meta = {"name": SECRET, "namespace": trainings.bench.namespace}
    trainings.cluster.plane.apply({"apiVersion": "v1", "kind": "Secret", "metadata": meta, "stringData": keys})
    trainings.submit(nodes=1)


def numerical_error(trainings: Trainings) -> None:
    # No number in fp32 is as small: for a weight without gradient, AdamW divides nothing by nothing.
    trainings.submit(nodes=1, adamEpsilon=1e-60)


def deadline_exceeded(trainings: Trainings) -> None:
    trainings.submit(nodes=1, run_policy={"activeDeadlineSeconds": 10}, **LONG)


def rendezvous_timeout(trainings: Trainings) -> None:
    name = f"rex-kubooth-1-0.rex-kubooth.{trainings.bench.namespace}"
    trainings.cluster.delay_dns(name, time.monotonic() + 600)
    trainings.submit(run_policy={"maxRestarts": 0, "startupDeadlineSeconds": 30})


def config_error(trainings: Trainings) -> None:
    words = " and".join([" on the grass"] * 20)  # more than the model reads, which only its tokenizer knows
    trainings.submit(nodes=1, spec={"evaluation": {"prompts": [f"a {{identifier}} {{class}}{words}"]}})


def trainer_crashed(trainings: Trainings) -> None:
    trainings.submit(run_policy=NO_RESTART, **LONG)
    trainings.wait_for_checkpoint()
    trainings.pod(1).kill(rank=1)


def stalled(trainings: Trainings) -> None:
    trainings.submit(run_policy={"maxRestarts": 0, "progressDeadlineSeconds": 60}, **LONG)
    trainings.wait_for_checkpoint()
    trainings.pod(1).signal_all(signal.SIGSTOP)


FAILURES: dict[str, tuple[Callable[[Trainings], None], int | None, str]] = {
    "ImagePull": (image_pull, None, "registry.example/none:1"),
    "Unschedulable": (unschedulable, None, "node"),
    "OutOfMemory": (out_of_memory, 137, "memory"),
    "DeviceOutOfMemory": (device_out_of_memory, 75, "training.batchSize"),
    "BadSubject": (bad_subject, 2, "1.jpg"),
    "BadModel": (bad_model, 2, "model_index.json"),
    "StorageDenied": (storage_denied, 2, "s3://"),
    "NumericalError": (numerical_error, 2, "training.learningRate"),
    "DeadlineExceeded": (deadline_exceeded, None, "activeDeadlineSeconds"),
    "RendezvousTimeout": (rendezvous_timeout, 75, "did not find each other"),
    "ConfigError": (config_error, 2, "evaluation.prompts[0]"),
    "TrainerCrashed": (trainer_crashed, 70, "rank 1"),
    "Stalled": (stalled, 75, "no progress"),
}


@pytest.mark.parametrize("reason", FAILURES)
def test_a_job_that_fails_says_why(trainings: Trainings, reason: str) -> None:
    produce, exit_code, says = FAILURES[reason]
    produce(trainings)
    status = trainings.fail()
    failure = status["failure"]
    assert failure["reason"] == reason, trainings.story()
    assert says in failure["message"] and failure.get("exitCode") == exit_code, failure
    assert exit_code is None or failure["pod"].startswith("rex-kubooth-1-")
    failed = condition({"status": status}, "Failed")
    assert failed and (failed["status"], failed["reason"]) == ("True", reason)
    assert status["attempts"] == 1 and status["completionTime"]
    assert not [stage for stage in status.get("stages", []) if stage["state"] == "Running"]
    assert "manifest.json" not in trainings.keys()  # noqa: SIM118
    if reason == "Stalled":
        assert any(line.startswith("stack: ") for line in failure["log"]), failure["log"]
    no_secret_is_shown(trainings)
    eventually(lambda: not running(trainings), "the end of all processes", seconds=60)


def no_secret_is_shown(trainings: Trainings) -> None:
    """Neither in any object of the namespace but the Secret itself, nor in an event or a log."""
    shown = trainings.cluster.plane.kubectl(
        "get", "pjob,configmap,pod,job,event,role,rolebinding", "-n", trainings.bench.namespace, "-o", "yaml"
    ).stdout
    shown += trainings.story()
    for secret in ("bed-owner-secret", GUEST_SECRET_KEY):
        assert secret not in shown


def running(trainings: Trainings) -> list[str]:
    return [
        pod.name
        for node in trainings.cluster.nodes
        for pod in node.pods
        for container in pod.containers
        if container.is_running and pod.manifest["metadata"]["namespace"] == trainings.bench.namespace
    ]
