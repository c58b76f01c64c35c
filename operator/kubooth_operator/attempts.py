"""The life of an attempt, as one pass sees it: it is begun, restored where a child is missing, and followed. Pure.

Called by `reconcile`. An attempt is written into the status before anything of it exists, and its end (`verdict`,
`ending`) before anything of it is deleted; both are facts that never turn back. So a pass that was cut short anywhere
is taken up by the next one, and a pass that saw an old state can do no harm. At most one attempt lives: the next begins
when no pod of this one runs any more.
"""

from __future__ import annotations

from datetime import timedelta

from kubooth_operator import children, deadlines, ending, verdict
from kubooth_operator.diagnose import Diagnosis
from kubooth_operator.draft import timestamp
from kubooth_operator.plan import Manifest
from kubooth_operator.present import Present
from kubooth_operator.workload import BatchJob

TAKEN_RETRY_SECONDS = 30  # how often a name that is taken is tried again
MOST_DELETIONS = 1  # of a batch Job that ran, within one attempt


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
    if verdict.time_was_used_up(now):
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
        verdict.judge(now, batch_job)
    elif now.is_suspended:
        ending.end(now, "Suspended")
    elif batch_job.is_being_deleted:
        _while_batch_job_goes(now, batch_job)
    else:
        _restore(now)
        if batch_job.is_held_back:
            _queue(now, batch_job)
        elif not (verdict.is_broken(now) or verdict.time_is_up(now)):
            _wait_or_run(now, batch_job)


def _begin(now: Present, number: int) -> None:
    draft = now.draft
    disruptions = draft.attempt.get("earlyDisruptions") if draft.attempt.get("outcome") == "Disrupted" else None
    draft.status["attempts"] = number
    remembered = {"firstStep": ending.saved_step(draft), "earlyDisruptions": disruptions}
    draft.status["attempt"] = {"number": number} | {name: value for name, value in remembered.items() if value}
    if "stages" in draft.status:  # the trainer cannot take out what the operator wrote into the last attempt's
        draft.status["stages"] = [_opened(stage) for stage in draft.status["stages"]]
    _start_clock(now)
    draft.status.setdefault("startTime", timestamp(draft.now))
    _stand_at_the_start(now)
    draft.wake_in(0)


def _opened(stage: Manifest) -> Manifest:
    """A stage that may begin anew."""
    return {k: v for k, v in stage.items() if k != "end"} if stage.get("state") == "Failed" else stage


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
    has_had_pods = draft.time("readyTime" if not now.job.spec.queue_name else "startTime") is not None
    if now.is_suspended:
        ending.end(now, "Suspended")
    elif has_had_pods and draft.attempt.get("jobDeletions", 0) >= MOST_DELETIONS:
        message = "the batch Job was deleted again: something in the cluster keeps deleting it"
        ending.end_failed(now, Diagnosis(reason="JobDeleted", message=message, kind="Retryable"))
    elif has_had_pods:
        _stop_clocks(now)
        draft.attempt["jobDeletions"] = draft.attempt.get("jobDeletions", 0) + 1
        _start_clock(now)
        message = "the batch Job was deleted and is made again"
        draft.stand("Starting", "JobDeleted", message)
        draft.set_condition("PodsReady", False, "JobDeleted", message)
        draft.wake_in(0)
    elif now.live_pods:
        ending.delete_orphans(now)
        ending.force_lost_pods(now)
    elif not (verdict.time_is_up(now) or verdict.has_started_too_late(now)):
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
    if verdict.time_is_up(now) or (not was_ready and verdict.has_started_too_late(now)):
        return
    verdict.check_progress(now)


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
        verdict.take_back(now)
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
    elif draft.time("readyTime") is None and verdict.has_started_too_late(now):
        return
    elif not any(pod.has_failed for pod in now.pods):  # else the batch Job will say so in a moment
        _explain(now, batch_job)
    verdict.check_progress(now)


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
