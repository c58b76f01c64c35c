"""How an attempt ends, and how its job does. Pure; called by `attempts`, `verdict` and `reconcile`.

The end is written into the status first, with its cause and what it leads to; only the next pass deletes anything.
Then the attempt is released: its batch Job is deleted unless it ended by itself, pods on nodes that do not answer are
deleted by force, and when nothing of it runs any more, its devices are accounted for.
"""

from __future__ import annotations

from datetime import datetime, timedelta

from kubooth_operator import children, deadlines
from kubooth_operator.api.status import Outcome
from kubooth_operator.diagnose import Diagnosis
from kubooth_operator.draft import MAX_MESSAGE, Draft, timestamp
from kubooth_operator.present import Present
from kubooth_operator.status import close, failure_status, held_seconds


def end_failed(now: Present, diagnosis: Diagnosis, *, spread: bool = False, since: datetime | None = None) -> None:
    """Ends the attempt after a failure. `spread`: the next waits a while of its own, not that of other jobs. `since`:
    when its pause began, if not now."""
    draft, most = now.draft, now.policy.max_restarts or 0
    restarts = draft.status.get("restarts", 0)
    draft.status["failure"] = failure_status(diagnosis)
    if diagnosis.kind == "Disruption":
        end(now, "Disrupted")
    elif diagnosis.kind == "Permanent":
        end(now, "Failed")
    elif restarts >= most:
        note = f" (no restart is left: runPolicy.maxRestarts is {most})"
        draft.status["failure"]["message"] = diagnosis.message[: MAX_MESSAGE - len(note)] + note
        end(now, "Failed")
    else:
        draft.status["restarts"] = restarts + 1
        pause: float = deadlines.backoff_seconds(restarts + 1)
        if spread:
            pause = deadlines.backoff_seconds(restarts + 2)
            pause += deadlines.spread_seconds(f"{now.job.uid}/{draft.number}", pause)
        if pause:
            draft.remember(retryTime=(since or draft.now) + timedelta(seconds=pause))
        end(now, "Retry")


def end(now: Present, outcome: Outcome) -> None:
    """Ends the attempt: from here on it does not live any more, whatever its pods do."""
    draft = now.draft
    draft.attempt["outcome"] = outcome
    count_time(now)
    draft.remember(endTime=draft.now)
    draft.set_condition("PodsReady", False, "AttemptEnded", f"attempt {draft.number} has ended")


def release(now: Present, *, may_delete: bool) -> bool:
    """Sees that nothing of an ended attempt runs any more. True when it is so, and another may begin."""
    draft = now.draft
    if now.batch_job is not None and now.batch_job.has_completed:
        succeed(now)  # it was done when we stopped it
        return False
    _hear_late_words(now)
    outcome: Outcome = draft.attempt["outcome"]
    close(draft.status, now.pods, outcome=outcome, end_time=draft.attempt["endTime"])
    if not _is_gone(now, may_delete=may_delete):
        _show_end(now, outcome)
        return False
    if "goneTime" not in draft.attempt:
        count_devices(now)
        draft.remember(goneTime=draft.now)
        if outcome == "Disrupted":
            _pause_before_more(now)
    if outcome == "Failed":
        fail(now)
        return False
    return True


def _pause_before_more(now: Present) -> None:
    """Disruptions are never counted, but where one follows another and nothing was saved between them (a node that
    evicts what it is given, a trainer that fills every node's disk), the next attempt waits, longer each time. Decided
    when the pods are gone: what they saved on the way out counts."""
    draft, end_time = now.draft, now.draft.time("endTime")
    assert end_time is not None
    early = 0 if saved_step(draft) > draft.attempt.get("firstStep", 0) else draft.attempt.get("earlyDisruptions", 0) + 1
    draft.attempt["earlyDisruptions"] = early
    pause = deadlines.backoff_seconds(early)
    if pause:
        draft.remember(retryTime=end_time + timedelta(seconds=pause))


def saved_step(draft: Draft) -> int:
    """The steps that the newest checkpoint holds."""
    step: int = draft.status.get("checkpoint", {}).get("step", 0)
    return step


def succeed(now: Present) -> None:
    """The end of a job whose model stands."""
    draft = now.draft
    if "endTime" not in draft.attempt:
        count_time(now)
    if "goneTime" not in draft.attempt:
        count_devices(now)
    draft.attempt["outcome"] = "Succeeded"
    draft.remember(endTime=draft.now, goneTime=draft.now, retryTime=None)
    close(draft.status, now.pods, outcome="Succeeded", end_time=timestamp(draft.now))
    output = draft.status.setdefault("output", {"uri": now.job.spec.output.uri})
    draft.forget("failure")
    draft.status["completionTime"] = timestamp(draft.now)
    message = f"the model is at {output['uri']}"
    draft.stand("Succeeded", "Succeeded", message)
    draft.set_condition("PodsReady", False, "Finished", "the pods have done their work")
    draft.set_condition("Succeeded", True, "Succeeded", message)
    judge_quality(now)


