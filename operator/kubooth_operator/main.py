"""The operator as a process: `python -m kubooth_operator.main`. Options, composition, start and end.

It waits for the Lease, then watches, and works until it is told to end (SIGTERM: passes under way end, the Lease is
given back, exit 0) or until another process has the Lease (exit 3, so that its pod starts it anew as a standby).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import secrets
import signal
import socket
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, cast

import click

from kubooth_operator import __version__, handlers, health, logs
from kubooth_operator.cache import Cache, Key
from kubooth_operator.client import Api, ApiError, connect
from kubooth_operator.cluster import Cluster
from kubooth_operator.controller import Controller, Reconcile
from kubooth_operator.leader import Lease, LeaseLostError
from kubooth_operator.metrics import Metrics
from kubooth_operator.plan import Settings
from kubooth_operator.reconcile import reconcile
from kubooth_operator.watch import Watch
from kubooth_operator.workqueue import WorkQueue

EXIT_LEASE_LOST: Final = 3
EXIT_FAILED: Final = 1
STANDING_BY: Final = "standing by"
WORKING: Final = "working"
_PULSE_SECONDS = 3.0
_NAMESPACE_FILE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")

_log = logging.getLogger("kubooth_operator.main")


@dataclass(frozen=True, kw_only=True)
class Options:
    """What the process is started with; see `--help`."""

    trainer_image: str
    lease_namespace: str
    identity: str
    workers: int
    health_port: int
    leader_election: bool


@click.command(context_settings={"auto_envvar_prefix": "KUBOOTH", "show_default": True})
@click.option("--trainer-image", required=True, show_envvar=True, help="Image of the trainer, of this release.")
@click.option(
    "--lease-namespace",
    show_envvar=True,
    default=lambda: _own_namespace(),
    show_default="the pod's own, else default",
    help="Where the Lease kubooth-operator is.",
)
@click.option(
    "--identity",
    show_envvar=True,
    default=lambda: f"{socket.gethostname()}-{secrets.token_hex(4)}",
    show_default="host name and a random part",
    help="Holder of the Lease: the pod's name, so that a restarted container need not wait for itself.",
)
@click.option("--workers", type=click.IntRange(1, 64), default=8, show_envvar=True, help="Jobs worked on at once.")
@click.option(
    "--health-port",
    type=click.IntRange(0, 65535),
    default=8080,
    show_envvar=True,
    help="For probes and metrics; 0 for none.",
)
@click.option(
    "--leader-election/--no-leader-election",
    default=True,
    show_envvar=True,
    help="Without it, see to it that no second one runs.",
)
@click.option("--log-format", type=click.Choice(["text", "json"]), default="text", show_envvar=True)
@click.option("--verbose", is_flag=True, show_envvar=True, help="Also what is of interest to developers only.")
@click.version_option(__version__)
def main(*, log_format: str, verbose: bool, **options: Any) -> None:
    """Runs PersonalizationJobs on the cluster it runs in, or on the one that KUBECONFIG names."""
    logs.configure(cast(logs.LogFormat, log_format), verbose=verbose)
    sys.exit(asyncio.run(run(Options(**options), reconcile)))


async def run(options: Options, decide: Reconcile) -> int:
    """Returns the exit code."""
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)
    metrics = Metrics(__version__)
    api = await connect(f"kubooth-operator/{__version__} ({options.identity})", metrics.request_has_ended)
    try:
        return await _Operator(options, decide, api, metrics).run(stopping)
    finally:
        await api.close()


class _Operator:
    def __init__(self, options: Options, decide: Reconcile, api: Api, metrics: Metrics) -> None:
        self._options = options
        self._metrics = metrics
        self._api = api
        self._cache = Cache()
        self._queue: WorkQueue[Key] = WorkQueue()
        self._lease = Lease(api, options.lease_namespace, options.identity) if options.leader_election else None
        may_write = (lambda lease=self._lease: lease.is_held) if self._lease else (lambda: True)
        self._cluster = Cluster(api, self._cache, metrics, instance=options.identity, may_write=may_write)
        self._events = handlers.Events(self._cache, self._queue, self._cluster.forget)
        settings = Settings(trainer_image=options.trainer_image)
        self._controller = Controller(self._cluster, self._queue, api.reach, decide, settings, metrics)
        self._state = "starting"
        self._drained = asyncio.Event()
        metrics.read_from(
            jobs=self._cache.jobs, queue_depth=lambda: len(self._queue), is_working=lambda: self._state == WORKING
        )

    async def run(self, stopping: asyncio.Event) -> int:
        """Until `stopping` is set, or until it cannot go on."""
        with_probes = health.serving(
            self._options.health_port,
            is_ready=lambda: self._state in (STANDING_BY, WORKING),
            state=lambda: f"{self._state}; API server: {self._api.reach}",
            metrics=self._metrics.text,
        )
        async with with_probes:
            work = asyncio.create_task(self._work())
            told = asyncio.create_task(stopping.wait())
            await asyncio.wait({work, told}, return_when=asyncio.FIRST_COMPLETED)
            told.cancel()
            if work.done():
                return _exit_code(work)
            _log.info("told to end")
            await self._drain(work)
            work.cancel()
            await asyncio.wait({work})
            if self._lease is not None:
                await self._lease.release()
            return 0

    async def _work(self) -> None:
        """Waits for the Lease and for the first lists, then works."""
        async with asyncio.TaskGroup() as group:
            group.create_task(_pulse(self._api))
            if self._lease is not None:
                self._state = STANDING_BY
                await self._lease.acquire()
                group.create_task(self._lease.keep())
            self._state = "listing"
            stores = self._cache.children.items()
            events = self._events
            watches = [Watch(self._api, kind, store, events.of_child, events.is_missed) for kind, store in stores]
            for watch in watches:
                group.create_task(watch.run())
            await asyncio.gather(*(watch.listed.wait() for watch in watches))
            group.create_task(handlers.feed(self._events, self._api))
            group.create_task(self._events.prune(self._api))
            self._state = WORKING
            _log.info("working: %d workers, trainer image %s", self._options.workers, self._options.trainer_image)
            await self._controller.run(self._options.workers)
            self._drained.set()

    async def _drain(self, work: asyncio.Task[None]) -> None:
        """Lets passes that are under way end, unless the work ends before them: the Lease may be lost meanwhile."""
        if self._state == WORKING:
            self._state = "ending"
            self._controller.stop()
            drained = asyncio.create_task(self._drained.wait())
            await asyncio.wait({work, drained}, return_when=asyncio.FIRST_COMPLETED)
            drained.cancel()


def _exit_code(work: asyncio.Task[None]) -> int:
    """Says why the work ended, which it should not."""
    error = work.exception()
    lost = error.subgroup(LeaseLostError) if isinstance(error, BaseExceptionGroup) else None
    if lost is not None:
        _log.error("%s; this process ends", lost.exceptions[0])
        return EXIT_LEASE_LOST
    _log.error("this process ends: %r", error, exc_info=error)
    return EXIT_FAILED


async def _pulse(api: Api) -> None:
    """Asks for something small where nothing else was asked, so that silence means an outage."""
    while True:
        await asyncio.sleep(_PULSE_SECONDS)
        if api.reach.silent_seconds > _PULSE_SECONDS:
            with contextlib.suppress(ApiError):
                await api.get("/version")


def _own_namespace() -> str:
    try:
        return _NAMESPACE_FILE.read_text().strip()
    except OSError:
        return os.environ.get("POD_NAMESPACE", "default")


if __name__ == "__main__":
    main()
