"""The edge of a pass against a server that answers by a script: what names, notes and deletions lead to."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from aiohttp import web
from api.bad_specs import GOOD_JOB
from operator_edge.fake_server import connected, not_found

from kubooth_operator.cache import Cache, Key, uid_of
from kubooth_operator.children import deletion
from kubooth_operator.client import ApiError, TemporaryError
from kubooth_operator.cluster import Cluster, NotYetError
from kubooth_operator.handlers import Events
from kubooth_operator.kinds import JOB, RUNTIME
from kubooth_operator.metrics import Metrics
from kubooth_operator.names import shared_name
from kubooth_operator.plan import Announcement, Observed, Plan, Ref
from kubooth_operator.workqueue import WorkQueue

Manifest = dict[str, Any]
SERVICE = {"apiVersion": "v1", "kind": "Service", "metadata": {"name": shared_name("rex"), "namespace": "ns"}}


def job(uid: str = "new", version: int = 5) -> Manifest:
    metadata = {"name": "rex", "namespace": "ns", "uid": uid, "resourceVersion": str(version)}
    return {**GOOD_JOB, "metadata": metadata}


def owned(uid: str, name: str = "rex", kind: str = JOB.kind) -> Manifest:
    owner = {"apiVersion": JOB.api_version, "kind": kind, "name": name, "uid": uid, "controller": True}
    metadata = {**SERVICE["metadata"], "uid": "s", "resourceVersion": "3", "ownerReferences": [owner]}
    return {**SERVICE, "metadata": metadata}


def carry_out(plan: Plan, holder: Manifest | None = None) -> tuple[Cluster, list[Manifest]]:
    """What was sent, of a server that holds the job, and `holder` in the place of its Service."""
    sent: list[Manifest] = []

    async def handler(request: web.Request) -> web.Response:
        if request.method == "POST":
            sent.append(await request.json())
            if sent[-1]["kind"] == "Service" and holder is not None:
                return web.json_response({"reason": "AlreadyExists", "message": "already exists"}, status=409)
            return web.json_response(sent[-1])
        if JOB.plural in request.path:
            return web.json_response(job())
        return web.json_response(holder) if holder is not None else not_found()

    async def act() -> Cluster:
        async with connected(handler) as api:
            cluster = Cluster(api, Cache(), Metrics("1"), instance="me", may_write=lambda: True)
            await cluster.carry_out(Observed(job=job(), runtime=None, children=(), pods=()), plan)
            return cluster

    return asyncio.run(act()), sent


def test_objects_of_an_earlier_job_of_the_name_are_waited_for() -> None:
    """A job that is deleted and made again at once finds the old one's objects, which go a moment later."""
    with pytest.raises(NotYetError, match="Service rex-kubooth of an earlier job of this name has to go"):
        carry_out(Plan(apply=(SERVICE,)), owned("old"))


@pytest.mark.parametrize(
    "holder", [owned("x", name="max"), owned("x", kind="Deployment"), {**owned("x"), "metadata": SERVICE["metadata"]}]
)
def test_objects_of_others_have_taken_the_name(holder: Manifest) -> None:
    cluster, _ = carry_out(Plan(apply=(SERVICE,)), holder)
    assert cluster._taken == {"new": {Ref(api_version="v1", kind="Service", namespace="ns", name="rex-kubooth")}}


BATCH_JOBS: list[tuple[str, str | None, list[str]]] = [
    ("gone", None, ["rex-kubooth-1-0"]),
    ("another-of-its-name", "b-2", ["rex-kubooth-1-0"]),
    ("without-our-label", "b-1", []),
]


