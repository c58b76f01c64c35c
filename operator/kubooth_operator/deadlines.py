"""When time runs out for an attempt, and how long to wait before the next. Pure; for `attempts`, `verdict`, `ending`.

Times are aware datetimes, durations seconds. The clock of a deadline starts from what the operator wrote into the
status, so a restart of the operator changes nothing.
"""

from __future__ import annotations

import hashlib
from datetime import datetime, timedelta

BACKOFF_SECONDS = (0, 10, 20, 40, 80, 160, 300)
PROGRESS_SLACK_SECONDS = 30  # the ranks' own watchdog comes first: it leaves the stacks of all ranks
FORCE_SLACK_SECONDS = 10  # for a kubelet that is slow to say that a pod has ended
JUDGE_SECONDS = 10  # how long the first failed pod waits for its neighbours' last words
ORPHAN_SECONDS = 60  # for the cluster to delete the pods of a batch Job that is gone
EXPLAIN_SECONDS = 60  # a pod that cannot start for this long shows why
MISSING_SECONDS = 10  # a pod that is not created for this long shows why


def backoff_seconds(restart: int) -> int:
    """The pause before counted restart 1, 2, ..., or after so many disruptions without headway: none the first time."""
    return BACKOFF_SECONDS[min(restart, len(BACKOFF_SECONDS)) - 1] if restart > 0 else 0


def spread_seconds(key: str, seconds: float) -> float:
    """A share of `seconds` that is always the same for a key: so that jobs which hold half of the nodes each, and give
    them up together, do not come back together."""
    digest = hashlib.sha256(key.encode()).digest()
    return seconds * int.from_bytes(digest[:4], "big") / 2**32


def startup_deadline(start: datetime, seconds: int) -> datetime:
    """By when all pods of an attempt must be ready."""
    return start + timedelta(seconds=seconds)


def progress_deadline(
    *, ready: datetime, heartbeat: datetime | None, unheard_until: datetime, seconds: int
) -> datetime:
    """By when the trainer must report progress; until `unheard_until` no report would have been taken."""
    last = max(ready, unheard_until, heartbeat or ready)
    return last + timedelta(seconds=seconds + PROGRESS_SLACK_SECONDS)


def active_deadline(start: datetime, seconds: int, *, active_seconds: float) -> datetime:
    """When the job has run for as long as it may; `active_seconds` were used by earlier attempts."""
    return start + timedelta(seconds=seconds - active_seconds)


def force_time(gone_by: datetime) -> datetime:
    """When a pod that should have gone is taken for lost with its node."""
    return gone_by + timedelta(seconds=FORCE_SLACK_SECONDS)
