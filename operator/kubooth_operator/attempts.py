"""The life of an attempt, as one pass sees it: it is begun, restored where a child is missing, and followed. Pure.

Called by `reconcile`. An attempt is written into the status before anything of it exists, and its end (`ending`)
before anything of it is deleted; both are facts that never turn back. So a pass that was cut short anywhere is taken
up by the next one, and a pass that saw an old state can do no harm. At most one attempt lives: the next begins when
no pod of this one runs any more.
"""

from __future__ import annotations

from datetime import timedelta

from kubooth_operator import children, deadlines, ending
from kubooth_operator.diagnose import Diagnosis, diagnose
from kubooth_operator.draft import timestamp
from kubooth_operator.present import Present
from kubooth_operator.status import failure_status, hear
from kubooth_operator.workload import BatchJob, time_of

TAKEN_RETRY_SECONDS = 30  # how often a name that is taken is tried again
MOST_DELETIONS = 1  # of a batch Job that ran, within one attempt
NO_CAUSE = frozenset({"", "Starting", "Queued", "PodsNotReady", "ContainerCreating"})  # of pods that are not ready


def go_on(now: Present) -> None:
    """No attempt lives: the next one begins, unless something stands against it."""
    draft = now.draft
    if now.is_suspended:
        draft.set_condition("Suspended", True, "Suspended", "spec.suspend is true")
        draft.stand("Suspended", "Suspended", "goes on when spec.suspend is false again")
        return
    if now.problem is not None:
        draft.stand("Pending", now.problem.refusal, str(now.problem))
        return
    if _time_was_used_up(now):
        return
    retry_time = draft.time("retryTime") if draft.number else None
    if retry_time is not None and draft.now < retry_time:
        message = f"{ending.how_it_ended(now)}; the next begins at {timestamp(retry_time)}"
        draft.stand("Starting", "BackOff", message)
        draft.wake_at(retry_time)
        return
    _begin(now, draft.number + 1)


def follow(now: Present) -> None:
    """An attempt lives: what its batch Job and its pods say."""
    batch_job = now.batch_job
    if batch_job is None:
        _without_batch_job(now)
    elif batch_job.has_completed:
        ending.succeed(now)
    elif batch_job.is_failing:
        _judge(now, batch_job)
    elif now.is_suspended:
        ending.end(now, "Suspended")
    elif batch_job.is_being_deleted:
        _while_batch_job_goes(now, batch_job)
    else:
        _restore(now)
        if batch_job.is_held_back:
            _queue(now, batch_job)
        elif not (_is_broken(now) or _time_is_up(now)):
            _wait_or_run(now, batch_job)


def _begin(now: Present, number: int) -> None:
    draft = now.draft
    disruptions = draft.attempt.get("earlyDisruptions") if draft.attempt.get("outcome") == "Disrupted" else None
    draft.status["attempts"] = number
    remembered = {"firstStep": ending.saved_step(draft), "earlyDisruptions": disruptions}
    draft.status["attempt"] = {"number": number} | {name: value for name, value in remembered.items() if value}
    _start_clock(now)
    draft.status.setdefault("startTime", timestamp(draft.now))
    _stand_at_the_start(now)
    draft.wake_in(0)


def _start_clock(now: Present) -> None:
    """Before there is a batch Job. Where the job names a queue, that starts the clock when it lets the batch Job go."""
    if not now.job.spec.queue_name:
        now.draft.remember(startTime=now.draft.now)


def _stand_at_the_start(now: Present) -> None:
    now.draft.stand("Starting", "Starting", f"attempt {now.draft.number} is being started")
    now.draft.set_condition("PodsReady", False, "Starting", "waiting for the pods to be ready")


# Children


