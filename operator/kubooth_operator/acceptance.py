"""Whether a job may run: its spec under its runtime, or under the snapshot of it. Pure; called by `reconcile`.

Before the first attempt a changed spec or runtime is judged anew. From then on the snapshot in the status is the
job's runtime, whatever becomes of the object; its values stay as they were settled, whatever an upgrade makes of the
built-in ones; and where a change to a running job is refused (a priority class that the runtime does not allow), the
last accepted spec stays in force until it is mended. Labels are judged until the first attempt only. What another
version has let start goes on under this one, without the fields that this one does not know. Where it does not know a
value, what runs is followed to its end by what it can read, and no other attempt begins.
"""

from __future__ import annotations

from dataclasses import dataclass

from kubooth_operator.api.fields import Part, facts_of
from kubooth_operator.api.job import API_VERSION, CHANGEABLE, JobSpec, PersonalizationJob, RunPolicy
from kubooth_operator.api.load import parse, parse_readable
from kubooth_operator.api.problems import FieldError, SpecError
from kubooth_operator.api.runtime import PersonalizationRuntime
from kubooth_operator.names import JOB_KIND, RUNTIME_KIND
from kubooth_operator.plan import Manifest, Observed
from kubooth_operator.render import Accepted
from kubooth_operator.settle import settle


@dataclass(frozen=True, kw_only=True)
class Judgement:
    """What holds for a job now. `problem` says why the spec as it stands is refused; `job` may then be an older one."""

    job: Accepted | None
    problem: SpecError | None
    resolved: Manifest | None  # for status.resolved; None leaves what is there
    snapshot: Manifest | None  # for status.runtimeSnapshot; None leaves what is there


def judge(observed: Observed) -> Judgement:
    """The job's spec under its runtime."""
    status = observed.job.get("status") or {}
    started = status.get("attempts", 0) > 0
    snapshot = status.get("runtimeSnapshot") if started else _snapshot(observed.runtime)
    try:
        runtime = _runtime(observed, snapshot, known_only=started)
        job = parse(_plain_job(observed.job), PersonalizationJob, known_only=started)
    except SpecError as problem:
        return Judgement(job=_stand_in(observed), problem=problem, resolved=None, snapshot=None)
    last = _settled_before(job, status.get("resolved") if started else None, runtime)
    try:
        spec = settle(job, runtime)
        if last is not None:
            spec = _as_changed(job, last, spec, runtime)
        accepted = _accepted(job, spec, runtime, None if started else job.metadata.labels or {})
    except SpecError as problem:
        return Judgement(
            job=_still(job, last, runtime) or _stand_in(observed), problem=problem, resolved=None, snapshot=None
        )
    resolved = accepted.spec.model_dump(mode="json", by_alias=True, exclude_none=True)
    return Judgement(job=accepted, problem=None, resolved=resolved, snapshot=snapshot)


def _runtime(observed: Observed, snapshot: Manifest | None, *, known_only: bool) -> PersonalizationRuntime:
    if snapshot is None:
        name = observed.job.get("spec", {}).get("runtimeRef", {}).get("name", "default")
        message = f"there is no PersonalizationRuntime {name}: `kubectl get prt` lists those there are"
        raise SpecError([FieldError("spec.runtimeRef.name", message, "RuntimeNotFound")])
    metadata = {name: snapshot[name] for name in ("name", "uid", "generation") if name in snapshot}
    raw = {"apiVersion": API_VERSION, "kind": RUNTIME_KIND, "metadata": metadata, "spec": snapshot["spec"]}
    try:
        return parse(raw, PersonalizationRuntime, known_only=known_only)
    except SpecError as error:
        raise SpecError(
            [
                FieldError("spec.runtimeRef.name", f"runtime {snapshot['name']}: {each}", "InvalidRuntime")
                for each in error.errors
            ]
        ) from None


