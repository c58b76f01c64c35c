"""kopf: events of our two kinds fill the cache and name the jobs that they are about.

Handlers return nothing and only look on (`on.event`), so kopf writes nothing: no annotation, no finalizer. It runs on a
thread of its own, because it ends every task of the loop it runs in when it ends; then it is started again.
"""

from __future__ import annotations

import asyncio
import logging
import random
import threading
from collections.abc import Callable, Iterator
from typing import Any, Final

import kopf

from kubooth_operator.cache import Cache, Key, job_key, job_uid, key_of, uid_of, version_of
from kubooth_operator.client import ONLY_METADATA, Api, ApiError, NotFoundError, is_in_cluster
from kubooth_operator.defaults import DEFAULT, claimed
from kubooth_operator.kinds import JOB, POD, RUNTIME, Kind
from kubooth_operator.workqueue import WorkQueue

Manifest = dict[str, Any]
_PRUNE_SECONDS = 600.0
_PRUNE_SOON_SECONDS = 5.0
_RESTART_SECONDS = 5.0
_LONGEST_BACKOFF_SECONDS: Final = 15.0

_log = logging.getLogger(__name__)


class Events:
    """Where all news arrive: they go into the cache, and the jobs concerned into the queue."""

    def __init__(self, cache: Cache, queue: WorkQueue[Key], forget: Callable[[str], None]) -> None:
        self._cache = cache
        self._queue = queue
        self._forget = forget
        self.listed_again = asyncio.Event()

    def of_own_kind(self, kind: Kind, type_: str | None, manifest: Manifest) -> None:
        """A job or a runtime, from kopf. `type_` None is an entry of a list."""
        store = self._cache.store_of(kind)
        before = store.get(key_of(manifest))
        if type_ is None:
            self.listed_again.set()
        if type_ == "DELETED":
            if kind == JOB:
                self._forget(uid_of(manifest))
            if not store.remove(key_of(manifest), uid_of(manifest), version_of(manifest)):
                return
        elif not store.put(manifest):
            return
        self._name(kind, manifest, before)

    def of_child(self, manifest: Manifest) -> None:
        """A child or pod, from a watch."""
        if (key := job_key(manifest)) is not None:
            self._queue.add(key)

    def is_missed(self, child: Manifest) -> bool:
        """Whether a child that goes will be missed: its job is there, and to stay."""
        key = job_key(child)
        job = self._cache.jobs.get(key) if key is not None and child["kind"] != POD.kind else None
        return job is not None and uid_of(job) == job_uid(child) and "deletionTimestamp" not in job["metadata"]

    async def prune(self, api: Api) -> None:
        """After a gap that the server could not fill, kopf lists anew and says nothing of what was deleted meanwhile:
        so now and then, and soon after each list, this looks what is there. Does not return."""
        while True:
            try:
                await asyncio.wait_for(self.listed_again.wait(), _PRUNE_SECONDS * random.uniform(0.8, 1.2))
                await asyncio.sleep(_PRUNE_SOON_SECONDS)
                self.listed_again.clear()
            except TimeoutError:
                pass
            for kind in (JOB, RUNTIME):
                try:
                    found = await api.get(kind.path(), accept=ONLY_METADATA)
                except ApiError as error:
                    _log.debug("pruning %s: %s", kind.plural, error)
                    continue
                present = [uid_of(item) for item in found["items"] or ()]  # null where there are none
                for gone in self._cache.store_of(kind).prune(present, int(found["metadata"]["resourceVersion"])):
                    if kind == JOB:
                        self._forget(uid_of(gone))
                    self._name(kind, gone)

    def _name(self, kind: Kind, manifest: Manifest, before: Manifest | None = None) -> None:
        if kind == JOB:
            self._queue.add(key_of(manifest))
            return
        for job in self._cache.jobs.indexed(manifest["metadata"]["name"]):
            self._queue.add(key_of(job))
        namespaces = {*claimed(manifest), *(claimed(before) if before else ())}
        for job in self._cache.jobs.indexed(DEFAULT) if namespaces else ():
            if job["metadata"]["namespace"] in namespaces:
                self._queue.add(key_of(job))


