"""Waiting for something to become so, with an end."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

from bed.apiclient import UnavailableError

T = TypeVar("T")


def eventually(
    look: Callable[[], T], what: str = "", *, seconds: float = 120, tell: Callable[[], object] = lambda: ""
) -> T:
    """What `look` returns once that is true; fails after `seconds`.

    They are no expectation: after an outage of the API server, controllers see nothing for about as long again.
    An API server that does not answer `look` is asked again.

    It looks 20 times a second at first and more and more seldom, 4 times a second after 20 seconds: what takes long
    is slowed down by who asks.
    """
    start = time.monotonic()
    while not (found := _answer(look)):
        waited = time.monotonic() - start
        if waited > seconds:
            raise AssertionError(f"not within {seconds} s: {what}\n{tell()}")
        time.sleep(min(0.05 + waited / 100, 0.25))
    return found


def _answer(look: Callable[[], T]) -> T | None:
    try:
        return look()
    except UnavailableError:
        return None
