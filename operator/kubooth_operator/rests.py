"""Rests between two streams of the API server that end at once: each longer than the one before. For who follows one:
`watch`, and the command line.
"""

from __future__ import annotations

import asyncio
import random

FIRST_REST_SECONDS, LONGEST_REST_SECONDS = 0.1, 5.0
SHORT_SECONDS = 1.0  # a stream that ends sooner, and brought nothing, is no stream: a proxy may cut it off


async def take_rest(seconds: float) -> float:
    """Waits that long, or somewhat less; returns how long to wait the next time."""
    await asyncio.sleep(seconds * random.uniform(0.5, 1.0))
    return min(2 * seconds, LONGEST_REST_SECONDS)
