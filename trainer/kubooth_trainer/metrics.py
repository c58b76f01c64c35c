"""The figures of the DreamBooth paper (arXiv 2208.12242, section 4.1 and table 3), and how sure they are. Pure.

Called by `measure` with similarities and distances that encoders gave; numpy in double precision. A figure is the
mean over prompts of the mean over a prompt's pictures. Its interval is a percentile bootstrap (95%) that draws each
prompt's pictures anew: it says how much other seeds would change the figure, the photos and prompts being what they
are. What is not defined has no value and says why; a NaN never leaves this file.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

RESAMPLES = 1000
CONFIDENCE = 0.95
LEAST_FOR_PAIRS = 3  # with two pictures every draw has the same one pair, or none


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A figure. `value` None: not defined, for the reason in `note`. `low` and `high` None: no interval, likewise."""

    value: float | None
    low: float | None = None
    high: float | None = None
    count: int = 0  # similarities or distances that it is the mean of
    note: str = ""


def undefined(why: str) -> Estimate:
    return Estimate(value=None, note=why)


def similarities(a: Array, b: Array) -> Array:
    """Cosine of every row of `a` [n, d] with every row of `b` [m, d]: [n, m]. A row of zeros is refused."""
    return _unit(a) @ _unit(b).T


def mean_score(prompts: Sequence[Array], *, pairs_each: int = 1) -> Estimate:
    """Mean over prompts of the mean of per-picture scores [n]. `pairs_each`: similarities that each score averages."""
    kept = [scores for scores in prompts if len(scores)]
    if not kept:
        return undefined("there are no pictures")
    value = float(np.mean([scores.mean() for scores in kept]))
    count = sum(map(len, kept)) * pairs_each
    if min(map(len, kept)) < 2:
        return Estimate(value=value, count=count, note="one picture of a prompt: no interval")
    low, high = _interval([len(scores) for scores in kept], lambda prompt, draws: kept[prompt][draws].mean(axis=1))
    return Estimate(value=value, low=low, high=high, count=count)


def mean_pairwise(prompts: Sequence[Array], *, what: str = "pictures") -> Estimate:
    """Mean over prompts of the mean over pairs of different pictures. Each array [n, n] is symmetric.

    Symmetric arrays may hold distances (DIV), similarities (real against real), or differences of either.
    """
    kept = [matrix for matrix in prompts if len(matrix) > 1]
    if not kept:
        return undefined(f"there are no two {what} to compare")
    value = float(np.mean([matrix[np.triu_indices(len(matrix), 1)].mean() for matrix in kept]))
    count = sum(len(matrix) * (len(matrix) - 1) // 2 for matrix in kept)
    if min(map(len, kept)) < LEAST_FOR_PAIRS:
        return Estimate(value=value, count=count, note=f"fewer than {LEAST_FOR_PAIRS} {what} each: no interval")
    low, high = _interval([len(matrix) for matrix in kept], lambda prompt, draws: _drawn_pairs(kept[prompt], draws))
    return Estimate(value=value, low=low, high=high, count=count)


def _drawn_pairs(matrix: Array, draws: NDArray[np.int64]) -> Array:
    """Mean over the pairs of each draw [r, n] that are of different pictures; NaN where a draw has none."""
    different = draws[:, :, None] != draws[:, None, :]
    total = (matrix[draws[:, :, None], draws[:, None, :]] * different).sum(axis=(1, 2))
    counts = different.sum(axis=(1, 2))
    with np.errstate(invalid="ignore"):
        return np.asarray(total / counts, dtype=np.float64)


def _interval(sizes: Sequence[int], means: Callable[[int, NDArray[np.int64]], Array]) -> tuple[float, float]:
    """Percentile interval of the mean over prompts. `means(prompt, draws [r, n])` gives [r]. Repeatable: seed 0."""
    rng = np.random.default_rng(0)
    drawn = [means(prompt, rng.integers(size, size=(RESAMPLES, size))) for prompt, size in enumerate(sizes)]
    figures = np.mean(drawn, axis=0)
    tail = 50 * (1 - CONFIDENCE)
    low, high = np.percentile(figures[np.isfinite(figures)], [tail, 100 - tail])
    return float(low), float(high)


def _unit(rows: Array) -> Array:
    rows = np.asarray(rows, dtype=np.float64)
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    if not np.isfinite(rows).all() or (lengths == 0).any():
        raise ValueError("an embedding is zero or not a number")
    return np.asarray(rows / lengths, dtype=np.float64)
