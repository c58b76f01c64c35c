"""A cluster in memory, small enough to read: an API server, the Job controller, kubelets and the operator's edge.

`World.settle` carries out plans as the edge does (deletions, children, one status write, announcements) until nothing
changes; `World.run` lets time pass. Every status write is checked against the one before it (`progression`).
"""

from __future__ import annotations

import copy
import itertools
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from api.bad_specs import GOOD_JOB, GOOD_RUNTIME
from simulation.progression import check_progression

from kubooth_operator.api.status import JobStatus
from kubooth_operator.children import ref_of
from kubooth_operator.plan import Announcement, Clock, Manifest, Observed, Plan, Ref, Settings
from kubooth_operator.reconcile import reconcile
from kubooth_trainer.termination import Termination

SETTINGS = Settings(trainer_image="registry.example/kubooth-trainer:1")
START = datetime(2026, 1, 31, 12, 0, 0, tzinfo=UTC)
NAMESPACE = "team-a"


@dataclass(frozen=True, kw_only=True)
class Ending:
    """How a container ends: `after` seconds, unless it is stopped before."""

    after: float = 60
    code: int = 0
    reason: str = ""  # the launcher's word; "" leaves no message
    message: str = "because"
    summary: dict[str, Any] | None = None
    oom: bool = False


@dataclass(frozen=True, kw_only=True)
class Behaviour:
    """What the pods of an attempt do."""

    endings: dict[int, Ending] = field(default_factory=dict)  # by index; else `every`
    every: Ending = Ending()
    start_after: float = 2  # seconds from creation to ready; inf for never
    waiting: str = ""  # reason of a container that never starts
    beats: bool = True  # rank 0 reports progress
    stop_seconds: float = 3  # from SIGTERM to the end
    lingers: bool = False  # whether a stopped pod is still seen when it has ended
    stop_summary: dict[str, Any] | None = None  # what a stopped pod has to say