async def feed(events: Events, api: Api) -> None:
    """Runs kopf for as long as it is not cancelled; starts it again when it ends."""
    await _crds_are_there(api)
    await _runtimes_are_known(events, api)
    loop = asyncio.get_running_loop()
    while True:
        thread = _KopfThread(lambda *event: loop.call_soon_threadsafe(events.of_own_kind, *event))
        try:
            error = await thread.ended()
        finally:
            thread.stop()
        _log.warning("the watch of jobs and runtimes ended (%s); starting it again", error)
        await asyncio.sleep(_RESTART_SECONDS * random.uniform(0.5, 1.0))


async def _crds_are_there(api: Api) -> None:
    """Waits for our kinds: kopf looks for them only once."""
    said = False
    while True:
        try:
            for kind in (JOB, RUNTIME):
                await api.get(kind.path(), query={"limit": "1"})
            return
        except NotFoundError:
            if not said:
                _log.warning("the CRDs of Kubooth are not installed; waiting for them")
                said = True
        except ApiError as error:
            _log.debug("looking for the CRDs: %s", error)
        await asyncio.sleep(random.uniform(0.5, 1.5))


async def _runtimes_are_known(events: Events, api: Api) -> None:
    """Hears of all runtimes before the first job: one that is not known yet may be the default of its namespace."""
    while True:
        try:
            for each in (await api.get(RUNTIME.path()))["items"] or ():
                events.of_own_kind(RUNTIME, "ADDED", each)
            return
        except ApiError as error:
            _log.debug("listing the runtimes: %s", error)
        await asyncio.sleep(random.uniform(0.5, 1.5))


class _KopfThread:
    def __init__(self, deliver: Callable[[Kind, str | None, Manifest], object]) -> None:
        self._deliver = deliver
        self._owner = asyncio.get_running_loop()
        self._end: asyncio.Future[BaseException | None] = self._owner.create_future()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stopping: asyncio.Event | None = None
        threading.Thread(target=self._main, name="kopf", daemon=True).start()

    async def ended(self) -> BaseException | None:
        return await asyncio.shield(self._end)

    def stop(self) -> None:
        """Tells it to end; nobody waits for it."""
        if self._loop is not None and self._stopping is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._stopping.set)

    def _main(self) -> None:
        error: BaseException | None = None
        try:
            asyncio.run(self._run())
        except Exception as problem:  # noqa: BLE001 - whatever ended it, it is started again
            error = problem
        if not self._owner.is_closed():
            self._owner.call_soon_threadsafe(self._finish, error)

    def _finish(self, error: BaseException | None) -> None:
        if not self._end.done():
            self._end.set_result(error)

    async def _run(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._stopping = asyncio.Event()
        await kopf.operator(
            registry=_registry(self._deliver),
            settings=_settings(),
            standalone=True,
            clusterwide=True,
            stop_flag=self._stopping,
        )


def _registry(deliver: Callable[[Kind, str | None, Manifest], object]) -> kopf.OperatorRegistry:
    registry = kopf.OperatorRegistry()

    @kopf.on.login(registry=registry)
    def login(**context: Any) -> kopf.ConnectionInfo | None:
        by = kopf.login_with_service_account if is_in_cluster() else kopf.login_with_kubeconfig
        return by(**context)

    def on_event(kind: Kind) -> None:
        group, version = kind.api_version.split("/")

        @kopf.on.event(group, version, kind.plural, registry=registry)
        async def look(event: kopf.RawEvent, **_: Any) -> None:
            deliver(kind, event["type"], dict(event["object"]))

    on_event(JOB)
    on_event(RUNTIME)
    return registry


def _settings() -> kopf.OperatorSettings:
    settings = kopf.OperatorSettings()
    settings.scanning.disabled = True  # else it watches all CRDs and namespaces
    settings.posting.enabled = False
    settings.process.ultimate_exiting_timeout = None
    settings.watching.server_timeout = 300
    settings.watching.client_timeout = 330
    settings.watching.connect_timeout = 10
    settings.networking.request_timeout = 60
    settings.networking.connect_timeout = 10
    settings.networking.error_backoffs = _Backoffs()
    return settings


class _Backoffs:
    """Never runs out: an outage of the API server, however long, ends nothing."""

    def __iter__(self) -> Iterator[float]:
        seconds = 0.25
        while True:
            yield seconds * random.uniform(0.5, 1.0)
            seconds = min(seconds * 2, _LONGEST_BACKOFF_SECONDS)
