"""From pods to a reason: a table of how pods end and wait, and which of several causes is named."""

# ruff: noqa: E501 - tables have a case on each line

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, get_args

import pytest

from kubooth_operator.api.problems import Refusal
from kubooth_operator.diagnose import diagnose, why_waiting
from kubooth_operator.plan import Manifest
from kubooth_operator.workload import BatchJob, Pod
from kubooth_trainer import errors
from kubooth_trainer.termination import Termination

ROOT = Path(__file__).parents[2]


def pod(
    code: int | None = None,
    *,
    index: int = 0,
    said: str = "",
    words: str = "what happened",
    at: int = 0,
    phase: str = "Failed",
    condition: dict[str, Any] | None = None,
    ready: bool = False,
    running: bool = False,
    waiting: dict[str, Any] | None = None,
    deleted: bool = False,
    log: tuple[str, ...] = ("last line",),
    node: str | None = "node-a",
    **status: Any,
) -> Pod:
    """A pod, by default one that failed."""
    state: Manifest = {}
    if code is not None:
        text = Termination(reason=said, message=words, exit_code=code, log=log).to_text() if said else ""
        state = {
            "terminated": {
                "exitCode": code,
                "finishedAt": f"2026-01-31T12:00:{at:02}Z",
                "reason": "Error",
                "message": text,
            }
        }
        state["terminated"] |= status.pop("terminated", {})
    if waiting is not None:
        state = {"waiting": waiting}
    if running:
        state = {"running": {}}
    metadata: Manifest = {
        "name": f"rex-kubooth-1-{index}-abcde",
        "labels": {"kubooth.io/attempt": "1", "batch.kubernetes.io/job-completion-index": str(index)},
    }
    if deleted:
        metadata["deletionTimestamp"] = "2026-01-31T12:00:00Z"
    conditions = [{"type": "Ready", "status": "True" if ready else "False"}, *([condition] if condition else [])]
    return Pod(
        {
            "metadata": metadata,
            "spec": {"nodeName": node} if node else {},
            "status": {"phase": phase, "conditions": conditions, "containerStatuses": [{"name": "trainer", "state": state}], **status},
        }
    )  # fmt: skip


def disrupted(why: str, **fields: Any) -> Pod:
    return pod(condition={"type": "DisruptionTarget", "status": "True", "reason": why, "message": "so it is"}, **fields)


ONE_POD = [
    ("bad-subject", pod(2, said="BadSubject"), "BadSubject", "Permanent"),
    ("bad-model", pod(2, said="BadModel"), "BadModel", "Permanent"),
    ("denied", pod(2, said="StorageDenied"), "StorageDenied", "Permanent"),
    ("not-a-number", pod(2, said="NumericalError"), "NumericalError", "Permanent"),
    ("exit-2-without-a-word", pod(2), "ConfigError", "Permanent"),
    ("disk", pod(75, said="DiskFull"), "DiskFull", "Retryable"),
    ("device-memory", pod(75, said="DeviceOutOfMemory"), "DeviceOutOfMemory", "Retryable"),
    ("rendezvous", pod(75, said="RendezvousTimeout"), "RendezvousTimeout", "Retryable"),
    ("watchdog", pod(75, said="Stalled"), "Stalled", "Retryable"),
    ("crash", pod(70, said="TrainerCrashed"), "TrainerCrashed", "Retryable"),
    ("crash-without-a-word", pod(1), "TrainerCrashed", "Retryable"),
    ("killed", pod(137), "TrainerCrashed", "Retryable"),
    ("stopped", pod(143, said="Stopped"), "Stopped", "Retryable"),
    ("cut-off-after-its-grace", pod(137, deleted=True), "Stopped", "Retryable"),
    ("memory", pod(137, terminated={"reason": "OOMKilled"}), "OutOfMemory", "Retryable"),
    ("no-such-program", pod(128, terminated={"reason": "StartError"}), "ConfigError", "Retryable"),
    ("a-new-reason", pod(70, said="CosmicRay"), "CosmicRay", "Retryable"),
    ("not-a-reason", pod(70, said="<b>no</b>"), "TrainerCrashed", "Retryable"),
    ("node-pressure", disrupted("TerminationByKubelet", code=137, reason="Evicted"), "Evicted", "Disruption"),
    ("drained", disrupted("EvictionByEvictionAPI", code=143, said="Stopped"), "Evicted", "Disruption"),
    ("preempted", disrupted("PreemptionByScheduler", code=143, said="Stopped"), "Preempted", "Disruption"),
    ("node-gone", disrupted("DeletionByPodGC"), "NodeLost", "Disruption"),
    ("node-silent", disrupted("DeletionByTaintManager", running=True, phase="Running"), "NodeLost", "Disruption"),
    ("tainted", disrupted("DeletionByTaintManager", running=True, ready=True, phase="Running"), "Evicted", "Disruption"),
    ("own-disk-limit", pod(reason="Evicted", message="Usage of EmptyDir volume exceeds the limit"), "Evicted", "Retryable"),
    ("deleted-before-it-had-a-node", pod(node=None), "Stopped", "Retryable"),
    ("refused-by-the-node", pod(reason="UnexpectedAdmissionError", message="no devices"), "PodRejected", "Retryable"),
]  # fmt: skip


