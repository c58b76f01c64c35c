"""The present of one job in one pass: what `attempts`, `verdict` and `ending` look at, and the draft they write to."""

from __future__ import annotations

from kubooth_operator import children
from kubooth_operator.api.job import RunPolicy
from kubooth_operator.api.problems import SpecError
from kubooth_operator.diagnose import Waiting, why_waiting
from kubooth_operator.draft import Draft
from kubooth_operator.plan import Clock, Manifest, Observed, Settings
from kubooth_operator.render import Accepted
from kubooth_operator.workload import BatchJob, Pod


class Present:
    """Facts about the newest attempt. `problem` says why the spec as it stands may not start another."""

    def __init__(
        self,
        observed: Observed,
        settings: Settings,
        clock: Clock,
        draft: Draft,
        *,
        job: Accepted,
        problem: SpecError | None,
    ) -> None:
        self.observed, self.settings, self.clock, self.draft = observed, settings, clock, draft
        self.job, self.problem = job, problem
        manifest = children.find_job(observed.children, draft.number)
        self.batch_job = BatchJob(manifest) if manifest is not None else None
        all_pods = [Pod(each) for each in observed.pods]
        mine = [pod for pod in all_pods if pod.attempt == draft.number]
        # Without those of a batch Job that was deleted and made again under the same name.
        self.pods = [pod for pod in mine if self.batch_job is None or self.batch_job.owns(pod)]
        batch_jobs = [BatchJob(each) for each in observed.children if each["kind"] == "Job"]
        self.live_pods = [pod for pod in all_pods if not pod.is_terminal]  # of any attempt
        self.orphans = [pod for pod in self.live_pods if not any(each.owns(pod) for each in batch_jobs)]

    def why_waiting(self, batch_job: BatchJob) -> Waiting:
        """Why not all pods are ready."""
        refusal = self.observed.pod_refusal
        return why_waiting(self.pods, nodes=self.job.nodes, batch_job=batch_job.name, refusal=refusal)

    @property
    def policy(self) -> RunPolicy:
        return self.job.spec.run_policy

    @property
    def is_suspended(self) -> bool:
        return is_suspended(self.observed.job)


def is_suspended(job: Manifest) -> bool:
    """Whether its spec says that it should not run."""
    return job.get("spec", {}).get("suspend") is True
