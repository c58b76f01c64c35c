"""One pass over one job: from what is there to what is to be done. Pure and level-triggered; called by the edge.

Whatever happened before, a pass looks only at the present: the job with its status, its children, its pods, the time.
A second pass over the same state plans nothing. In order: a job that is being deleted is left to its owner
references; a finished one to its time to live; any other is judged (`acceptance`) and its attempts are begun
and followed (`attempts`) and released when they have ended (`ending`).
"""

from __future__ import annotations

from datetime import timedelta

from kubooth_operator import attempts, ending
from kubooth_operator.acceptance import Judgement, judge
from kubooth_operator.api.problems import SpecError
from kubooth_operator.children import deletion
from kubooth_operator.draft import Draft
from kubooth_operator.plan import Clock, Observed, Plan, Settings
from kubooth_operator.present import Present, is_suspended
from kubooth_operator.workload import BatchJob, time_of


def reconcile(observed: Observed, settings: Settings, clock: Clock) -> Plan:
    """What to do for a job now."""
    if "deletionTimestamp" in observed.job["metadata"]:
        return Plan()
    draft = Draft(observed.job, clock)
    if draft.has_finished:
        return _after_the_end(observed, clock)
    if draft.holds("Suspended") and not is_suspended(observed.job):
        draft.set_condition("Suspended", False, "Resumed", "spec.suspend is false")
    judgement = judge(observed)
    _say_whether_accepted(draft, judgement)
    if judgement.job is None:
        assert judgement.problem is not None
        _wait_for_a_mend(draft, judgement.problem)
        return draft.plan()
    now = Present(observed, settings, clock, draft, job=judgement.job, problem=judgement.problem)
    if draft.number == 0:
        attempts.go_on(now)
        return draft.plan()
    lived = "endTime" not in draft.attempt
    if lived:
        attempts.follow(now)
        if not judgement.job.is_whole and now.batch_job is None and "endTime" not in draft.attempt:
            assert judgement.problem is not None
            draft.stand("Starting", judgement.problem.refusal, str(judgement.problem))  # nothing can be restored
    has_ended = "endTime" in draft.attempt and not draft.has_finished
    # The end is written before anything is deleted for it: that is left to the next pass.
    if has_ended and ending.release(now, may_delete=not lived):
        attempts.go_on(now)
    return draft.plan()


def _after_the_end(observed: Observed, clock: Clock) -> Plan:
    """A finished job is never written again; where it has a time to live, it is deleted after it.

    A batch Job that still runs was not seen when the job ended: it goes now.
    """
    status, spec = observed.job["status"], observed.job.get("spec", {})
    running = [child for child in observed.children if child["kind"] == "Job" and BatchJob(child).may_run]
    # Not that of status.resolved: who takes the time to live out of the spec means to keep the job.
    defaults = status.get("runtimeSnapshot", {}).get("spec", {}).get("defaults", {})
    policy = {**defaults.get("runPolicy", {}), **spec.get("runPolicy", {})}
    end, ttl = time_of(status.get("completionTime")), policy.get("ttlSecondsAfterFinished")
    left = (end + timedelta(seconds=ttl) - clock.now).total_seconds() if end is not None and ttl is not None else None
    if left is not None and left <= 0:
        return Plan(delete=(deletion(observed.job),))
    return Plan(delete=tuple(deletion(child) for child in running), requeue_after=left)


def _say_whether_accepted(draft: Draft, judgement: Judgement) -> None:
    if judgement.problem is None:
        draft.set_condition("Accepted", True, "Accepted", "the runtime allows the job")
        draft.status |= {"resolved": judgement.resolved, "runtimeSnapshot": judgement.snapshot}
    else:
        draft.set_condition("Accepted", False, judgement.problem.refusal, str(judgement.problem))


def _wait_for_a_mend(draft: Draft, problem: SpecError) -> None:
    """Nothing can be started: job or runtime have to change first."""
    if draft.number == 0:
        draft.forget("resolved", "runtimeSnapshot")
        draft.stand("Pending", problem.refusal, str(problem))
    else:
        draft.stand(draft.status.get("phase", "Pending"), problem.refusal, str(problem))