@pytest.mark.parametrize(("uid", "deleted"), [c[1:] for c in BATCH_JOBS], ids=[c[0] for c in BATCH_JOBS])
def test_a_pod_is_deleted_for_want_of_its_batch_job_only_where_that_is_gone(
    uid: str | None, deleted: list[str]
) -> None:
    owners = [{"apiVersion": "batch/v1", "kind": "Job", "name": "rex-kubooth-1", "uid": "b-1", "controller": True}]
    metadata = {"name": "rex-kubooth-1-0", "namespace": "ns", "uid": "p", "resourceVersion": "3"}
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {**metadata, "ownerReferences": owners}}
    batch_job = owned("new") | {"apiVersion": "batch/v1", "kind": "Job"}
    batch_job["metadata"] |= {"name": "rex-kubooth-1", "uid": uid}
    seen: list[str] = []

    async def handler(request: web.Request) -> web.Response:
        if request.method == "DELETE":
            seen.append(request.path.rsplit("/", 1)[-1])
            return web.json_response(pod)
        if JOB.plural in request.path:
            return web.json_response(job())
        return web.json_response(batch_job) if uid is not None else not_found()

    async def act() -> tuple[bool, Observed | None]:
        async with connected(handler) as api:
            cache = Cache()
            cache.jobs.put(job())
            cluster = Cluster(api, cache, Metrics("1"), instance="me", may_write=lambda: True)
            observed = Observed(job=job(), runtime=None, children=(), pods=(pod,))
            again = await cluster.carry_out(observed, Plan(delete=(deletion(pod),)))
            return again, await cluster.observe(Key("ns", "rex"))

    again, observed = asyncio.run(act())
    assert again and seen == deleted
    assert observed is not None and [uid_of(each) for each in observed.children] == ([] if deleted else ["b-1"])


def test_a_note_of_an_event_fits_in_any_writing() -> None:
    """The API server counts bytes."""
    _, sent = carry_out(Plan(announce=(Announcement(type="Warning", reason="BadSubject", message="犬" * 1000),)))
    assert len(sent[0]["note"].encode()) == 1023
    assert set(sent[0]["note"]) == {"犬"}


def test_what_a_webhook_undoes_is_not_applied_again_and_again() -> None:
    """Until the object changes, or what is wanted of it."""
    stored = {**SERVICE, "metadata": {**SERVICE["metadata"], "uid": "s", "resourceVersion": "3", "labels": {"a": "!"}}}
    applied: list[Manifest] = []

    async def handler(request: web.Request) -> web.Response:
        applied.append(await request.json())
        return web.json_response(stored)

    def wanting(label: str) -> Manifest:
        return {**SERVICE, "metadata": {**SERVICE["metadata"], "labels": {"a": label}}}

    def at(version: int) -> Observed:
        child = {**stored, "metadata": {**stored["metadata"], "resourceVersion": str(version)}}
        return Observed(job=job(), runtime=None, children=(child,), pods=())

    async def act() -> list[tuple[bool, int]]:
        async with connected(handler) as api:
            cluster = Cluster(api, Cache(), Metrics("1"), instance="me", may_write=lambda: True)
            return [
                (await cluster.carry_out(at(version), Plan(apply=(wanting(label),))), len(applied))
                for version, label in [(3, "x"), (3, "x"), (3, "y"), (3, "y"), (2, "y"), (3, "y")]
            ]

    assert asyncio.run(act()) == [(False, 1), (False, 1), (False, 2), (False, 2), (True, 3), (False, 3)]


def test_a_webhook_that_fails_is_told_in_words_that_stay() -> None:
    """It answers 500, each time under another number; the status says so, and its words do not change."""
    told: list[Any] = []
    numbers = iter(range(100))

    async def handler(request: web.Request) -> web.Response:
        if request.method == "POST":
            words = f"failed calling webhook x.example: Post timed out (request {next(numbers)})"
            return web.json_response({"message": words}, status=500)
        if request.method == "PATCH":
            told.append((await request.json())["status"])
        return web.json_response(job())

    async def act() -> str:
        async with connected(handler) as api:
            cache = Cache()
            cache.jobs.put(job())
            cluster = Cluster(api, cache, Metrics("1"), instance="me", may_write=lambda: True)
            refusal = ""
            for times in range(4):
                assert (refusal != "") == (times >= 3)
                observed = Observed(job=job(), runtime=None, children=(), pods=(), child_refusal=refusal)
                with pytest.raises(TemporaryError):
                    await cluster.carry_out(observed, Plan(apply=(SERVICE,), status={"message": refusal}))
                seen = await cluster.observe(Key("ns", "rex"))
                refusal = seen.child_refusal if seen is not None else ""
            return refusal

    words = "failed calling webhook x.example: Post timed out (request 0)"
    assert asyncio.run(act()) == words
    assert told == [{"message": words}]


