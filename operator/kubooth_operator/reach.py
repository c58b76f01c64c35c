"""Whether the API server answers and takes writes: `client` and `leader` tell, `attempts` (by its clock), probes and
`main` ask.

No job may be judged to be stalled by a heartbeat that could not arrive.
"""

from __future__ import annotations

import logging
import time
from datetime import UTC, datetime, timedelta
from typing import Final

SILENCE_SECONDS: Final = 10.0
"""With no answer for this long, or no write taken, the API server counts as having been out of reach."""
_SAY_AFTER_SECONDS = 2.0

_log = logging.getLogger(__name__)


class Reach:
    """Whether the API server answers, and since when without a break. Says an outage once.

    Answers to reads are not enough: a full etcd goes on giving them while no heartbeat is taken.
    """

    def __init__(self) -> None:
        self.since = datetime.now(UTC)
        self._last = time.monotonic()
        self._last_write = float("-inf")
        self._out = False

    @property
    def silent_seconds(self) -> float:
        """Since the last answer."""
        return time.monotonic() - self._last

    def answered(self) -> None:
        """To be called at every answer."""
        silent = self.silent_seconds
        self._last = time.monotonic()
        if silent > SILENCE_SECONDS:
            self.since = datetime.now(UTC)
        if self._out:
            self._out = False
            _log.info("the API server answers again after %.0f s", silent)

    def took_a_write(self) -> None:
        """To be called at writes that are repeated steadily: the Lease's, every two seconds."""
        now = time.monotonic()
        if now - self._last_write > SILENCE_SECONDS:
            self.since = datetime.now(UTC)
        self._last_write = now

    def failed(self, error: Exception) -> None:
        """To be called when a request got no answer."""
        if not self._out and self.silent_seconds > _SAY_AFTER_SECONDS:
            self._out = True
            _log.warning("the API server does not answer: %s", error)

    def __str__(self) -> str:
        silence = timedelta(seconds=round(self.silent_seconds))
        return f"last answer {silence} ago, without a break since {self.since.isoformat(timespec='seconds')}"