def _snapshot(runtime: Manifest | None) -> Manifest | None:
    if runtime is None:
        return None
    metadata = runtime["metadata"]
    known = {name: metadata[name] for name in ("name", "uid", "generation") if name in metadata}
    return {**known, "spec": runtime.get("spec", {})}


def _plain_job(job: Manifest) -> Manifest:
    known = ("name", "namespace", "uid", "labels")
    metadata = {name: job["metadata"][name] for name in known if name in job["metadata"]}
    return {"apiVersion": API_VERSION, "kind": JOB_KIND, "metadata": metadata, "spec": job.get("spec", {})}


def _settled_before(
    job: PersonalizationJob, resolved: Manifest | None, runtime: PersonalizationRuntime
) -> JobSpec | None:
    """The spec as it was settled when the job started, with the built-in values of that time; what is new since then
    has today's. None where it never was settled, or by a version whose rules were others."""
    if resolved is None:
        return None
    raw = {"apiVersion": API_VERSION, "kind": JOB_KIND, "metadata": {"name": job.metadata.name}, "spec": resolved}
    try:
        return settle(parse(raw, PersonalizationJob, known_only=True), runtime)
    except SpecError:
        return None


def _as_changed(job: PersonalizationJob, last: JobSpec, spec: JobSpec, runtime: PersonalizationRuntime) -> JobSpec:
    """The spec as it was settled, with what may change in a job that runs.

    Where neither job nor runtime gives a limit that has a built-in value, it stays as it is: one that the job gave once
    cannot be told from the built-in one of the version that started it.
    """
    given = _names_given(job.spec.run_policy) | _names_given(runtime.spec.defaults.run_policy)
    builtin = {name for name, field in RunPolicy.model_fields.items() if facts_of(field).builtin is not None}
    kept = {name: getattr(last.run_policy, name) for name in builtin - given}
    changed = {name: getattr(spec, name) for name in CHANGEABLE}
    return last.model_copy(update={**changed, "run_policy": spec.run_policy.model_copy(update=kept)})


def _names_given(part: Part) -> set[str]:
    return set(part.model_dump(exclude_none=True))


def _still(job: PersonalizationJob, last: JobSpec | None, runtime: PersonalizationRuntime) -> Accepted | None:
    """The job as it was accepted last, if its runtime's snapshot can still be kept to."""
    try:
        return _accepted(job, last, runtime, None) if last is not None else None
    except SpecError:
        return None


def _stand_in(observed: Observed) -> Accepted | None:
    """What this version can read of a job that another has started: enough to see how its attempt ends."""
    status, spec = observed.job.get("status") or {}, observed.job.get("spec", {})
    if not status.get("attempts"):
        return None
    settled = {**spec, **(status.get("resolved") or {})}
    settled["runPolicy"] = {**settled.get("runPolicy", {}), **spec.get("runPolicy", {})}
    runtime = {"apiVersion": API_VERSION, "kind": RUNTIME_KIND, "metadata": {"name": "default"}, "spec": {}}
    try:
        job = parse_readable({**_plain_job(observed.job), "spec": settled}, PersonalizationJob)
    except SpecError:
        return None
    return Accepted(
        name=job.metadata.name,
        namespace=job.metadata.namespace or "",
        uid=job.metadata.uid or "",
        spec=job.spec,
        runtime=parse(runtime, PersonalizationRuntime),
        is_whole=False,
    )


def _accepted(
    job: PersonalizationJob, spec: JobSpec, runtime: PersonalizationRuntime, labels: dict[str, str] | None
) -> Accepted:
    """The job with this spec, once a configuration can be made of it. Raises SpecError."""
    metadata = job.metadata
    accepted = Accepted(
        name=metadata.name,
        namespace=metadata.namespace or "",
        uid=metadata.uid or "",
        spec=spec,
        runtime=runtime,
        labels=labels,
    )
    accepted.config(attempt=1)
    return accepted
