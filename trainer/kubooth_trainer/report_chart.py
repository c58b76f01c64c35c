"""Numbers as lines: what the report's templates need to draw a chart that reads well at any width.

Pure; called by `report`. A chart is drawn in a square of 1000 x 1000 that the page stretches, so positions are in
thousandths; the labels are text of the page, which stays readable on a phone.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from kubooth_trainer.figures import number
from kubooth_trainer.progress import ProgressEvent

MOST_POINTS = 400
TABLE_ROWS = 10
_CLASSES = ("first", "second")


@dataclass(frozen=True, kw_only=True)
class Tick:
    """A label on an axis. `at` is in percent, from the top or from the left."""

    at: float
    text: str


@dataclass(frozen=True, kw_only=True)
class Line:
    """One series. `raw` and `smooth` are SVG point lists; `style` names its colour and dashes."""

    name: str
    style: str
    raw: str
    smooth: str
    first: str
    last: str


@dataclass(frozen=True, kw_only=True)
class Chart:
    """Everything about a chart; `summary` is its text for those who do not see it."""

    title: str
    summary: str
    lines: tuple[Line, ...]
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def loss_chart(history: Sequence[ProgressEvent]) -> Chart | None:
    """The instance loss and, with prior preservation, the prior loss over the steps; None without two points."""
    events = _in_order(history)
    series = {"Instance loss": [(event.step, event.instance_loss) for event in events]}
    prior = [(event.step, event.prior_loss) for event in events if event.prior_loss is not None]
    if prior:
        series["Prior loss"] = prior
    return _chart("Loss", series)


def learning_rate_chart(history: Sequence[ProgressEvent]) -> Chart | None:
    """The learning rate over the steps; None where it never changed, since one number says that better."""
    rates = [(event.step, event.learning_rate) for event in _in_order(history)]
    if len({rate for _, rate in rates}) < 2:
        return None
    return _chart("Learning rate", {"Learning rate": rates}, smoothed=False)


def _in_order(history: Sequence[ProgressEvent]) -> list[ProgressEvent]:
    """By step; a step that was trained again after a restart counts as it was last."""
    by_step = {event.step: event for event in history}
    return [by_step[step] for step in sorted(by_step)]


def _chart(
    title: str, series: dict[str, list[tuple[int, float]]], *, smoothed: bool = True, digits: int = 3
) -> Chart | None:
    finite = {name: [(x, y) for x, y in points if math.isfinite(y)] for name, points in series.items()}
    finite = {name: points for name, points in finite.items() if len(points) > 1}
    if not finite:
        return None
    smooth = {name: _smooth(points) if smoothed else points for name, points in finite.items()}
    left = min(points[0][0] for points in finite.values())
    right = max(points[-1][0] for points in finite.values())
    top = _upper_bound(list(finite.values()), list(smooth.values()), headroom=1.1 if smoothed else 1.0)
    step = _nice_step(top / 4)
    top = max(step * math.ceil(top / step - 1e-9), step)

    def place(points: list[tuple[int, float]]) -> str:
        kept = points[:: max(1, len(points) // MOST_POINTS)]
        kept = kept if kept[-1] == points[-1] else [*kept, points[-1]]
        return " ".join(f"{1000 * (x - left) / (right - left):.1f},{1000 * (1 - y / top):.1f}" for x, y in kept)

    lines = tuple(
        Line(
            name=name,
            style=_CLASSES[index % len(_CLASSES)],
            raw=place(points) if smoothed else "",
            smooth=place(smooth[name]),
            first=number(smooth[name][0][1], digits),
            last=number(smooth[name][-1][1], digits),
        )
        for index, (name, points) in enumerate(finite.items())
    )
    return Chart(
        title=title,
        summary=f"{title} from step {left:,} to {right:,}: "
        + "; ".join(f"{line.name.lower()} from {line.first} to {line.last}" for line in lines)
        + ".",
        lines=lines,
        x_ticks=_x_ticks(left, right),
        y_ticks=tuple(
            Tick(at=100 * (1 - index * step / top), text=number(index * step)) for index in range(round(top / step) + 1)
        ),
        header=("Step", *finite),
        rows=_rows(finite, digits),
    )


def _smooth(points: list[tuple[int, float]]) -> list[tuple[int, float]]:
    """Exponential mean over about a fifteenth of the points, corrected for its start."""
    keep = 1 - 1 / max(1.0, len(points) / 15)
    mean, weight, smooth = 0.0, 0.0, []
    for x, y in points:
        mean = keep * mean + (1 - keep) * y
        weight = keep * weight + (1 - keep)
        smooth.append((x, mean / weight))
    return smooth


def _upper_bound(
    raw: list[list[tuple[int, float]]], smooth: list[list[tuple[int, float]]], *, headroom: float
) -> float:
    """Shows nearly all raw values; a few outliers may leave the picture, the smoothed lines never do."""
    values = sorted(y for points in raw for _, y in points)
    usual = values[min(len(values) - 1, int(0.98 * len(values)))]
    return max(usual, headroom * max(y for points in smooth for _, y in points), 1e-12)


def _nice_step(wanted: float) -> float:
    magnitude = 10.0 ** math.floor(math.log10(wanted))
    return next(nice * magnitude for nice in (1, 2, 2.5, 5, 10) if nice * magnitude >= wanted * 0.999)


def _x_ticks(left: int, right: int) -> tuple[Tick, ...]:
    step = max(1, round(_nice_step((right - left) / 4)))
    first = -(-left // step) * step
    return tuple(Tick(at=100 * (x - left) / (right - left), text=f"{x:,}") for x in range(first, right + 1, step))


def _rows(series: dict[str, list[tuple[int, float]]], digits: int) -> tuple[tuple[str, ...], ...]:
    """Evenly spaced points as they were measured, for a table under the chart."""
    values = [dict(points) for points in series.values()]
    steps = sorted({x for points in values for x in points})
    count = min(TABLE_ROWS, len(steps))
    chosen = sorted({steps[round(index * (len(steps) - 1) / max(1, count - 1))] for index in range(count)})
    return tuple((f"{x:,}", *(number(points[x], digits) if x in points else "" for points in values)) for x in chosen)