class World:
    """One job in a namespace."""

    def __init__(
        self,
        *,
        spec: dict[str, Any] | None = None,
        runtime: dict[str, Any] | None = None,
        script: Callable[[int], Behaviour] = lambda attempt: Behaviour(),
        name: str = "rex",
    ) -> None:
        self.now = START
        self.reachable_since = START
        self.status_refused_at: datetime | None = None
        self._versions = itertools.count(1)
        self._uids = itertools.count(1)
        self.script = script
        self.runtime: Manifest | None = self._stored(copy.deepcopy(GOOD_RUNTIME))
        self.runtime["spec"] = {"limits": {}} if runtime is None else runtime
        job = copy.deepcopy(GOOD_JOB)
        job["metadata"] = {"name": name, "namespace": NAMESPACE, "generation": 1}
        job["spec"] |= spec or {}
        self.job: Manifest | None = self._stored(job)
        self.children: dict[Ref, Manifest] = {}
        self.foreign: dict[Ref, Manifest] = {}
        self.pods: dict[str, Manifest] = {}
        self.taken: set[Ref] = set()
        self.announced: list[Announcement] = []
        self.status_writes: list[Manifest] = []
        self.writes = 0
        self.hold_jobs = False  # a queue suspends new batch Jobs
        self.fails_at_once = False  # before Kubernetes 1.31 a batch Job is Failed while its pods still run
        self.dead_nodes: set[str] = set()
        self.wake: datetime | None = None
        self.before_write: Callable[[], None] = lambda: None
        self.seen_status: Manifest = {}

    # The operator

    def observe(self) -> Observed:
        assert self.job is not None
        return copy.deepcopy(
            Observed(
                job=self.job,
                runtime=self.runtime,
                children=tuple(self.children.values()),
                pods=tuple(self.pods.values()),
                taken=tuple(self.taken),
                status_refused_at=self.status_refused_at,
            )
        )

    def plan(self, observed: Observed | None = None) -> Plan:
        observed = observed or self.observe()
        before = copy.deepcopy(observed)
        plan = reconcile(observed, SETTINGS, Clock(now=self.now, reachable_since=self.reachable_since))
        assert observed == before, "a pass changed what it was given"
        return plan

    def carry_out(self, plan: Plan, observed: Observed) -> None:
        """As the edge does it; `before_write` may raise between two writes."""
        for deletion in plan.delete:
            self._count_write()
            self.delete(deletion.ref, deletion.uid, deletion.grace_seconds)
        for child in plan.apply:
            if not self._apply(copy.deepcopy(child), observed):
                return
        if plan.status is not None:
            self._count_write()
            if self.job is None or observed.job["metadata"]["resourceVersion"] != self._version():
                return  # conflict: the next pass looks again
            self._write_status(merged(self.job.get("status", {}), plan.status))
        for announcement in plan.announce:
            self._count_write()
            self.announced.append(announcement)
        self.wake = self.now + timedelta(seconds=plan.requeue_after) if plan.requeue_after is not None else None

    def settle(self, *, passes: int = 20) -> None:
        """Passes until one writes nothing; then that one again, which must not either."""
        for _ in range(passes):
            if self.job is None:
                return
            observed = self.observe()
            plan = self.plan(observed)
            self.carry_out(plan, observed)
            if plan.writes_nothing:
                return
        raise AssertionError(f"did not settle: {plan}")

    # Time

    def run(self, seconds: float = 3600, *, until: Callable[[], bool] | None = None, step: float = 1) -> None:
        """Lets time pass, with a pass of the operator whenever something happened or it asked for one."""
        end = self.now + timedelta(seconds=seconds)
        seen = ""
        while self.now < end:
            present = json.dumps([self.job, self.runtime, [*self.children.values()], self.pods], default=str)
            if present != seen or (self.wake is not None and self.wake <= self.now):
                self.settle()
                if self.job is None or (until is not None and until()):
                    return
                seen = json.dumps([self.job, self.runtime, [*self.children.values()], self.pods], default=str)
            self.now += timedelta(seconds=step)
            self.tick()
        if until is not None:
            raise AssertionError(f"not within {seconds} s: {self.describe()}")

    def run_to_the_end(self, seconds: float = 100_000) -> Manifest:
        """The status with which the job ends."""
        self.run(seconds, until=lambda: self.phase in {"Succeeded", "Failed"})
        return self.status

    def tick(self) -> None:
        """Controllers and kubelets."""
        for pod in list(self.pods.values()):
            self._kubelet(pod)
        for child in list(self.children.values()):
            if child["kind"] == "Job":
                self._job_controller(child)

    # People and other controllers

    @property
    def status(self) -> Manifest:
        return self.job.get("status", {}) if self.job else {}

    @property
    def phase(self) -> str:
        return str(self.status.get("phase", ""))

    def condition(self, type_: str) -> Manifest:
        return next((each for each in self.status.get("conditions", ()) if each["type"] == type_), {})

    def edit(self, **spec: Any) -> None:
        """Somebody changes the job's spec."""
        assert self.job is not None
        self.job["spec"] = {**self.job["spec"], **spec}
        self.job["metadata"]["generation"] += 1
        self._touch(self.job)

    def label(self, **labels: str) -> None:
        """Somebody replaces the job's labels, which leaves its generation as it is."""
        assert self.job is not None
        self.job["metadata"]["labels"] = labels
        self._touch(self.job)

    def batch_job(self, attempt: int | None = None) -> Manifest:
        number = attempt or self.status["attempts"]
        return next(
            child
            for child in self.children.values()
            if child["kind"] == "Job" and child["metadata"]["labels"]["kubooth.io/attempt"] == str(number)
        )

    def pod(self, index: int) -> Manifest:
        """The live pod of an index."""
        return next(each for each in self.pods.values() if not ended(each) and index_of(each) == index)

    def evict(self, pod: Manifest, reason: str = "EvictionByEvictionAPI") -> None:
        pod["status"].setdefault("conditions", []).append(
            {"type": "DisruptionTarget", "status": "True", "reason": reason, "message": "by the test"}
        )
        self._stop(pod)

    def orphan(self, batch_job: Manifest) -> None:
        """Somebody deletes a batch Job and leaves its pods, as `kubectl delete job --cascade=orphan` does."""
        for pod in self.pods.values():
            owners = pod["metadata"]["ownerReferences"]
            pod["metadata"]["ownerReferences"] = [e for e in owners if e["uid"] != batch_job["metadata"]["uid"]]
        self.delete(ref_of(batch_job))

    def delete(self, ref: Ref, uid: str | None = None, grace_seconds: int | None = None) -> None:
        """A deletion, by the operator or by hand, in the background."""
        if ref.kind == "Pod":
            pod = self.pods.get(ref.name)
            if pod is not None and uid in (None, pod["metadata"]["uid"]):
                if grace_seconds == 0:
                    del self.pods[ref.name]
                else:
                    self._stop(pod)
            return
        if self.job is not None and ref == ref_of(self.job):
            self.job = None
            self.children.clear()
            self.pods.clear()
            return
        child = self.children.get(ref)
        if child is None or uid not in (None, child["metadata"]["uid"]):
            return
        del self.children[ref]
        if ref.kind == "Job":
            for pod in list(self.pods.values()):
                if owner_uid(pod) == child["metadata"]["uid"]:
                    if ended(pod):
                        del self.pods[pod["metadata"]["name"]]
                    else:
                        self._stop(pod)

    def describe(self) -> str:
        pods = {name: pod["status"]["phase"] for name, pod in self.pods.items()}
        return f"{self.now} {self.status.get('phase')} {self.status.get('reason')} {self.status.get('message')} {pods}"

    # The API server

    def _apply(self, child: Manifest, observed: Observed) -> bool:
        """False where the edge would look again before it goes on."""
        ref = ref_of(child)
        there = next((each for each in observed.children if ref_of(each) == ref), None)
        self._count_write()
        if there is not None:
            now = self.children.get(ref)
            if now is None or now["metadata"]["uid"] != there["metadata"]["uid"]:
                return False
            self.children[ref] = self._touch(merged(now, child))
            if "selector" in child.get("spec", {}):  # atomic, as all selectors are
                self.children[ref]["spec"]["selector"] = child["spec"]["selector"]
            return True
        if ref in self.foreign:
            self.taken.add(ref)
            return False
        if ref in self.children:
            return False
        if child["kind"] == "Job":
            # Before a batch Job is made the edge reads the job and its pods from the API, not from its cache.
            if self.job is None or observed.job["metadata"]["resourceVersion"] != self._version():
                return False
            if any(not ended(pod) for pod in self.pods.values()):
                return False
            assert self.phase not in {"Succeeded", "Failed"}, "a finished job was started again"
            child["spec"]["suspend"] = self.hold_jobs
            child["status"] = {}
        self.taken.discard(ref)
        self.children[ref] = self._stored(child)
        return True

    def _write_status(self, status: Manifest) -> None:
        assert self.job is not None
        old = self.status
        assert old.get("phase") not in {"Succeeded", "Failed"}, f"a finished job was written again: {status}"
        JobStatus.model_validate(status, by_alias=True, by_name=False, strict=False)
        check_progression(old, status)
        self.job["status"] = status
        self.status_writes.append(copy.deepcopy(status))
        self._touch(self.job)

    def _count_write(self) -> None:
        self.before_write()
        self.writes += 1

    def _version(self) -> str:
        assert self.job is not None
        return str(self.job["metadata"]["resourceVersion"])

    def _stored(self, manifest: Manifest) -> Manifest:
        manifest["metadata"] |= {"uid": f"uid-{next(self._uids)}", "creationTimestamp": stamp(self.now)}
        return self._touch(manifest)

    def _touch(self, manifest: Manifest) -> Manifest:
        manifest["metadata"]["resourceVersion"] = str(next(self._versions))
        return manifest

    # The Job controller

    def _job_controller(self, job: Manifest) -> None:
        own = [pod for pod in self.pods.values() if owner_uid(pod) == job["metadata"]["uid"]]
        conditions = job["status"].setdefault("conditions", [])
        held = {each["type"] for each in conditions}
        if held & {"Complete", "Failed"}:
            return
        failed = [pod for pod in own if pod["status"]["phase"] == "Failed"]  # also of a job that is suspended
        if failed and "FailureTarget" not in held:
            conditions.append({**condition("FailureTarget", self.now), "reason": "PodFailurePolicy", "message": "m"})
            for pod in own:
                if not ended(pod):
                    self._stop(pod)
        if "FailureTarget" in {each["type"] for each in conditions}:
            if "Failed" not in held and (self.fails_at_once or all(ended(pod) for pod in own)):
                conditions.append({**condition("Failed", self.now), "reason": "PodFailurePolicy", "message": "m"})
            return
        if sum(pod["status"]["phase"] == "Succeeded" for pod in own) == job["spec"]["completions"]:
            conditions.append(condition("Complete", self.now))
            return
        if "deletionTimestamp" in job["metadata"]:
            return
        if job["spec"].get("suspend"):
            for pod in own:
                if not ended(pod):
                    self._stop(pod)
            return
        wanted = set(range(job["spec"]["parallelism"])) - {index_of(pod) for pod in own}
        for index in sorted(wanted):
            self._create_pod(job, index)

    def _create_pod(self, job: Manifest, index: int) -> None:
        labels = job["spec"]["template"]["metadata"]["labels"]
        others = {p["metadata"]["labels"]["kubooth.io/attempt"] for p in self.pods.values() if not ended(p)}
        assert others <= {labels["kubooth.io/attempt"]}, "two attempts live at once"
        name = f"{job['metadata']['name']}-{index}-{next(self._uids):05}"
        pod = {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {
                "name": name,
                "namespace": NAMESPACE,
                "labels": {**labels, "batch.kubernetes.io/job-completion-index": str(index)},
                "ownerReferences": [{"uid": job["metadata"]["uid"]}],
            },
            "spec": {"nodeName": f"node-{index}"},
            "status": {"phase": "Pending", "conditions": []},
        }
        self.pods[name] = self._stored(pod)

    # Kubelets

    def _kubelet(self, pod: Manifest) -> None:
        status, metadata = pod["status"], pod["metadata"]
        if pod["spec"].get("nodeName", "") in self.dead_nodes or ended(pod):
            return
        behaviour = self.script(int(metadata["labels"]["kubooth.io/attempt"]))
        ending = behaviour.endings.get(index_of(pod), behaviour.every)
        age = (self.now - datetime.fromisoformat(metadata["creationTimestamp"])).total_seconds()
        stopped, ran = metadata.get("stopped"), metadata.get("ran")
        if ran is not None and (self.now - ran).total_seconds() >= ending.after:
            self._finish(pod, ending)
        elif stopped is not None:
            if (self.now - stopped).total_seconds() >= behaviour.stop_seconds:
                summary = behaviour.stop_summary
                self._finish(pod, Ending(code=143, reason="Stopped", message="stopped", summary=summary))
        elif behaviour.waiting:
            waiting = {"reason": behaviour.waiting, "message": "by the script"}
            status["containerStatuses"] = [{"name": "trainer", "state": {"waiting": waiting}}]
        elif age >= behaviour.start_after and status["phase"] == "Pending":
            status |= {"phase": "Running", "startTime": stamp(self.now)}
            status["conditions"].append({"type": "Ready", "status": "True"})
            status["containerStatuses"] = [{"name": "trainer", "state": {"running": {"startedAt": stamp(self.now)}}}]
            metadata["ran"] = self.now
        elif status["phase"] == "Running" and behaviour.beats and index_of(pod) == 0 and int(age) % 10 == 0:
            self._beat()

    def _beat(self) -> None:
        if self.job is None:
            return
        self.job.setdefault("status", {})["progress"] = {
            "step": 1, "total": 2, "updatedAt": stamp(self.now), "eta": "9s", "etaSeconds": 9, "summary": "1/2 50%",
        }  # fmt: skip
        self.job["status"]["stages"] = [{"name": "Train", "state": "Running", "start": stamp(self.now)}]
        self._touch(self.job)

    def _finish(self, pod: Manifest, ending: Ending) -> None:
        status = pod["status"]
        status["phase"] = "Failed" if ending.code else "Succeeded"
        status["conditions"] = [each for each in status["conditions"] if each["type"] != "Ready"]
        terminated = {
            "exitCode": ending.code,
            "finishedAt": stamp(self.now),
            "reason": "Error" if ending.code else "Completed",
        }
        if ending.oom:
            terminated["reason"] = "OOMKilled"
        if ending.reason or not ending.code:
            terminated["message"] = Termination(
                reason=ending.reason or "Completed",
                message=ending.message,
                exit_code=ending.code,
                summary=ending.summary,
                log=("last line",),
            ).to_text()
        status["containerStatuses"] = [{"name": "trainer", "state": {"terminated": terminated}}]
        lingers = self.script(int(pod["metadata"]["labels"]["kubooth.io/attempt"])).lingers
        if pod["metadata"].get("stopped") is not None and not lingers and not self._has_owner(pod):
            del self.pods[pod["metadata"]["name"]]

    def _has_owner(self, pod: Manifest) -> bool:
        return any(child["metadata"]["uid"] == owner_uid(pod) for child in self.children.values())

    def _stop(self, pod: Manifest) -> None:
        grace = 300
        if pod["metadata"].get("stopped") is None:
            pod["metadata"]["stopped"] = self.now
            pod["metadata"]["deletionTimestamp"] = stamp(self.now + timedelta(seconds=grace))
        if pod["status"]["phase"] == "Pending" and pod["spec"].get("nodeName", "") not in self.dead_nodes:
            self._finish(pod, Ending(code=143))


def merged(target: Manifest, patch: Manifest) -> Manifest:
    """RFC 7386."""
    result = dict(target)
    for name, value in patch.items():
        if value is None:
            result.pop(name, None)
        elif isinstance(value, dict):
            before = result.get(name)
            result[name] = merged(before if isinstance(before, dict) else {}, value)
        else:
            result[name] = value
    return result


def ended(pod: Manifest) -> bool:
    return pod["status"]["phase"] in {"Succeeded", "Failed"}


def owner_uid(pod: Manifest) -> str | None:
    return next((str(owner["uid"]) for owner in pod["metadata"]["ownerReferences"]), None)


def index_of(pod: Manifest) -> int:
    return int(pod["metadata"]["labels"]["batch.kubernetes.io/job-completion-index"])


def condition(type_: str, now: datetime) -> Manifest:
    return {"type": type_, "status": "True", "lastTransitionTime": stamp(now)}


def stamp(time: datetime) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ")
