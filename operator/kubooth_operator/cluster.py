"""The edge of a pass: gathers what `reconcile` looks at, and carries out what it decides.

Reads come from the cache, except where acting on a stale one would do harm: before anything is created or deleted the
job itself is read, before a batch Job is created its pods are listed, before a pod is deleted for want of its batch Job
that is looked for, a job that was not started is judged by its runtime as it is, and nobody is told that a name is
taken without a look. Every write carries a precondition (a UID, a resourceVersion, or that the name is free), so that
two operators at once, or one behind its time, cannot do damage.
"""

from __future__ import annotations

import hashlib
import json
import logging
import secrets
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from datetime import UTC, datetime
from typing import Any

from kubooth_operator.announce import event_of
from kubooth_operator.cache import Cache, Key, job_uid, key_of, owner_of, runtime_name, uid_of, version_of
from kubooth_operator.children import contains
from kubooth_operator.client import (
    APPLY_PATCH,
    MERGE_PATCH,
    AlreadyExistsError,
    Api,
    ApiError,
    ConflictError,
    NotFoundError,
    RefusedError,
    TemporaryError,
)
from kubooth_operator.defaults import DEFAULT, default_of
from kubooth_operator.kinds import BATCH_JOB, EVENT, JOB, POD, RUNTIME, kind_of
from kubooth_operator.metrics import Metrics
from kubooth_operator.names import LABEL_JOB_UID, OPERATOR_MANAGER
from kubooth_operator.plan import Announcement, Deletion, Manifest, Observed, Plan, Ref
from kubooth_operator.refusals import Refusals, pod_refusal

_OWN_FIELDS = {"fieldManager": OPERATOR_MANAGER}
_PODS_LEFT_SECONDS = 2.0

_log = logging.getLogger(__name__)


class NotYetError(Exception):
    """Something has to end first; look again after `seconds`."""

    def __init__(self, message: str, seconds: float) -> None:
        super().__init__(message)
        self.seconds = seconds


