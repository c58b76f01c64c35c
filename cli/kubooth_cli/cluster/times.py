"""Times of the API: RFC 3339 to seconds, and how long ago that was."""

from __future__ import annotations

import time
from datetime import datetime

from kubooth_cli import format as fmt


def unix(text: str | None) -> float | None:
    """Unix seconds of `2026-11-01T12:00:00Z`; None of nothing."""
    return None if not text else datetime.fromisoformat(text).timestamp()


def age(text: str | None, now: float | None = None) -> str:
    """`3m10s` since then."""
    then = unix(text)
    return "" if then is None else fmt.duration((time.time() if now is None else now) - then)
