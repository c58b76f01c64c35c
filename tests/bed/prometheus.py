"""Prometheus over recorded series, and the queries of the chart's dashboard as Grafana would ask them.

    recorded = prometheus(RECORDED, folder)
    recorded.over_time([query.expression(recorded.seconds) for panel in panels() for query in panel.queries], step=10)

The series are what `bench/record_metrics.py` has written: OpenMetrics' text, compressed. promtool makes blocks of them,
and Prometheus' own engine answers from these (promtool/promquery; the server would be far more to build).
Used by tests/chart and by `bench/dashboard_picture.py`.
"""

from __future__ import annotations

import hashlib
import json
import lzma
import re
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bed import gobuild

ROOT = Path(__file__).resolve().parents[2]
RECORDED = ROOT / "tests" / "chart" / "recorded" / "operator.om.xz"
DASHBOARD = ROOT / "charts" / "kubooth" / "files" / "monitoring" / "dashboard.json"
PICTURE = ROOT / "docs" / "images" / "dashboard.png"
RATE_INTERVAL = "1m"  # Grafana's for series that are scraped every 15 seconds or more often

LOOKBACK_SECONDS = 15  # a little more than between two scrapes of the recording

Points = list[tuple[float, float]]


@dataclass(frozen=True)
class Series:
    """One line of an answer."""

    labels: dict[str, str]
    points: Points  # (Unix seconds, value), those that are numbers


@dataclass(frozen=True)
class Query:
    """One of a panel."""

    name: str  # title of the panel, and the query's letter
    text: str
    legend: str  # with {{label}} for what a series has there

    def expression(self, seconds: float, rate_interval: str = RATE_INTERVAL) -> str:
        """With Grafana's variables filled in, for a range of so many seconds."""
        return self.text.replace("$__rate_interval", rate_interval).replace("$__range", f"{seconds:.0f}s")

    def legend_of(self, labels: dict[str, str]) -> str:
        return re.sub(r"\{\{(\w+)\}\}", lambda found: labels.get(found[1], ""), self.legend)


@dataclass(frozen=True)
class Panel:
    """One of the dashboard. A row, which is a heading, asks nothing."""

    raw: dict[str, Any]

    @property
    def title(self) -> str:
        return str(self.raw["title"])

    @property
    def queries(self) -> list[Query]:
        return [
            Query(f"{self.title} {each['refId']}", each["expr"], each["legendFormat"])
            for each in self.raw.get("targets", ())
        ]


def panels() -> list[Panel]:
    """Those of the chart's dashboard, as they lie."""
    return [Panel(raw) for raw in json.loads(DASHBOARD.read_text())["panels"]]


def picture_digest() -> str:
    """What the picture of the dashboard is of: SHA-256 over the dashboard and the recording."""
    return hashlib.sha256(DASHBOARD.read_bytes() + RECORDED.read_bytes()).hexdigest()


@dataclass(frozen=True)
class Prometheus:
    """What was recorded from `start` to `end`, in Unix seconds, as blocks in a folder."""

    data: Path
    start: int
    end: int

    @property
    def seconds(self) -> int:
        return self.end - self.start

    def over_time(self, expressions: Sequence[str], *, step: int) -> list[list[Series]]:
        """The answer to each over all of the recording, every `step` seconds."""
        return self._ask(expressions, self.start, step)

    def at_end(self, expressions: Sequence[str]) -> list[list[Series]]:
        """The answer to each at the end of the recording."""
        return self._ask(expressions, self.end, 1)

    def _ask(self, expressions: Sequence[str], start: int, step: int) -> list[list[Series]]:
        program = gobuild.programs("promquery")["promquery"]
        told = _run(
            program, self.data, start, self.end, step, LOOKBACK_SECONDS, text="\n".join(expressions)
        ).splitlines()
        assert len(told) == len(expressions)
        return [[Series(each["metric"], _numbers(each["values"])) for each in json.loads(line)] for line in told]


def prometheus(recording: Path, folder: Path) -> Prometheus:
    """Loads a recording into `folder`, which is empty."""
    text, data = folder / "recorded.om", folder / "data"
    with lzma.open(recording) as packed, text.open("wb") as plain:
        shutil.copyfileobj(packed, plain)
    _run(gobuild.programs("promtool")["promtool"], "tsdb", "create-blocks-from", "openmetrics", "--quiet", text, data)
    with text.open() as lines:
        times = {int(line.rpartition(" ")[2]) for line in lines if not line.startswith("#")}
    return Prometheus(data, min(times), max(times))


def _numbers(values: list[tuple[float, str]]) -> Points:
    return [(at, float(value)) for at, value in values if value not in ("NaN", "+Inf", "-Inf")]


def _run(*command: str | Path | int, text: str = "") -> str:
    done = subprocess.run([str(part) for part in command], input=text, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout
