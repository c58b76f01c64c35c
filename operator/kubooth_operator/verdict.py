"""What ends an attempt that nobody asked to end: a failure, a node or a queue that takes its pods, a deadline. Pure.

Called by `attempts` in every pass over an attempt that lives.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta

from kubooth_operator import deadlines, ending
from kubooth_operator.diagnose import Diagnosis, diagnose
from kubooth_operator.present import Present
from kubooth_operator.status import failure_status, hear
from kubooth_operator.workload import BatchJob, Pod, time_of

NO_CAUSE = frozenset({"", "Starting", "Queued", "PodsNotReady", "ContainerCreating"})  # of pods that are not ready


def judge(now: Present, batch_job: BatchJob) -> None:
    """The batch Job has failed: why, as soon as all pods have had their last word. For a while, unless all that is
    heard is an echo: then each node has until its pod must be gone, before which no attempt can begin anyway."""
    draft = now.draft
    first = min((pod.end_time for pod in now.pods if pod.end_time), default=None)
    since = first or time_of(batch_job.failure.get("lastTransitionTime")) or draft.now
    judge_at = since + timedelta(seconds=deadlines.JUDGE_SECONDS)
    if draft.now < judge_at and not all(pod.is_terminal for pod in now.pods):
        hear(draft.status, now.pods)
        draft.wake_at(judge_at)
        return
    if batch_job.is_held_back:  # which was not seen before its pods failed
        take_back(now)
        return
    found = diagnose(now.pods, batch_job)
    silent = [pod for pod in now.pods if not pod.is_terminal and pod.is_scheduled and pod.gone_by is not None]
    if found.is_echo and silent and not now.is_suspended:
        pod, force_time = min(((pod, _force_time(pod)) for pod in silent), key=lambda each: each[1])
        if draft.now < force_time:
            hear(draft.status, now.pods)
            _wait_for_word(now, pod, found)
            draft.wake_at(force_time)
            return
        found = _lost(pod)
    if found.reason == "PodRejected" and draft.time("readyTime") is not None:
        # A node admits again what ran on it when it starts anew, and its devices may not be there yet.
        found = replace(found, reason="NodeLost", kind="Disruption")
    ending.end_failed(now, found, since=min(judge_at, draft.now))


def _wait_for_word(now: Present, pod: Pod, found: Diagnosis) -> None:
    phase = "Running" if now.draft.time("readyTime") is not None else "Starting"
    message = f"the gang has failed ({found.reason}), and pod {pod.name} does not end: its node {pod.node} may be lost"
    now.draft.stand(phase, "PodNotReady", message)
    now.draft.set_condition("PodsReady", False, "PodNotReady", message)


def _force_time(pod: Pod) -> datetime:
    assert pod.gone_by is not None
    return deadlines.force_time(pod.gone_by)


def _lost(pod: Pod) -> Diagnosis:
    """Of a pod that should be gone and is not."""
    if pod.node is None:
        message = f"pod {pod.name} was deleted before it had a node"
        return Diagnosis(reason="Stopped", message=message, kind="Retryable", pod=pod.name)
    message = f"pod {pod.name} was to go and does not: its node {pod.node} does not answer"
    return Diagnosis(reason="NodeLost", message=message, kind="Disruption", pod=pod.name)


def take_back(now: Present) -> None:
    """A queue took the devices back. From pods that were not ready yet, for what they waited for: that counts, since
    it may never come."""
    what = "the queue took the job's devices back"
    if not now.job.spec.queue_name:
        what = "the batch Job was suspended by someone else"
    if now.draft.time("readyTime") is not None:
        ending.end_failed(now, Diagnosis(reason="Preempted", message=what, kind="Disruption"))
    else:
        _end_before_ready(now, f"{what} before its pods were ready")


def is_broken(now: Present) -> bool:
    """Whether the cluster takes a pod away, or a pod that should be gone does not go: the gang ends as a whole."""
    for pod in now.pods:
        if pod.is_terminal or pod.gone_by is None:
            continue
        if pod.disruption is not None:
            ending.end_failed(now, diagnose([pod], now.batch_job))
            return True
        if now.draft.now >= _force_time(pod):
            ending.end_failed(now, _lost(pod))
            return True
        now.draft.wake_at(_force_time(pod))
    return False


def time_is_up(now: Present) -> bool:
    """Whether the job has run for as long as it may."""
    limit, start = now.policy.active_deadline_seconds, now.draft.time("startTime")
    if limit is None or start is None:
        return False
    end = deadlines.active_deadline(start, limit, active_seconds=now.draft.status.get("activeSeconds", 0))
    if now.draft.now < end:
        now.draft.wake_at(end)
        return False
    ending.end_failed(now, _too_long(limit))
    return True


def time_was_used_up(now: Present) -> bool:
    """The same between two attempts: then the job fails."""
    limit = now.policy.active_deadline_seconds
    if limit is None or now.draft.status.get("activeSeconds", 0) < limit:
        return False
    now.draft.status["failure"] = failure_status(_too_long(limit))
    ending.fail(now)
    return True


def _too_long(limit: int) -> Diagnosis:
    message = f"the job ran for longer than runPolicy.activeDeadlineSeconds ({limit} s)"
    return Diagnosis(reason="DeadlineExceeded", message=message, kind="Permanent")


def has_started_too_late(now: Present) -> bool:
    """Whether the pods were not ready in time."""
    start, limit = now.draft.time("startTime"), now.policy.startup_deadline_seconds
    if start is None or limit is None:
        return False
    end = deadlines.startup_deadline(start, limit)
    if now.draft.now < end:
        now.draft.wake_at(end)
        return False
    _end_before_ready(now, f"the pods were not ready within runPolicy.startupDeadlineSeconds ({limit} s)")
    return True


def _end_before_ready(now: Present, what: str) -> None:
    """Ends the attempt for what its pods wait for: as one sees it, or, where they are being stopped, saw it last."""
    batch_job = now.batch_job
    if batch_job is None or batch_job.is_being_deleted or batch_job.is_held_back:
        condition = now.draft.condition("PodsReady") or {}
        reason, detail = condition.get("reason", ""), condition.get("message", "")
    else:
        waiting = now.why_waiting(batch_job)
        reason, detail = waiting.reason, waiting.message
    known = "StartupDeadlineExceeded" if reason in NO_CAUSE else reason
    ending.end_failed(now, Diagnosis(reason=known, message=f"{what}: {detail}", kind="Retryable"), spread=True)


def check_progress(now: Present) -> None:
    """Ends an attempt whose trainer has not said for long that it goes on."""
    draft, ready, limit = now.draft, now.draft.time("readyTime"), now.policy.progress_deadline_seconds
    if ready is None or limit is None:
        return
    heartbeat = time_of(draft.status.get("progress", {}).get("updatedAt"))
    unheard_until = max(now.clock.reachable_since, now.observed.status_refused_at or now.clock.reachable_since)
    end = deadlines.progress_deadline(ready=ready, heartbeat=heartbeat, unheard_until=unheard_until, seconds=limit)
    if draft.now < end:
        draft.wake_at(end)
        return
    message = f"no progress was reported for longer than runPolicy.progressDeadlineSeconds ({limit} s)"
    leader = next((pod.name for pod in now.pods if pod.index == 0), None)
    ending.end_failed(now, Diagnosis(reason="Stalled", message=message, kind="Retryable", pod=leader))
