"""From pods and their batch Job to a reason that a person understands. Pure; called by `verdict` and `present`.

A gang falls together: one pod has the cause, the others report the lost connection a second later, and may be seen
first. So findings are ranked by how much they explain, then by time. The reasons are listed in
`docs/troubleshooting.md`; what a retry can mend follows from the trainer's exit code (`kubooth_trainer.errors`).
"""

from __future__ import annotations

import re
import signal
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from enum import IntEnum
from typing import Literal

from kubooth_operator.workload import BatchJob, Pod
from kubooth_trainer.errors import ExitCode

Kind = Literal["Permanent", "Retryable", "Disruption"]

_FAR_FUTURE = datetime.max.replace(tzinfo=UTC)
KILLED = 128 + signal.SIGKILL
_WORD = re.compile(r"[A-Z][A-Za-z0-9]{0,63}")
_EXIT_CODE = re.compile(r"Container \S+ for pod \S*?([^/\s]+) failed with exit code (\d+)")
_IMAGE = frozenset(
    {"ImagePullBackOff", "ErrImagePull", "InvalidImageName", "ErrImageNeverPull", "ImageInspectError",
     "RegistryUnavailable", "SignatureValidationFailed"}
)  # fmt: skip
_CONTAINER_CONFIG = frozenset(
    {"CreateContainerConfigError", "CreateContainerError", "RunContainerError", "PreCreateHookError"}
)
_LEFT_BEHIND = frozenset({"Unknown", "ContainerStatusUnknown"})  # containerd's word, and the kubelet's


class _Rank(IntEnum):
    """How much a finding explains: the lowest number is the cause."""

    PERMANENT = 0  # the trainer says that no retry mends it
    DISRUPTION = 1  # the cluster took the pod away
    KUBELET = 2  # the node ended or refused it: memory, disk, devices
    KNOWN = 3  # the trainer knows what it lacked: device memory, disk, storage
    CRASH = 4
    SYMPTOM = 5  # of the loss of another pod, often
    ECHO = 6  # of the end of another pod
    NOTHING = 9


_BY_REASON = {
    "TrainerCrashed": _Rank.CRASH,
    "RendezvousTimeout": _Rank.SYMPTOM,
    "Stalled": _Rank.SYMPTOM,
    "PeerLost": _Rank.ECHO,
    "Stopped": _Rank.ECHO,
}


@dataclass(frozen=True, kw_only=True)
class Diagnosis:
    """Why an attempt failed. `kind` says what a retry can mend, and whether it counts."""

    reason: str
    message: str
    kind: Kind
    pod: str | None = None
    exit_code: int | None = None
    log: tuple[str, ...] = ()
    is_echo: bool = False  # the cause lies with another pod, perhaps


@dataclass(frozen=True, kw_only=True)
class Waiting:
    """Why pods are not ready yet."""

    reason: str
    message: str


def diagnose(pods: Sequence[Pod], batch_job: BatchJob | None) -> Diagnosis:
    """Why an attempt failed, from its pods, and from its batch Job where those are gone that would tell."""
    findings = [(rank, pod, diagnosis) for pod in pods for rank, diagnosis in [_of_pod(pod)] if diagnosis is not None]
    if findings:
        rank, _, first = min(findings, key=lambda each: (each[0], each[1].end_time or _FAR_FUTURE, each[1].name))
        found = replace(first, is_echo=rank >= _Rank.SYMPTOM)
        told = _of_batch_job(batch_job)
        return told if found.is_echo and told.kind == "Disruption" else found
    return _of_batch_job(batch_job)


def why_waiting(pods: Sequence[Pod], *, nodes: int, batch_job: str, refusal: str) -> Waiting:
    """Why not all pods of an attempt are ready, as far as one can see. `refusal` is what the API server has against
    those that are missing, where that is known."""
    reasons = [(rank, pod.name, waiting) for pod in pods for rank, waiting in [_wait_of(pod)] if waiting is not None]
    missing = nodes - len(pods)
    if missing > 0 and not any(rank == 0 for rank, _, _ in reasons):
        why = refusal or (
            f"a quota, a policy or a missing ServiceAccount stops them; `kubectl describe job {batch_job}` says which"
        )
        return Waiting(reason="PodsNotCreated", message=f"{missing} of {nodes} pods cannot be created: {why}")
    if reasons:
        return min(reasons, key=lambda each: each[:2])[2]
    return Waiting(reason="PodsNotReady", message="waiting for the pods to be ready")