@pytest.mark.parametrize(("failed", "reason", "kind"), [c[1:] for c in ONE_POD], ids=[c[0] for c in ONE_POD])
def test_how_a_pod_ended(failed: Pod, reason: str, kind: str) -> None:
    found = diagnose([failed], None)
    assert (found.reason, found.kind, found.pod) == (reason, kind, failed.name)
    assert found.exit_code == failed.exit_code
    assert found.message


LOST_PEER = "Connection closed by peer [10.0.0.7]:29500"
GANGS = [
    ("memory-before-the-echo", [pod(70, said="PeerLost", words=LOST_PEER, at=1), pod(137, index=1, at=3, terminated={"reason": "OOMKilled"})], 1, "OutOfMemory"),
    ("cause-before-the-echo", [pod(70, said="PeerLost", words=LOST_PEER, at=1), pod(70, index=1, said="TrainerCrashed", words="KeyError: 'x'", at=2)], 1, "TrainerCrashed"),
    ("killed-before-the-echo", [pod(75, said="PeerLost", at=1), pod(137, index=1, at=2)], 1, "TrainerCrashed"),
    ("deleted-by-hand", [pod(75, said="PeerLost", at=5), pod(143, index=1, said="Stopped", at=3)], 1, "Stopped"),
    ("network-cut", [pod(75, said="PeerLost", at=3), pod(143, index=1, said="Stopped", at=5)], 0, "PeerLost"),
    ("watchdog-of-the-other", [pod(75, said="Stalled", at=1), pod(75, index=1, said="OutOfMemory", at=5)], 1, "OutOfMemory"),
    ("the-first-of-two-crashes", [pod(70, said="TrainerCrashed", at=5), pod(70, index=1, said="TrainerCrashed", at=4)], 1, "TrainerCrashed"),
    ("disk-before-a-rendezvous-that-failed", [pod(75, said="RendezvousTimeout", at=1), pod(75, index=1, said="DiskFull", at=2)], 1, "DiskFull"),
    ("eviction-before-the-crash-it-caused", [pod(70, said="TrainerCrashed", at=1), disrupted("EvictionByEvictionAPI", code=143, index=1, at=9)], 1, "Evicted"),
    ("what-no-retry-mends-first", [disrupted("EvictionByEvictionAPI", code=143, at=1), pod(2, index=1, said="BadModel", at=9)], 1, "BadModel"),
    ("stopped-last", [pod(143, said="Stopped", at=1), pod(70, index=1, said="TrainerCrashed", at=2)], 1, "TrainerCrashed"),
    ("one-succeeded", [pod(0, phase="Succeeded"), pod(75, index=1, said="StorageUnavailable")], 1, "StorageUnavailable"),
    ("stopped-without-a-node", [pod(70, said="TrainerCrashed", at=1), pod(node=None, index=1)], 0, "TrainerCrashed"),
    ("cut-off-is-an-echo", [pod(70, said="PeerLost", words=LOST_PEER, at=1), pod(137, index=1, deleted=True, at=9)], 0, "PeerLost"),
]  # fmt: skip