class Cluster:
    """`instance` names this process in Events; `may_write` says whether it is the one that writes."""

    def __init__(self, api: Api, cache: Cache, metrics: Metrics, *, instance: str, may_write: Callable[[], bool]):
        self._api = api
        self._cache = cache
        self._metrics = metrics
        self._instance = instance
        self._may_write = may_write
        self._taken: dict[str, set[Ref]] = {}  # by UID of the job
        self._status_refused: dict[str, datetime] = {}  # by UID of the job: the last time
        self._in_vain: dict[str, dict[str, tuple[int, str]]] = {}  # by UID of the job: applies that came to nothing
        self._refusals = Refusals()

    async def observe(self, key: Key) -> Observed | None:
        """What a pass looks at; None where there is no such job."""
        job = self._cache.jobs.get(key)
        if job is None:
            return None
        uid = uid_of(job)
        children, pods = self._cache.children_of(uid), self._cache.pods_of(uid)
        return Observed(
            job=job,
            runtime=await self._runtime(job),
            children=children,
            pods=pods,
            taken=await self._still_taken(uid),
            child_refusal=self._refusals.told(uid),
            pod_refusal=await pod_refusal(self._api, job, children, pods),
            status_refused_at=self._status_refused.get(uid),
        )

    async def carry_out(self, observed: Observed, plan: Plan) -> bool:
        """Carries a plan out. True where the job should be looked at once more: something was written, or the plan was
        made from an old version of the job. Raises `ApiError` or `NotYetError` where it got only so far."""
        if plan.writes_nothing:
            return False
        if not self._may_write():
            raise TemporaryError("the lease is not renewed: no writes")
        try:
            wrote = await self._change(observed, plan)
        except (RefusedError, TemporaryError):
            if observed.child_refusal:  # the plan was made knowing of it: its status says so
                await self._tell(observed.job, plan)
            raise
        if wrote is None:
            return True
        await self._tell(observed.job, plan)
        return wrote or bool(plan.status)

    def forget(self, uid: str) -> None:
        """Drops what is remembered of a job that is gone."""
        self._taken.pop(uid, None)
        self._status_refused.pop(uid, None)
        self._in_vain.pop(uid, None)
        self._refusals.forget(uid)

    async def _change(self, observed: Observed, plan: Plan) -> bool | None:
        """Deletions and children: whether anything was written; None where another plan is needed first."""
        known = {(child["kind"], child["metadata"]["name"]): child for child in observed.children}
        creates = any((each["kind"], each["metadata"]["name"]) not in known for each in plan.apply)
        if (plan.delete or creates) and not await self._is_current(observed.job):
            return None
        wrote = [await self._delete(deletion, observed) for deletion in plan.delete]
        for manifest in plan.apply:
            child = known.get((manifest["kind"], manifest["metadata"]["name"]))
            with self._hearing(observed.job, manifest["kind"], manifest["metadata"]["name"], trouble=True):
                if child is not None:
                    wrote.append(await self._mend(manifest, child, observed.job))
                elif not await self._create(manifest, observed.job):
                    return None  # a plan that knows of it comes first: nothing runs without its neighbours
                else:
                    wrote.append(True)
        if plan.apply:
            self._refusals.forget(uid_of(observed.job))
        return any(wrote)

    def _hearing(self, job: Manifest, kind: str, name: str, *, trouble: bool = False) -> AbstractContextManager[None]:
        return self._refusals.hearing(uid_of(job), f"{kind} {name}", job=str(key_of(job)), trouble=trouble)

    async def _runtime(self, job: Manifest) -> Manifest | None:
        """The runtime that a job names, as it is now: the job keeps what it is accepted with. A job that was started
        has its own snapshot: for it nobody asks the server."""
        name = runtime_name(job)
        own = default_of(job["metadata"]["namespace"], self._cache.runtimes) if name == DEFAULT else None
        known = own or self._cache.runtimes.get(Key("", name))
        if (job.get("status") or {}).get("attempts"):
            return known
        try:  # the cache learns of it by its event, which also wakes the other jobs that wait for it
            return await self._api.get(RUNTIME.path(name=known["metadata"]["name"] if known else name))
        except NotFoundError:
            return None

    async def _still_taken(self, uid: str) -> tuple[Ref, ...]:
        """The names that others' objects hold, looked up anew: a name that came free is not taken."""
        taken = self._taken.get(uid, set())
        for ref in sorted(taken, key=lambda ref: (ref.kind, ref.name)):
            try:
                holder = await self._api.get(_path(ref))
            except NotFoundError:
                taken.discard(ref)
            else:
                if job_uid(holder) == uid:
                    taken.discard(ref)
        return tuple(sorted(taken, key=lambda ref: (ref.kind, ref.name)))

    async def _is_current(self, job: Manifest) -> bool:
        """Whether the job is as the plan's maker saw it; takes note of what it is now."""
        key = key_of(job)
        try:
            now = await self._api.get(JOB.path(key.namespace, key.name))
        except NotFoundError:
            self._cache.jobs.remove(key, uid_of(job))
            self.forget(uid_of(job))
            return False
        self._cache.jobs.put(now)
        return uid_of(now) == uid_of(job) and version_of(now) == version_of(job)

    async def _delete(self, deletion: Deletion, observed: Observed) -> bool:
        """False where it was being deleted already."""
        ref = deletion.ref
        if _is_going(deletion, observed):
            return False
        if ref.kind == POD.kind and deletion.grace_seconds is None and await self._finds_its_batch_job(ref, observed):
            return True
        options = {
            "apiVersion": "v1",
            "kind": "DeleteOptions",
            "preconditions": {"uid": deletion.uid},
            "propagationPolicy": deletion.propagation,
            **({} if deletion.grace_seconds is None else {"gracePeriodSeconds": deletion.grace_seconds}),
        }
        key = Key(ref.namespace, ref.name)
        store = self._cache.store_of(kind_of(ref.api_version, ref.kind))
        try:
            with self._hearing(observed.job, ref.kind, ref.name):
                answer = await self._api.delete(_path(ref), options)
        except (NotFoundError, ConflictError):  # gone, and perhaps another one has its name now
            store.remove(key, deletion.uid)
            return True
        if answer["kind"] == ref.kind:
            store.put(answer)
        else:
            store.remove(key, deletion.uid)
        _log.info("deleted %s %s", ref.kind, ref.name, extra=_about(observed.job))
        return True

    async def _finds_its_batch_job(self, pod: Ref, observed: Observed) -> bool:
        """Whether a pod whose batch Job was thought to be gone has it still, without our label; takes note of it."""
        owners = [
            owner
            for each in observed.pods
            if each["metadata"]["name"] == pod.name
            for owner in each["metadata"].get("ownerReferences") or ()
        ]
        known = {uid_of(child) for child in observed.children}
        for owner in owners:
            if owner["kind"] != BATCH_JOB.kind or owner["uid"] in known:
                continue
            try:
                found = await self._api.get(BATCH_JOB.path(pod.namespace, owner["name"]))
            except NotFoundError:
                continue
            if uid_of(found) == owner["uid"]:
                self._cache.put(found)
                return True
        return False

    async def _create(self, manifest: Manifest, job: Manifest) -> bool:
        """False where an object of someone else has the name."""
        kind = kind_of(manifest["apiVersion"], manifest["kind"])
        namespace, name = manifest["metadata"]["namespace"], manifest["metadata"]["name"]
        if kind == BATCH_JOB:
            await self._check_that_no_pod_runs(job)
        try:
            answer = await self._api.post(kind.path(namespace), manifest, query=_OWN_FIELDS)
        except AlreadyExistsError:
            holder = await self._api.get(kind.path(namespace, name))
            if _is_of_an_earlier_job(holder, job):
                raise NotYetError(
                    f"{kind.kind} {name} of an earlier job of this name has to go", _PODS_LEFT_SECONDS
                ) from None
            if job_uid(holder) != uid_of(job):
                ref = Ref(api_version=kind.api_version, kind=kind.kind, namespace=namespace, name=name)
                self._taken.setdefault(uid_of(job), set()).add(ref)
                _log.info("%s %s belongs to someone else", kind.kind, name, extra=_about(job))
                return False
            answer = await self._apply(manifest, uid_of(holder))  # ours, but its labels were changed
        self._cache.put(answer)
        if kind == BATCH_JOB:
            self._metrics.batch_job_was_created(job)
        _log.debug("created %s %s", kind.kind, name, extra=_about(job))
        return True

    async def _mend(self, manifest: Manifest, child: Manifest, job: Manifest) -> bool:
        """False where nothing was written. A webhook may undo what is applied; that is not tried again before either
        side has changed."""
        in_vain, uid = self._in_vain.setdefault(uid_of(job), {}), uid_of(child)
        asked = hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()
        if in_vain.get(uid) == (version_of(child), asked):
            return False
        answer = await self._apply(manifest, uid)
        if contains(answer, manifest):
            in_vain.pop(uid, None)
        else:
            if uid not in in_vain:
                what = f"{manifest['kind']} {manifest['metadata']['name']}"
                _log.warning("%s does not become what it should be: a webhook may change it", what, extra=_about(job))
            in_vain[uid] = (version_of(answer), asked)
        return version_of(answer) != version_of(child)

    async def _apply(self, manifest: Manifest, uid: str) -> Manifest:
        """Server-side apply to the object with this UID, and to no other of its name."""
        kind = kind_of(manifest["apiVersion"], manifest["kind"])
        metadata = {**manifest["metadata"], "uid": uid}
        path = kind.path(metadata["namespace"], metadata["name"])
        body = {**manifest, "metadata": metadata}
        answer = await self._api.patch(path, body, APPLY_PATCH, query={**_OWN_FIELDS, "force": "true"})
        self._cache.put(answer)
        _log.debug("applied %s %s/%s", kind.kind, metadata["namespace"], metadata["name"])
        return answer

    async def _check_that_no_pod_runs(self, job: Manifest) -> None:
        """Two attempts at once would write to the same place."""
        query = {"labelSelector": f"{LABEL_JOB_UID}={uid_of(job)}"}
        pods = (await self._api.get(POD.path(key_of(job).namespace), query=query))["items"]
        left = [pod["metadata"]["name"] for pod in pods if not _is_over(pod)]
        if left:
            raise NotYetError(f"pods of an earlier attempt still run: {', '.join(left[:5])}", _PODS_LEFT_SECONDS)

    async def _tell(self, job: Manifest, plan: Plan) -> None:
        if plan.status:
            await self._write_status(job, plan.status)
        for announcement in plan.announce:
            await self._announce(job, announcement)

    async def _write_status(self, job: Manifest, status: Manifest) -> None:
        key = key_of(job)
        body = {
            "metadata": {"uid": uid_of(job), "resourceVersion": job["metadata"]["resourceVersion"]},
            "status": status,
        }
        path = JOB.path(key.namespace, key.name, "status")
        try:
            with self._hearing(job, "status of job", key.name):
                answer = await self._api.patch(path, body, MERGE_PATCH, query=_OWN_FIELDS)
        except (ConflictError, NotFoundError):
            await self._is_current(job)  # so that the next pass sees what this one did not
            raise
        except ApiError:  # its trainer fares no better: a webhook on this status, say
            self._status_refused[uid_of(job)] = datetime.now(UTC)
            raise
        self._cache.jobs.put(answer)
        _log_transition(job, answer)
        self._metrics.status_was_written(job, answer)

    async def _announce(self, job: Manifest, announcement: Announcement) -> None:
        """Events are for people who look: one that does not arrive is no reason to stop."""
        event = event_of(announcement, job, instance=self._instance, tail=secrets.token_hex(8), now=datetime.now(UTC))
        try:
            await self._api.post(EVENT.path(key_of(job).namespace), event)
        except ApiError as error:
            _log.debug("event %s: %s", announcement.reason, error, extra=_about(job))


