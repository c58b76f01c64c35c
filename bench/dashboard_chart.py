"""Panels of a dashboard as SVG, about as Grafana draws them: numbers, and lines over time. Pure; for the picture."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from html import escape
from typing import Any

COLOURS = ("#5794f2", "#73bf69", "#ff9830", "#f2495c", "#b877d9", "#37872d", "#1f60c4", "#e0b400", "#8f3bb8", "#3f8f8f")
NAMED = {"green": "#37872d", "red": "#d0021b", "orange": "#e07b00", "text": "#24292e", "transparent": "none"}
_LEFT, _TOP, _BOTTOM = 52, 8, 20
_GAP_SECONDS = 25  # two points that are further apart are not joined
_TIMES = ((1, "s"), (60, "min"), (3600, "h"), (86_400, "d"))
_BYTES = ((1, "B"), (2**10, "KiB"), (2**20, "MiB"), (2**30, "GiB"))
_SUFFIX = {"reqps": "/s", "ops": "/s"}


@dataclass(frozen=True)
class Line:
    """What a query answers, under its name in the legend."""

    name: str
    colour: str
    points: Sequence[tuple[float, float]]


def number(panel: dict[str, Any], value: float) -> tuple[str, str]:
    """A stat panel's text and colour."""
    defaults = panel["fieldConfig"]["defaults"]
    steps = defaults["thresholds"]["steps"]
    reached = [step for step in steps if step["value"] is None or value >= step["value"]]
    return text_of(value, defaults["unit"], defaults.get("decimals")), NAMED[reached[-1]["color"]]


def chart(panel: dict[str, Any], lines: Sequence[Line], *, start: float, end: float, size: tuple[int, int]) -> str:
    """A time series panel without its title and legend."""
    defaults = panel["fieldConfig"]["defaults"]
    custom, (width, height) = defaults["custom"], size
    is_stacked = custom["stacking"]["mode"] == "normal"
    layers = (
        _stacked(lines) if is_stacked else [(line, [(at, 0.0, value) for at, value in line.points]) for line in lines]
    )
    highest = max((high for _, points in layers for _, _, high in points), default=1) or 1
    top = defaults.get("max") or _nice(highest, _scale(highest, defaults["unit"])[0])

    def x(at: float) -> float:
        return _LEFT + (at - start) / (end - start) * (width - _LEFT - 6)

    def y(value: float) -> float:
        return height - _BOTTOM - min(value / top, 1) * (height - _TOP - _BOTTOM)

    parts = [*_axes(defaults, top, start, end, x, y, width)]
    for threshold in defaults.get("thresholds", {}).get("steps", ()):
        if threshold["value"] is not None and threshold["value"] <= top:
            at = y(threshold["value"])
            parts.append(
                f'<path d="M{_LEFT} {at:.1f}H{width}" stroke="{NAMED[threshold["color"]]}" stroke-dasharray="4"/>'
            )
    for line, points in layers:
        for run in _runs(points, _GAP_SECONDS):
            upper = _path([(x(at), y(high)) for at, _, high in run], steps="lineInterpolation" in custom)
            if is_stacked:
                lower = _path([(x(at), y(low)) for at, low, _ in run], steps="lineInterpolation" in custom, back=True)
                parts.append(f'<path d="M{upper}L{lower}Z" fill="{line.colour}" fill-opacity=".3"/>')
            dot = f'<circle cx="{x(run[0][0]):.1f}" cy="{y(run[0][2]):.1f}" r="1.5" fill="{line.colour}"/>'
            parts.append(
                dot if len(run) == 1 else f'<path d="M{upper}" fill="none" stroke="{line.colour}" stroke-width="1.3"/>'
            )
    return f'<svg width="{width}" height="{height}">{"".join(parts)}</svg>'


def text_of(value: float, unit: str, decimals: int | None = None) -> str:
    """A value with its unit, as short as Grafana writes it."""
    if unit == "percentunit":
        return f"{100 * value:.0f}%"
    if unit == "s" and 0 < value < 1:
        return f"{_plain(1000 * value)} ms"
    if unit in ("s", "bytes"):
        factor, name = _scale(value, unit)
        return f"{_plain(value / factor)} {name}"
    return (f"{value:.{decimals}f}" if decimals is not None else _plain(value)) + _SUFFIX.get(unit, "")


def _axes(defaults: dict[str, Any], top: float, start: float, end: float, x: Any, y: Any, width: int) -> list[str]:
    parts = []
    for step in range(5):
        value = top * step / 4
        if defaults.get("decimals") == 0 and value != int(value):
            continue
        label = escape(text_of(value, defaults["unit"]))
        parts.append(f'<path d="M{_LEFT} {y(value):.1f}H{width}" stroke="#e8e8ea"/>')
        parts.append(f'<text x="{_LEFT - 5}" y="{y(value) + 3:.1f}" text-anchor="end">{label}</text>')
    for at in range(int(start // 120 + 1) * 120, int(end) + 1, 120):
        clock = datetime.fromtimestamp(at, UTC).strftime("%H:%M")
        parts.append(f'<path d="M{x(at):.1f} {y(0):.1f}V{_TOP}" stroke="#f0f0f2"/>')
        parts.append(f'<text x="{x(at):.1f}" y="{y(0) + 14:.1f}" text-anchor="middle">{clock}</text>')
    return parts


def _stacked(lines: Sequence[Line]) -> list[tuple[Line, list[tuple[float, float, float]]]]:
    """Each line on top of those before it: (time, from, to)."""
    reached: dict[float, float] = {}
    layers = []
    for line in lines:
        points = []
        for at, value in line.points:
            low = reached.get(at, 0.0)
            reached[at] = low + value
            points.append((at, low, low + value))
        layers.append((line, points))
    return layers


def _runs(points: Sequence[tuple[float, float, float]], gap: float) -> list[list[tuple[float, float, float]]]:
    """Parted where nothing was known for a while."""
    runs: list[list[tuple[float, float, float]]] = []
    for point in points:
        if runs and point[0] - runs[-1][-1][0] <= gap:
            runs[-1].append(point)
        else:
            runs.append([point])
    return runs


def _path(points: Sequence[tuple[float, float]], *, steps: bool, back: bool = False) -> str:
    """The same line from its first point to its last, or back."""
    if back:
        told = [f"{points[-1][0]:.1f} {points[-1][1]:.1f}"]
        told += [
            f"V{down:.1f}H{across:.1f}" if steps else f"L{across:.1f} {down:.1f}" for across, down in points[-2::-1]
        ]
        return "".join(told)
    told = [f"{points[0][0]:.1f} {points[0][1]:.1f}"]
    told += [f"H{across:.1f}V{down:.1f}" if steps else f"L{across:.1f} {down:.1f}" for across, down in points[1:]]
    return "".join(told)


def _scale(value: float, unit: str) -> tuple[int, str]:
    """The largest unit that the value has one of."""
    scales = {"s": _TIMES, "bytes": _BYTES}.get(unit, ((1, ""),))
    return [scale for scale in scales if value >= scale[0] or scale[0] == 1][-1]


def _nice(value: float, factor: int) -> float:
    """The next of 1, 2, 4, 6, 8 times a power of ten, in units of the factor."""
    power = factor * 10.0 ** math.floor(math.log10(value / factor))
    return next(step * power for step in (1, 2, 4, 6, 8, 10) if step * power >= value * 0.999)


def _plain(value: float) -> str:
    return f"{value:.3g}" if abs(value) < 1000 else f"{value:.0f}"
