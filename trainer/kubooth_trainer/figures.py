"""Numbers and times as people read them, for the report, its charts and the model card. Pure."""

from __future__ import annotations


def duration(seconds: float) -> str:
    """`0.4 s`, `42 s`, `4 min 05 s`, `1 h 03 min`."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600:,} h {whole % 3600 // 60:02d} min"


def number(value: float, digits: int = 4) -> str:
    """At most so many digits that count, and `5e-6` rather than `5e-06`."""
    text = f"{value:.{digits}g}"
    mantissa, _, exponent = text.partition("e")
    return f"{mantissa}e{int(exponent)}" if exponent else text