def _of_pod(pod: Pod) -> tuple[_Rank, Diagnosis | None]:
    """What a pod tells, and how much that explains."""
    said, code, killed_by = pod.termination, pod.exit_code, pod.terminated.get("reason")
    if pod.has_succeeded:
        return _Rank.NOTHING, None
    if code == ExitCode.FIX_AND_RESUBMIT:
        return _Rank.PERMANENT, _said(pod, "ConfigError", "the trainer refused its configuration", kind="Permanent")
    if pod.disruption is not None:
        reason, what = _disruption(pod)
        return _Rank.DISRUPTION, _seen(pod, reason, what, kind="Disruption")
    if pod.reason == "Evicted":
        return _Rank.KUBELET, _seen(pod, "Evicted", f"was evicted: {pod.message}")
    if said is None and killed_by in _LEFT_BEHIND:
        return _Rank.DISRUPTION, _seen(pod, "NodeLost", "ended with its node, which started anew", kind="Disruption")
    if killed_by == "OOMKilled":
        what = "was killed because its memory limit was reached: raise resources.limits.memory in the runtime"
        return _Rank.KUBELET, _seen(pod, "OutOfMemory", what)
    if pod.has_failed and pod.node is None:  # by the cluster's clean-up, once somebody had deleted it
        return _Rank.ECHO, _seen(pod, "Stopped", "was deleted before it had a node")
    if pod.has_failed and not pod.terminated:
        return _Rank.KUBELET, _seen(pod, "PodRejected", f"was refused by its node: {pod.reason}: {pod.message}")
    if code is None or code == ExitCode.OK:
        return _Rank.NOTHING, None
    if said is None and killed_by in {"StartError", "ContainerCannotRun"}:
        return _Rank.KUBELET, _said(pod, "ConfigError", "cannot be started")
    was_cut_off = said is None and code == KILLED and pod.gone_by is not None  # its grace period was over
    if was_cut_off or code in {ExitCode.TERMINATED, ExitCode.INTERRUPTED}:
        return _Rank.ECHO, _said(pod, "Stopped", "was stopped from outside")
    what = "was killed (SIGKILL) from outside" if code == KILLED else f"ended with exit code {code}"
    diagnosis = _said(pod, "TrainerCrashed", what)
    return _BY_REASON.get(diagnosis.reason, _Rank.KNOWN), diagnosis


def _said(pod: Pod, reason: str, otherwise: str, *, kind: Kind = "Retryable") -> Diagnosis:
    """In the words of the pod's launcher, where it left any."""
    said = pod.termination
    if said is not None and _WORD.fullmatch(said.reason) and said.reason != "Completed":
        reason = said.reason
    message = said.message if said is not None and said.message else f"pod {pod.name} {otherwise}"
    return Diagnosis(
        reason=reason, message=message, kind=kind, pod=pod.name, exit_code=pod.exit_code, log=_log(pod)
    )  # fmt: skip


def _seen(pod: Pod, reason: str, what: str, *, kind: Kind = "Retryable") -> Diagnosis:
    """In our own words, from what the cluster says of the pod."""
    return Diagnosis(
        reason=reason,
        message=_where(pod, what.rstrip(": ")),
        kind=kind,
        pod=pod.name,
        exit_code=pod.exit_code,
        log=_log(pod),
    )


def _log(pod: Pod) -> tuple[str, ...]:
    """The last lines: as the launcher left them, else what the kubelet took from the log."""
    said = pod.termination
    if said is not None:
        return said.log
    return tuple(line for line in str(pod.terminated.get("message", "")).splitlines() if line.strip())[-20:]


def _disruption(pod: Pod) -> tuple[str, str]:
    condition = pod.disruption or {}
    detail = f": {condition['message']}" if condition.get("message") else ""
    match condition.get("reason"):
        case "PreemptionByScheduler":
            return "Preempted", f"made room for a pod of higher priority{detail}"
        case "DeletionByPodGC":
            return "NodeLost", f"is lost with its node{detail}"
        case "DeletionByTaintManager" if pod.is_running and not pod.is_ready:
            return "NodeLost", f"is lost: its node does not answer{detail}"
        case _:
            return "Evicted", f"was evicted{detail}"


def _where(pod: Pod, what: str) -> str:
    return f"pod {pod.name} on node {pod.node} {what}" if pod.node else f"pod {pod.name} {what}"


def _of_batch_job(batch_job: BatchJob | None) -> Diagnosis:
    if batch_job is None:
        return Diagnosis(reason="TrainerCrashed", message="the pods are gone and left no word", kind="Retryable")
    message = str(batch_job.failure.get("message", ""))
    found = _EXIT_CODE.search(message)
    if found:
        code = int(found[2])
        permanent = code == ExitCode.FIX_AND_RESUBMIT
        return Diagnosis(
            reason="ConfigError" if permanent else "TrainerCrashed",
            message=f"pod {found[1]} ended with exit code {code} and left no word",
            kind="Permanent" if permanent else "Retryable",
            pod=found[1],
            exit_code=code,
        )
    if "DisruptionTarget" in message:
        return Diagnosis(reason="Evicted", message=message, kind="Disruption")
    return Diagnosis(
        reason="TrainerCrashed",
        message=f"the pods left no word; batch Job {batch_job.name} says: {message or batch_job.failure.get('reason')}",
        kind="Retryable",
    )


def _wait_of(pod: Pod) -> tuple[int, Waiting | None]:
    if pod.is_ready or pod.is_terminal:
        return 9, None
    waiting = pod.waiting
    reason, message = str(waiting.get("reason", "")), str(waiting.get("message", ""))
    if reason in _IMAGE:
        return 0, Waiting(reason="ImagePull", message=_where(pod, f"cannot get its image: {message or reason}"))
    if reason in _CONTAINER_CONFIG:
        return 0, Waiting(reason="ConfigError", message=_where(pod, f"cannot be started: {message or reason}"))
    scheduled = pod.condition("PodScheduled")
    if scheduled is not None and scheduled.get("status") == "False":
        if scheduled.get("reason") == "SchedulingGated":
            return 0, Waiting(reason="Queued", message=f"pod {pod.name} is held back by a scheduling gate")
        detail = scheduled.get("message") or "no node fits"
        return 0, Waiting(reason="Unschedulable", message=f"pod {pod.name} finds no node: {detail}")
    if pod.is_running:
        return 1, Waiting(reason="PodNotReady", message=_where(pod, "is not ready: its node may not answer"))
    if pod.is_scheduled:
        what = "is being set up: image, volumes and network; `kubectl describe pod` shows what it waits for"
        return 2, Waiting(reason="ContainerCreating", message=_where(pod, what))
    return 3, Waiting(reason="PodsNotReady", message="waiting for the pods to be ready")