def _without_batch_job(now: Present) -> None:
    """Not made yet, or deleted by hand: made again under the same number once no pod is left. Deleted once more, it is
    no accident (a clean-up policy): that ends the attempt, so that it counts and is paused after."""
    draft = now.draft
    if now.is_suspended:
        ending.end(now, "Suspended")
    elif draft.time("readyTime") is not None and draft.attempt.get("jobDeletions", 0) >= MOST_DELETIONS:
        message = "the batch Job was deleted again: something in the cluster keeps deleting it"
        ending.end_failed(now, Diagnosis(reason="JobDeleted", message=message, kind="Retryable"))
    elif draft.time("readyTime") is not None:
        _stop_clocks(now)
        draft.attempt["jobDeletions"] = draft.attempt.get("jobDeletions", 0) + 1
        _start_clock(now)
        message = "the batch Job was deleted and is made again"
        draft.stand("Starting", "JobDeleted", message)
        draft.set_condition("PodsReady", False, "JobDeleted", message)
        draft.wake_in(0)
    elif now.live_pods:
        ending.force_lost_pods(now)
    elif not (_time_is_up(now) or _has_started_too_late(now)):
        _restore(now)


def _while_batch_job_goes(now: Present, batch_job: BatchJob) -> None:
    """Deleted by others, and somebody's finalizer may hold it for ever: the deadlines run on."""
    draft, was_ready = now.draft, now.draft.time("readyTime") is not None
    holders = ", ".join(batch_job.finalizers)
    message = "the batch Job is being deleted" + (f" and waits for its finalizers: {holders}" if holders else "")
    draft.stand("Running" if was_ready else "Starting", "JobDeleted", message)
    if not was_ready:
        draft.set_condition("PodsReady", False, "JobDeleted", message)
    ending.force_lost_pods(now)
    if _time_is_up(now) or (not was_ready and _has_started_too_late(now)):
        return
    _check_progress(now)


def _restore(now: Present) -> None:
    """Children that are missing or differ are made again, children of older attempts go."""
    difference = children.compare(now.observed, now.job, now.draft.number, now.settings)
    now.draft.delete(difference.delete)
    now.draft.apply(difference.apply)
    if difference.taken:
        now.draft.wake_in(TAKEN_RETRY_SECONDS)
    if now.batch_job is not None:
        return
    if difference.taken:
        taken = difference.taken[0]
        message = (
            f"{taken.kind} {taken.name} exists and does not belong to this job: delete it, or give the job another name"
        )
        _stand_before_pods(now, "NameTaken", message)
    elif difference.apply and now.observed.child_refusal:
        _stand_before_pods(now, "Refused", f"the cluster refuses what the job needs: {now.observed.child_refusal}")
    elif now.draft.status.get("reason") == "Refused":
        _stand_at_the_start(now)


def _stand_before_pods(now: Present, reason: str, message: str) -> None:
    now.draft.stand("Starting", reason, message)
    now.draft.set_condition("PodsReady", False, reason, message)


# Waiting and running


def _queue(now: Present, batch_job: BatchJob) -> None:
    """A queue holds the pods back: no clock runs. Once it has let them go, it ends the attempt by taking them away:
    pods that are stopped fail the batch Job, so that it can never go on."""
    if _was_let_go(now, batch_job):
        _take_back(now)
        return
    if now.draft.time("startTime") is not None:  # the job names no queue, and one of the cluster's took it in
        _stop_clocks(now)
    queue = now.job.spec.queue_name
    message = f"waiting for queue {queue}" if queue else "the batch Job was suspended by someone else"
    now.draft.stand("Pending", "Queued", message)
    now.draft.set_condition("PodsReady", False, "Queued", message)


def _was_let_go(now: Present, batch_job: BatchJob) -> bool:
    """Whether the batch Job has had pods. Where the job names a queue, its clock says so: it starts with them."""
    if now.job.spec.queue_name:
        return now.draft.time("startTime") is not None
    return now.draft.time("readyTime") is not None or any(batch_job.owns(pod) for pod in now.pods)


def _take_back(now: Present) -> None:
    """A queue took the devices back. From pods that were not ready yet, for what they waited for: that counts, since
    it may never come."""
    what = "the queue took the job's devices back"
    if not now.job.spec.queue_name:
        what = "the batch Job was suspended by someone else"
    if now.draft.time("readyTime") is not None:
        ending.end_failed(now, Diagnosis(reason="Preempted", message=what, kind="Disruption"))
    else:
        _end_before_ready(now, f"{what} before its pods were ready")


