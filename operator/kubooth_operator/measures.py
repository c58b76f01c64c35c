"""What there is to measure about jobs: from a status that changed, and from jobs as they stand. Pure.

`metrics` counts what comes from here. A status is written by the one operator that works, so each change is measured
once; the trainer's own words (stages, class images) are taken when the job ends. Labels take few values: reasons that
docs/troubleshooting.md does not list are counted as Other.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final

from kubooth_operator.workload import time_of

Manifest = dict[str, Any]
FINISHED: Final = ("Succeeded", "Failed")
OTHER: Final = "Other"
_REFUSALS = """
    InvalidSpec RuntimeNotFound InvalidRuntime NamespaceNotAllowed LimitExceeded LocationNotAllowed ModelNotFound
    ConsentRequired LabelRequired PriorityClassNotAllowed UnsupportedFeature
"""
_WAITS = """
    Starting PodsNotReady ContainerCreating Queued PodNotReady JobDeleted Restarting BackOff Stopping Suspending
    Suspended AttemptEnded Finished Resumed Rejected NotMeasured Accepted PodsReady Running Succeeded
"""
_FAILURES = """
    BadSubject BadModel StorageDenied OutputExists NumericalError QualityRejected ConfigError DeadlineExceeded
    OutOfMemory
    DeviceOutOfMemory DiskFull StorageUnavailable RendezvousTimeout PeerLost Stalled StartupDeadlineExceeded
    Unschedulable ImagePull PodsNotCreated NameTaken Refused PodRejected TrainerCrashed Stopped Evicted Preempted
    NodeLost JobDeleted
"""
FAILURES: Final = frozenset(_FAILURES.split())
REASONS: Final = frozenset((_REFUSALS + _WAITS + _FAILURES).split())


@dataclass(frozen=True, kw_only=True)
class Measure:
    """One thing to count or to observe: the metric of this name takes `value`."""

    metric: str
    value: float = 1.0
    labels: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Progress:
    """How a running job is getting on, in its trainer's words; None where it says nothing (yet)."""

    namespace: str
    name: str
    step: float
    total: float
    loss: float | None
    samples_per_second: float | None
    eta_seconds: float | None
    updated_at: float | None  # seconds since 1970


def of_change(before: Manifest, after: Manifest) -> Iterator[Measure]:
    """What a status that the operator has written tells. Both are whole jobs, as read and as answered."""
    old, new = before.get("status") or {}, after.get("status") or {}
    ended = old.get("attempt") or {}
    if new.get("attempts", 0) > old.get("attempts", 0) > 0:
        yield from _of_restart(old, new)
    held = new.get("deviceSeconds", 0) - old.get("deviceSeconds", 0)
    if held > 0:
        runtime = (new.get("runtimeSnapshot") or {}).get("name", "")
        yield Measure(metric="kubooth_device_seconds", value=held, labels={"runtime": runtime})
    first = new.get("attempts") == 1 and new.get("attempt", {}).get("readyTime")
    if first and not ended.get("readyTime") and not old.get("activeSeconds"):  # else it was ready before
        yield Measure(metric="kubooth_job_running_latency_seconds", value=_age(after, time_of(first)))
    if new.get("phase") in FINISHED and old.get("phase") not in FINISHED:
        yield from _of_end(new)


def of_batch_job(job: Manifest, now: datetime) -> Iterator[Measure]:
    """What the creation of a batch Job tells: only a first attempt's time counts from the job's own creation."""
    if (job.get("status") or {}).get("attempts") == 1:
        yield Measure(metric="kubooth_job_start_latency_seconds", value=_age(job, now))


def count_jobs(jobs: Iterable[Manifest]) -> dict[tuple[str, str], int]:
    """How many jobs there are, by phase and reason."""
    statuses = (job.get("status") or {} for job in jobs)
    return Counter((status.get("phase") or "Pending", known(status.get("reason"))) for status in statuses)


