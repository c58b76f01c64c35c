"""Claims of other jobs on batches of class images: how long they bind, by the clock of who waits for them.

Kept by `prior_cache` from one look into the cache to the next. No I/O: clocks of several machines are never compared.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Lease:
    """How long claims bind others.

    A claim that was not renewed for `seconds`, by the clock of who waits for it, is its dead owner's; one that was
    renewed all the time but led to nothing within `hold_seconds` is a stuck owner's. Either may be taken over.
    """

    seconds: float = 20
    hold_seconds: float = 900
    poll_seconds: float = 1


@dataclass
class _Claim:
    """A claim of another job, as it was last seen."""

    version: str
    renewed: float  # monotonic seconds
    first: float


class OthersClaims:
    """What is known of them."""

    def __init__(self, lease: Lease, clock: Callable[[], float] = time.monotonic) -> None:
        self._lease = lease
        self._clock = clock
        self._claims: dict[int, _Claim] = {}

    def see(self, versions: Mapping[int, str]) -> None:
        """All claims that are there now: batch to version, which every renewal changes."""
        now = self._clock()
        self._claims = {batch: self._seen(batch, version, now) for batch, version in versions.items()}

    def binds(self, batch: int) -> bool:
        """Whether somebody else is at this batch."""
        claim = self._claims.get(batch)
        if claim is None:
            return False
        now = self._clock()
        return now - claim.renewed <= self._lease.seconds and now - claim.first <= self._lease.hold_seconds

    def version(self, batch: int) -> str | None:
        """Of the claim that a takeover replaces; None where there is none."""
        claim = self._claims.get(batch)
        return claim.version if claim else None

    def forget(self, batch: int) -> None:
        """The claim was taken over."""
        self._claims.pop(batch, None)

    def _seen(self, batch: int, version: str, now: float) -> _Claim:
        known = self._claims.get(batch)
        if known is None:
            return _Claim(version, now, now)
        return known if known.version == version else _Claim(version, now, known.first)