def _stop_clocks(now: Present) -> None:
    ending.count_time(now)
    ending.count_devices(now)
    now.draft.remember(startTime=None, readyTime=None)


def _wait_or_run(now: Present, batch_job: BatchJob) -> None:
    draft, nodes = now.draft, now.job.nodes
    if draft.time("startTime") is None:
        draft.remember(startTime=draft.now)
    if sum(pod.is_ready or pod.has_succeeded for pod in now.pods) >= nodes:
        if draft.time("readyTime") is None:
            draft.remember(readyTime=draft.now)
        where = "1 node" if nodes == 1 else f"{nodes} nodes"
        draft.stand("Running", "Running", f"attempt {draft.number} runs on {where}")
        draft.set_condition("PodsReady", True, "PodsReady", "all pods are ready")
    elif draft.time("readyTime") is None and _has_started_too_late(now):
        return
    elif not any(pod.has_failed for pod in now.pods):  # else the batch Job will say so in a moment
        _explain(now, batch_job)
    _check_progress(now)


def _explain(now: Present, batch_job: BatchJob) -> None:
    """Why not all pods are ready: at once where they were before, else after a while."""
    draft, start = now.draft, now.draft.time("startTime") or now.draft.now
    was_ready = draft.time("readyTime") is not None
    is_missing = len(now.pods) < now.job.nodes
    patience = deadlines.MISSING_SECONDS if is_missing else deadlines.EXPLAIN_SECONDS
    explain_at = start + timedelta(seconds=patience)
    if not was_ready and draft.now < explain_at:
        _stand_at_the_start(now)
        draft.wake_at(explain_at)
        return
    waiting = now.why_waiting(batch_job)
    draft.stand("Running" if was_ready else "Starting", waiting.reason, waiting.message)
    draft.set_condition("PodsReady", False, waiting.reason, waiting.message)


# What ends an attempt


def _judge(now: Present, batch_job: BatchJob) -> None:
    """The batch Job has failed: why, as soon as all pods have had their last word."""
    draft = now.draft
    first = min((pod.end_time for pod in now.pods if pod.end_time), default=None)
    since = first or time_of(batch_job.failure.get("lastTransitionTime")) or draft.now
    judge_at = since + timedelta(seconds=deadlines.JUDGE_SECONDS)
    if draft.now < judge_at and not all(pod.is_terminal for pod in now.pods):
        hear(draft.status, now.pods)
        draft.wake_at(judge_at)
    elif batch_job.is_held_back:  # which was not seen before its pods failed
        _take_back(now)
    else:
        ending.end_failed(now, diagnose(now.pods, batch_job))


def _is_broken(now: Present) -> bool:
    """Whether the cluster takes a pod away, or a pod that should be gone does not go: the gang ends as a whole."""
    for pod in now.pods:
        if pod.is_terminal or pod.gone_by is None:
            continue
        if pod.disruption is not None:
            ending.end_failed(now, diagnose([pod], now.batch_job))
            return True
        force_time = deadlines.force_time(pod.gone_by)
        if now.draft.now >= force_time:
            message = f"pod {pod.name} was to go and does not: its node {pod.node} does not answer"
            ending.end_failed(now, Diagnosis(reason="NodeLost", message=message, kind="Disruption", pod=pod.name))
            return True
        now.draft.wake_at(force_time)
    return False


def _time_is_up(now: Present) -> bool:
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


def _time_was_used_up(now: Present) -> bool:
    limit = now.policy.active_deadline_seconds
    if limit is None or now.draft.status.get("activeSeconds", 0) < limit:
        return False
    now.draft.status["failure"] = failure_status(_too_long(limit))
    ending.fail(now)
    return True


def _too_long(limit: int) -> Diagnosis:
    message = f"the job ran for longer than runPolicy.activeDeadlineSeconds ({limit} s)"
    return Diagnosis(reason="DeadlineExceeded", message=message, kind="Permanent")


def _has_started_too_late(now: Present) -> bool:
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


def _check_progress(now: Present) -> None:
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