def longest_waits(jobs: Iterable[Manifest], now: datetime) -> dict[tuple[str, str], float]:
    """Of jobs that neither run nor have ended: the seconds that the longest has waited, by phase and reason."""
    waits: dict[tuple[str, str], float] = {}
    for job in jobs:
        status = job.get("status") or {}
        if status.get("phase") in FINISHED or status.get("reason") == "Running":
            continue
        labels = (status.get("phase") or "Pending", known(status.get("reason")))
        waits[labels] = max(waits.get(labels, 0.0), (now - _waits_since(job)).total_seconds())
    return waits


def progress(jobs: Iterable[Manifest], *, most: int) -> list[Progress]:
    """Of running jobs that train, at most so many: those that were made last."""
    running = [job for job in jobs if _is_training(job.get("status") or {})]
    running.sort(key=lambda job: (job["metadata"].get("creationTimestamp", ""), job["metadata"]["uid"]), reverse=True)
    return [_progress(job) for job in running[:most]]


def known(reason: str | None) -> str:
    """The reason, where it is one that the documentation lists."""
    return reason if reason in REASONS else OTHER if reason else ""


def _of_restart(old: Manifest, new: Manifest) -> Iterator[Measure]:
    """Of an attempt that has followed another: at once, so that the end of that was never written, or after a pause."""
    outcome = (old.get("attempt") or {}).get("outcome")
    if outcome is None:
        outcome = "Retry" if new.get("restarts", 0) > old.get("restarts", 0) else "Disrupted"
    if outcome in ("Retry", "Disrupted"):
        reason = known((new.get("failure") or old.get("failure") or {}).get("reason"))
        yield Measure(metric="kubooth_job_restarts", labels={"outcome": outcome, "reason": reason})


def _of_end(status: Manifest) -> Iterator[Measure]:
    labels = {"phase": status["phase"], "reason": known(status.get("reason"))}
    yield Measure(metric="kubooth_jobs_finished", labels=labels)
    for stage in status.get("stages") or ():
        start, end = time_of(stage.get("start")), time_of(stage.get("end"))
        if start is not None and end is not None and stage.get("state") == "Succeeded":
            seconds = max(0.0, (end - start).total_seconds())
            yield Measure(metric="kubooth_stage_duration_seconds", value=seconds, labels={"stage": stage["name"]})
    prior = status.get("prior") or {}
    if prior.get("source"):
        yield Measure(metric="kubooth_prior_sets", labels={"source": prior["source"]})


def _waits_since(job: Manifest) -> datetime:
    """When something last happened to a job, as its status tells: a condition turned, its attempt went on. Its reason
    may have changed since, where it waited before for another one: a job that finds no node, then pulls its image."""
    status = job.get("status") or {}
    attempt = status.get("attempt") or {}
    told = [attempt.get(name) for name in ("startTime", "readyTime", "endTime", "goneTime")]
    told += [each.get("lastTransitionTime") for each in status.get("conditions") or ()]
    return max(time for text in (job["metadata"]["creationTimestamp"], *told) if (time := time_of(text)) is not None)


def _is_training(status: Manifest) -> bool:
    return status.get("phase") == "Running" and bool(status.get("progress"))


def _progress(job: Manifest) -> Progress:
    words = job["status"]["progress"]
    updated = time_of(words.get("updatedAt"))
    return Progress(
        namespace=job["metadata"]["namespace"],
        name=job["metadata"]["name"],
        step=words["step"],
        total=words["total"],
        loss=words.get("loss"),
        samples_per_second=words.get("samplesPerSecond"),
        eta_seconds=words.get("etaSeconds"),
        updated_at=updated.timestamp() if updated is not None else None,
    )


def _age(job: Manifest, then: datetime | None) -> float:
    """Seconds from a job's creation, which the API server tells in whole seconds."""
    created = time_of(job["metadata"]["creationTimestamp"])
    assert created is not None and then is not None
    return max(0.0, (then - created).total_seconds())