@pytest.mark.parametrize(("pods", "index", "reason"), [c[1:] for c in GANGS], ids=[c[0] for c in GANGS])
def test_of_a_gang_the_cause_is_named_not_its_echo(pods: list[Pod], index: int, reason: str) -> None:
    for order in (pods, pods[::-1]):
        found = diagnose(order, None)
        assert (found.reason, found.pod) == (reason, pods[index].name)


def test_the_log_comes_from_the_launcher_or_from_what_the_kubelet_kept() -> None:
    assert diagnose([pod(70, said="TrainerCrashed")], None).log == ("last line",)
    raw = pod(1, terminated={"message": "Traceback\n\nModuleNotFoundError: No module named 'x'\n"})
    assert diagnose([raw], None).log == ("Traceback", "ModuleNotFoundError: No module named 'x'")


BATCH_JOBS = [
    ("exit-2", "Container trainer for pod team-a/rex-kubooth-1-0-x failed with exit code 2 matching FailJob rule at index 1", "ConfigError", "Permanent"),
    ("exit-70", "Container trainer for pod team-a/rex-kubooth-1-0-x failed with exit code 70 matching FailJob rule at index 1", "TrainerCrashed", "Retryable"),
    ("disrupted", "Pod team-a/rex-kubooth-1-0-x has condition DisruptionTarget matching FailJob rule at index 0", "Evicted", "Disruption"),
    ("unknown", "Job has reached the specified backoff limit", "TrainerCrashed", "Retryable"),
]  # fmt: skip


@pytest.mark.parametrize(("message", "reason", "kind"), [c[1:] for c in BATCH_JOBS], ids=[c[0] for c in BATCH_JOBS])
def test_where_the_pods_are_gone_the_batch_job_is_asked(message: str, reason: str, kind: str) -> None:
    failed = {"type": "Failed", "status": "True", "reason": "PodFailurePolicy", "message": message}
    found = diagnose([], BatchJob({"metadata": {"name": "rex-kubooth-1"}, "status": {"conditions": [failed]}}))
    assert (found.reason, found.kind) == (reason, kind)
    assert diagnose([], None).reason == "TrainerCrashed"


def test_a_disruption_that_only_the_batch_job_still_knows_goes_before_an_echo_of_it() -> None:
    """The pod that was evicted is gone, and rank 0 ended because of it."""
    message = "Pod team-a/rex-kubooth-1-1-x has condition DisruptionTarget matching FailJob rule at index 0"
    failed = {"type": "FailureTarget", "status": "True", "reason": "PodFailurePolicy", "message": message}
    batch_job = BatchJob({"metadata": {"name": "rex-kubooth-1"}, "status": {"conditions": [failed]}})
    for echo in (pod(143, said="Stopped"), pod(75, said="PeerLost")):
        found = diagnose([echo], batch_job)
        assert (found.reason, found.kind, found.is_echo) == ("Evicted", "Disruption", False)
    found = diagnose([pod(70, said="TrainerCrashed")], batch_job)
    assert (found.reason, found.kind) == ("TrainerCrashed", "Retryable")


@pytest.mark.parametrize(("code", "reason"), [(255, "Unknown"), (137, "ContainerStatusUnknown")])
def test_a_node_that_started_anew_is_no_fault_of_the_trainer(code: int, reason: str) -> None:
    found = diagnose([pod(code, terminated={"reason": reason}), pod(75, index=1, said="PeerLost")], None)
    assert (found.reason, found.kind, found.pod) == ("NodeLost", "Disruption", "rex-kubooth-1-0-abcde")


def scheduled(reason: str, message: str) -> Pod:
    return pod(
        phase="Pending", condition={"type": "PodScheduled", "status": "False", "reason": reason, "message": message}
    )