def fail(now: Present) -> None:
    """The end of a job that no retry can mend, for the reason in `failure`."""
    draft, failure = now.draft, now.draft.status["failure"]
    draft.status["completionTime"] = timestamp(draft.now)
    draft.stand("Failed", failure["reason"], failure.get("message", ""))
    draft.set_condition("Failed", True, failure["reason"], failure.get("message", ""))
    draft.set_condition("PodsReady", False, "Finished", "no pod runs any more")
    judge_quality(now)


def judge_quality(now: Present) -> None:
    """Condition QualityAccepted, where the job has a gate and its trainer came so far as to judge."""
    gate = now.job.spec.evaluation.gate
    if not gate.model_dump(exclude_none=True, exclude={"action"}):
        return
    quality = now.draft.status.get("quality") or {}
    holds = {"Accepted": True, "Rejected": False, "NotMeasured": None}
    if quality.get("verdict") in holds:
        verdict = quality["verdict"]
        now.draft.set_condition("QualityAccepted", holds[verdict], verdict, quality.get("message", ""))


def count_time(now: Present) -> None:
    """Adds the time since the attempt's start to what the job has run."""
    start = now.draft.time("startTime")
    if start is not None:
        ran = max(0.0, (now.draft.now - start).total_seconds())
        now.draft.status["activeSeconds"] = now.draft.status.get("activeSeconds", 0) + ran


def count_devices(now: Present) -> None:
    """Adds what the pods held until now."""
    nodes = held_seconds(now.pods, nodes=now.job.nodes, ready=now.draft.time("readyTime"), until=now.draft.now)
    seconds = nodes * now.job.devices_per_node
    now.draft.status["deviceSeconds"] = round(now.draft.status.get("deviceSeconds", 0) + seconds, 3)


def force_lost_pods(now: Present) -> None:
    """Deletes pods that should be gone and are not: their node will not say so any more."""
    for pod in now.live_pods:
        if pod.gone_by is None:
            continue
        force_time = deadlines.force_time(pod.gone_by)
        if now.draft.now >= force_time:
            now.draft.delete([children.deletion(pod.manifest, grace_seconds=0)])
        else:
            now.draft.wake_at(force_time)


def delete_orphans(now: Present) -> None:
    """Deletes pods that outlive their batch Job and that nobody else deletes: it went by `--cascade=orphan`, or the
    cluster's garbage collector is stuck, which has a minute. From the pod's creation, or the attempt's start or end,
    one of which is written when a batch Job is missed or before it is deleted."""
    for pod in now.orphans:
        if pod.gone_by is not None:
            continue
        times = (pod.creation_time, now.draft.time("startTime"), now.draft.time("endTime"))
        since = max(filter(None, times), default=now.draft.now)
        delete_time = since + timedelta(seconds=deadlines.ORPHAN_SECONDS)
        if now.draft.now >= delete_time:
            now.draft.delete([children.deletion(pod.manifest)])
        else:
            now.draft.wake_at(delete_time)


def how_it_ended(now: Present) -> str:
    """The end of the newest attempt in a few words."""
    reason = now.draft.status.get("failure", {}).get("reason")
    suspended = now.draft.attempt.get("outcome") == "Suspended"
    return f"attempt {now.draft.number} ended" + (f": {reason}" if reason and not suspended else "")


def _is_gone(now: Present, *, may_delete: bool) -> bool:
    """Whether no pod runs and no batch Job could make one; sees to it otherwise."""
    batch_job = now.batch_job
    over = batch_job is None or batch_job.is_failing or batch_job.is_being_deleted
    if over and not now.live_pods:
        return True
    if not may_delete:
        now.draft.wake_in(0)
        return False
    if not over and batch_job is not None:
        now.draft.delete([children.deletion(batch_job.manifest)])
    elif batch_job is not None and batch_job.is_being_deleted:  # and held by a finalizer: its pods do not follow it
        left = [pod for pod in now.live_pods if pod.gone_by is None and batch_job.owns(pod)]
        now.draft.delete([children.deletion(pod.manifest) for pod in left])
    delete_orphans(now)
    force_lost_pods(now)
    return False


def _hear_late_words(now: Present) -> None:
    """What a pod that we ended says of it, the stacks of its ranks among it, comes after the verdict."""
    failure = now.draft.status.get("failure", {})
    pod = next((each for each in now.pods if each.name == failure.get("pod")), None)
    if pod is not None and pod.termination is not None and "log" not in failure:
        late = Diagnosis(
            reason=failure["reason"],
            message=failure.get("message", ""),
            kind="Permanent",
            pod=pod.name,
            exit_code=failure.get("exitCode", pod.exit_code),
            log=pod.termination.log,
        )
        now.draft.status["failure"] = failure_status(late)


def _show_end(now: Present, outcome: Outcome) -> None:
    phase = now.draft.status.get("phase", "Starting")
    if outcome == "Suspended":
        now.draft.stand(phase, "Suspending", "the pods save their state and end")
    elif outcome == "Failed":
        now.draft.stand(phase, "Stopping", f"{how_it_ended(now)}; waiting for its pods to end")
    else:
        now.draft.stand("Starting", "Restarting", f"{how_it_ended(now)}; another follows when its pods have ended")
