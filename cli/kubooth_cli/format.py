"""How numbers read on a terminal: pure functions from values to short texts, used by every presenter."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import unquote, urlsplit

BYTES = "bytes"


def duration(seconds: float) -> str:
    """`45s`, `3m10s`, `1h02m`, `2d03h`: two units at most, never a fraction. Negative counts as zero."""
    whole = max(0, round(seconds))
    if whole < 60:
        return f"{whole}s"
    minutes, rest = divmod(whole, 60)
    if minutes < 60:
        return f"{minutes}m{rest:02d}s"
    hours, minutes = divmod(minutes, 60)
    if hours < 24:
        return f"{hours}h{minutes:02d}m"
    days, hours = divmod(hours, 24)
    return f"{days}d{hours:02d}h"


def share(done: int, total: int, unit: str = "") -> str:
    """`640/800 80%`, of bytes `12.1 MB/25.3 MB 47%`; rounded down: 100% means all. Without a total, the count."""
    if total <= 0:
        return _quantity(done, unit) if done else ""
    return f"{_quantity(done, unit)}/{_quantity(total, unit)} {100 * done // total}%"


def counted(done: int, total: int, unit: str) -> str:
    """`120/200 images`, `5 files` when all are done; `25.3 MB` for bytes."""
    if total <= 0 and not done:
        return ""
    suffix = "" if unit in ("", BYTES) else f" {unit}"
    if total <= 0 or done >= total:
        return _quantity(max(done, total), unit) + suffix
    return f"{_quantity(done, unit)}/{_quantity(total, unit)}{suffix}"


def rate(per_second: float, unit: str) -> str:
    """`11.3 images/s`, `8.4 MB/s`: no decimals from a hundred on, two below ten."""
    if unit == BYTES:
        return f"{size(round(per_second))}/s"
    if per_second >= 100:
        return f"{per_second:.0f} {unit}/s"
    if per_second >= 10:
        return f"{per_second:.1f} {unit}/s"
    return f"{per_second:.2f} {unit}/s"


def loss(value: float) -> str:
    """`loss 0.0812`; very small values in scientific form."""
    return f"loss {value:.4f}" if value == 0 or abs(value) >= 1e-3 else f"loss {value:.1e}"


def size(count: int) -> str:
    """Bytes in decimal units: `812 B`, `25.3 MB`, `4.3 GB`."""
    if count < 1000:
        return f"{count} B"
    value = float(count)
    for unit in ("kB", "MB", "GB"):
        value /= 1000
        if value < 999.95:
            return f"{value:.1f} {unit}"
    return f"{value / 1000:.1f} TB"


def plain_path(uri: str) -> str:
    """The path of a `file:` URI; any other URI as it is."""
    parts = urlsplit(uri)
    if parts.scheme != "file":
        return uri
    return str(Path(unquote(parts.path)))


def fitted(parts: Sequence[str], width: int, gap: str = "  ") -> str:
    """As many leading parts as fit into `width`, joined; the first part is cut if it must be."""
    present = [part for part in parts if part]
    text = ""
    for part in present:
        longer = text + gap + part if text else part
        if len(longer) > width:
            break
        text = longer
    if present and not text:
        return present[0][: max(0, width)]
    return text


def words(key: str) -> str:
    """`zeroStage` as `zero stage`."""
    return re.sub(r"(?<=[a-z])[A-Z]", lambda found: f" {found[0].lower()}", key)


def _quantity(count: int, unit: str) -> str:
    return size(count) if unit == BYTES else str(count)