WAITING = [
    ("image", [pod(phase="Pending", waiting={"reason": "ImagePullBackOff", "message": "Back-off pulling image x"})], "ImagePull", "Back-off pulling image x"),
    ("image-name", [pod(phase="Pending", waiting={"reason": "InvalidImageName"})], "ImagePull", "InvalidImageName"),
    ("secret", [pod(phase="Pending", waiting={"reason": "CreateContainerConfigError", "message": 'secret "s3" not found'})], "ConfigError", 'secret "s3" not found'),
    ("no-node", [scheduled("Unschedulable", "0/2 nodes are available: 2 Insufficient nvidia.com/gpu.")], "Unschedulable", "Insufficient nvidia.com/gpu"),
    ("gated", [scheduled("SchedulingGated", "")], "Queued", "scheduling gate"),
    ("setting-up", [pod(phase="Pending", waiting={"reason": "ContainerCreating"})], "ContainerCreating", "kubectl describe pod"),
    ("node-silent", [pod(phase="Running", running=True)], "PodNotReady", "node-a"),
    ("quota", [], "PodsNotCreated", "1 of 1 pods cannot be created"),
    ("worst-first", [pod(phase="Pending", waiting={"reason": "ContainerCreating"}), pod(index=1, phase="Pending", waiting={"reason": "ErrImagePull"})], "ImagePull", "ErrImagePull"),
    ("one-is-ready", [pod(phase="Running", running=True, ready=True), pod(index=1, phase="Pending", waiting={"reason": "ErrImagePull"})], "ImagePull", "rex-kubooth-1-1"),
]  # fmt: skip


@pytest.mark.parametrize(("pods", "reason", "words"), [c[1:] for c in WAITING], ids=[c[0] for c in WAITING])
def test_why_pods_are_not_ready(pods: list[Pod], reason: str, words: str) -> None:
    found = why_waiting(pods, nodes=max(1, len(pods)), batch_job="rex-kubooth-1", refusal="")
    assert found.reason == reason
    assert words in found.message


def test_why_pods_cannot_be_created_is_said_where_it_is_known() -> None:
    found = why_waiting([], nodes=2, batch_job="rex-kubooth-1", refusal="exceeded quota: team, requested: pods=1")
    assert (found.reason, found.message) == (
        "PodsNotCreated",
        "2 of 2 pods cannot be created: exceeded quota: team, requested: pods=1",
    )


def test_every_reason_is_explained() -> None:
    """`docs/troubleshooting.md` has a row for each word that a status can hold."""
    names = ("diagnose", "attempts", "verdict", "ending", "reconcile")
    source = "".join((ROOT / "operator/kubooth_operator" / f"{name}.py").read_text() for name in names)
    phases = {"Pending", "Failed"}
    said = set(re.findall(r'"([A-Z][a-z]+[A-Za-z]*)"', source)) - phases - NOT_REASONS
    raised = {each.reason for each in vars(errors).values() if isinstance(each, type) and hasattr(each, "reason")}
    text = (ROOT / "docs/troubleshooting.md").read_text()
    explained = set(re.findall(r"`([A-Z][A-Za-z]+)`", text))
    assert len(said) > 30
    assert sorted((said | raised | set(get_args(Refusal))) - explained) == []


NOT_REASONS = {
    "Permanent", "Retryable", "Disruption", "Retry", "Disrupted", "Completed", "Complete", "Kubelet",
    "Ready", "PodScheduled", "SchedulingGated", "PreemptionByScheduler", "DeletionByPodGC", "DeletionByTaintManager",
    "DisruptionTarget", "StartError", "ContainerCannotRun", "ImagePullBackOff", "ErrImagePull", "InvalidImageName",
    "ErrImageNeverPull", "ImageInspectError", "RegistryUnavailable", "SignatureValidationFailed",
    "CreateContainerConfigError", "CreateContainerError", "RunContainerError", "PreCreateHookError", "Job", "False",
    "Unknown", "ContainerStatusUnknown",
}  # fmt: skip
"""Words of Kubernetes, and of our own that no status shows."""
