"""One operator writes: the one that holds the Lease. The other waits, ready to take over.

The official client's leader election is not used: it ends at the first refused connection, writes local time as UTC and
never gives the Lease back (docs/decisions/0006). Times are measured on this machine's monotonic clock only; a Lease
counts as abandoned when this process has seen it unchanged for its whole duration.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from datetime import UTC, datetime
from typing import Any, Final

from kubooth_operator.client import AlreadyExistsError, Api, ApiError, ConflictError, NotFoundError
from kubooth_operator.kinds import LEASE

Manifest = dict[str, Any]
NAME: Final = "kubooth-operator"
DURATION_SECONDS: Final = 15
RENEW_SECONDS: Final = 2.0
MARGIN_SECONDS: Final = 5.0
"""So long before the Lease runs out, its holder stops writing: what is under way has ended when another begins."""

_log = logging.getLogger(__name__)


class LeaseLostError(Exception):
    """Another process holds the Lease."""


class Lease:
    """The Lease, as the process called `identity` sees it."""

    def __init__(self, api: Api, namespace: str, identity: str) -> None:
        self._api = api
        self._namespace = namespace
        self._identity = identity
        self._lease: Manifest | None = None
        self._seen = 0.0  # when `_lease` was first seen as it is
        self._renewed = float("-inf")

    @property
    def is_held(self) -> bool:
        """Whether this process may write now."""
        return time.monotonic() - self._renewed < DURATION_SECONDS - MARGIN_SECONDS

    async def acquire(self) -> None:
        """Waits until the Lease is this process's."""
        waiting_for = None
        while not await self._try():
            if self._holder and self._holder != waiting_for:
                waiting_for = self._holder
                _log.info("standing by: %s holds the lease", waiting_for)
            await asyncio.sleep(RENEW_SECONDS * random.uniform(0.8, 1.2))
        _log.info("this process holds the lease")

    async def keep(self) -> None:
        """Renews the Lease. Raises `LeaseLostError` when another has it; an API server that does not answer takes
        nothing away (nobody else can reach it either), but `is_held` turns false until it does."""
        while True:
            await asyncio.sleep(RENEW_SECONDS)
            if not await self._try() and self._holder not in ("", self._identity):
                raise LeaseLostError(f"{self._holder} holds the lease")

    async def release(self) -> None:
        """Gives it back, so that the other one need not wait."""
        if self._holder != self._identity:
            return
        self._renewed = float("-inf")
        try:
            try:
                await self._write("", 1)
            except ConflictError:  # a renewal that was cut short has come to the server
                await self._look()
                if self._holder == self._identity:
                    await self._write("", 1)
        except ApiError as error:
            _log.info("the lease was not given back: %s", error)

    @property
    def _holder(self) -> str:
        return str((self._lease or {}).get("spec", {}).get("holderIdentity") or "")

    async def _try(self) -> bool:
        """Takes or renews the Lease, if it is free, abandoned, or this process's."""
        started = time.monotonic()
        try:
            if self._holder != self._identity:
                self._see(await self._api.get(LEASE.path(self._namespace, NAME)))
            if self._holder not in ("", self._identity) and not self._is_abandoned():
                return False
            await self._write(self._identity, DURATION_SECONDS)
        except NotFoundError:
            self._lease = None
            return await self._create(started)
        except (ConflictError, AlreadyExistsError):
            await self._look()
            return False
        except ApiError as error:
            _log.debug("lease: %s", error)
            return False
        self._has_renewed(started)
        return True

    async def _create(self, started: float) -> bool:
        try:
            await self._write(self._identity, DURATION_SECONDS)
        except ApiError as error:
            _log.debug("lease: %s", error)
            return False
        self._has_renewed(started)
        return True

    def _has_renewed(self, started: float) -> None:
        self._api.reach.took_a_write()
        self._renewed = started

    async def _look(self) -> None:
        try:
            self._see(await self._api.get(LEASE.path(self._namespace, NAME)))
        except ApiError as error:
            _log.debug("lease: %s", error)

    def _see(self, lease: Manifest) -> None:
        old = (self._lease or {}).get("metadata", {}).get("resourceVersion")
        if lease["metadata"]["resourceVersion"] != old:
            self._seen = time.monotonic()
        self._lease = lease

    def _is_abandoned(self) -> bool:
        assert self._lease is not None
        seconds = float(self._lease["spec"].get("leaseDurationSeconds") or DURATION_SECONDS)
        return time.monotonic() - self._seen > seconds

    async def _write(self, holder: str, seconds: int) -> None:
        now = datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
        old = (self._lease or {}).get("spec", {})
        is_new = old.get("holderIdentity") != holder
        spec = {
            "holderIdentity": holder,
            "leaseDurationSeconds": seconds,
            "renewTime": now,
            "acquireTime": now if is_new else old.get("acquireTime", now),
            "leaseTransitions": int(old.get("leaseTransitions") or 0) + (1 if is_new and holder else 0),
        }
        if self._lease is None:
            metadata = {"name": NAME, "namespace": self._namespace}
            body = {"apiVersion": LEASE.api_version, "kind": LEASE.kind, "metadata": metadata, "spec": spec}
            self._see(await self._api.post(LEASE.path(self._namespace), body))
        else:
            self._see(await self._api.put(LEASE.path(self._namespace, NAME), {**self._lease, "spec": spec}))