def _path(ref: Ref) -> str:
    return kind_of(ref.api_version, ref.kind).path(ref.namespace, ref.name)


def _is_over(pod: Manifest) -> bool:
    return (pod.get("status") or {}).get("phase") in ("Succeeded", "Failed")


def _is_of_an_earlier_job(holder: Manifest, job: Manifest) -> bool:
    """Whether an object belongs to a job that had this one's name, and is gone: its objects follow in a moment."""
    owner = owner_of(holder)
    return owner is not None and owner["name"] == job["metadata"]["name"] and owner["uid"] != uid_of(job)


def _is_going(deletion: Deletion, observed: Observed) -> bool:
    """Whether the object is being deleted already, and no slower than asked for."""
    for each in (observed.job, *observed.children, *observed.pods):
        metadata = each["metadata"]
        if metadata["uid"] == deletion.uid and metadata.get("deletionTimestamp"):
            grace = metadata.get("deletionGracePeriodSeconds") or 0
            return deletion.grace_seconds is None or grace <= deletion.grace_seconds
    return False


def _log_transition(old: Manifest, new: Manifest) -> None:
    """One line where the phase, its reason or the attempt changed."""
    before, after = old.get("status") or {}, new.get("status") or {}
    told = ("phase", "reason", "attempts")
    if any(before.get(name) != after.get(name) for name in told):
        words = "%s -> %s, attempt %s, %s: %s"
        values = (before.get("phase"), after.get("phase"), after.get("attempts"), after.get("reason"))
        _log.info(words, *values, after.get("message"), extra=_about(new))


def _about(job: Manifest) -> Mapping[str, Any]:
    return {"job": str(key_of(job))}