@pytest.mark.parametrize(("code", "is_refused"), [(500, True), (403, True), (409, False)])
def test_a_status_that_could_not_be_written_is_remembered(code: int, is_refused: bool) -> None:
    """Its trainer's heartbeats are not taken either. A conflict is no such thing."""

    async def handler(request: web.Request) -> web.Response:
        if request.method == "PATCH":
            return web.json_response({"message": "failed calling webhook"}, status=code)
        return web.json_response(job())

    async def act() -> Observed | None:
        async with connected(handler) as api:
            cache = Cache()
            cache.jobs.put(job())
            cluster = Cluster(api, cache, Metrics("1"), instance="me", may_write=lambda: True)
            observed = Observed(job=job(), runtime=None, children=(), pods=())
            with pytest.raises(ApiError):
                await cluster.carry_out(observed, Plan(status={"phase": "Running"}))
            return await cluster.observe(Key("ns", "rex"))

    seen = asyncio.run(act())
    assert seen is not None and (seen.status_refused_at is not None) == is_refused


def runtime(version: int, image: str) -> Manifest:
    metadata = {"name": "default", "uid": "r", "resourceVersion": str(version)}
    kind = {"apiVersion": RUNTIME.api_version, "kind": RUNTIME.kind}
    return {**kind, "metadata": metadata, "spec": {"image": image}}


@pytest.mark.parametrize(
    ("status", "is_there", "expected"),
    [({}, True, "new"), ({}, False, None), ({"attempts": 1}, True, "old")],
    ids=["not started", "not started, and it was deleted", "started"],
)
def test_a_job_is_judged_by_its_runtime_as_it_is(status: Manifest, is_there: bool, expected: str | None) -> None:
    """Who edits a runtime and then applies a job means the runtime as it is: the job keeps it."""

    async def handler(_: web.Request) -> web.Response:
        return web.json_response(runtime(2, "new")) if is_there else not_found()

    async def act() -> Observed | None:
        async with connected(handler) as api:
            cache = Cache()
            cache.jobs.put({**job(), "status": status})
            cache.runtimes.put(runtime(1, "old"))
            cluster = Cluster(api, cache, Metrics("1"), instance="me", may_write=lambda: True)
            return await cluster.observe(Key("ns", "rex"))

    seen = asyncio.run(act())
    assert seen is not None
    assert (seen.runtime and seen.runtime["spec"]["image"]) == expected


def test_a_runtime_that_was_looked_up_still_wakes_the_jobs_that_wait_for_it() -> None:
    async def handler(_: web.Request) -> web.Response:
        return web.json_response(runtime(2, "new"))

    async def act() -> int:
        async with connected(handler) as api:
            cache, queue = Cache(), WorkQueue[Key]()
            cache.jobs.put(job())
            cache.runtimes.put(runtime(1, "old"))
            await Cluster(api, cache, Metrics("1"), instance="me", may_write=lambda: True).observe(Key("ns", "rex"))
            Events(cache, queue, lambda _: None).of_own_kind(RUNTIME, "MODIFIED", runtime(2, "new"))
            return len(queue)

    assert asyncio.run(act()) == 1


def gone_by_event(events: Events, cache: Cache) -> None:
    events.of_own_kind(JOB, "DELETED", job(version=9))


def gone_before_its_event(events: Events, cache: Cache) -> None:
    cache.jobs.remove(Key("ns", "rex"), "new")  # as after a read that found nothing
    events.of_own_kind(JOB, "DELETED", job(version=9))


@pytest.mark.parametrize("go", [gone_by_event, gone_before_its_event])
def test_what_is_remembered_of_a_job_goes_with_it(go: Callable[[Events, Cache], None]) -> None:
    cache, forgotten = Cache(), list[str]()
    events = Events(cache, WorkQueue(), forgotten.append)
    events.of_own_kind(JOB, "ADDED", job())
    go(events, cache)
    assert forgotten == ["new"]


def test_what_is_remembered_of_a_job_goes_where_its_event_was_missed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kubooth_operator.handlers._PRUNE_SOON_SECONDS", 0)

    async def handler(_: web.Request) -> web.Response:
        return web.json_response({"metadata": {"resourceVersion": "9"}, "items": []})

    async def forgotten() -> str:
        uids: asyncio.Queue[str] = asyncio.Queue()
        async with connected(handler) as api:
            events = Events(Cache(), WorkQueue(), uids.put_nowait)
            events.of_own_kind(JOB, None, job())
            pruning = asyncio.create_task(events.prune(api))
            try:
                return await asyncio.wait_for(uids.get(), 60)
            finally:
                pruning.cancel()

    assert asyncio.run(forgotten()) == "new"
