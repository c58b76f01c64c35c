"""Waiting for something to become so, with an end."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def eventually(
    look: Callable[[], T], what: str = "", *, seconds: float = 30, tell: Callable[[], object] = lambda: ""
) -> T:
    """What `look` returns once that is true; fails after `seconds`."""
    deadline = time.monotonic() + seconds
    while not (found := look()):
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {seconds} s: {what}\n{tell()}")
        time.sleep(0.05)
    return found
