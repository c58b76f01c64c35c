"""Results side by side: figures, what differs, equal prompts in a row; nothing from elsewhere, no markup of users."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from report.test_report import Page

from kubooth_trainer.config import TrainConfig
from kubooth_trainer.metrics import Estimate
from kubooth_trainer.quality import Figure, Quality
from kubooth_trainer.report import ReportData
from kubooth_trainer.report_compare import Column, differing_settings, render_comparison

MakeConfig = Callable[..., TrainConfig]
MakeData = Callable[..., ReportData]
NOW = datetime(2026, 3, 5, 14, 30, tzinfo=UTC)


def quality(value: float) -> Quality:
    after = Estimate(value=value, low=value - 0.04, high=value + 0.04, count=16)
    before = Estimate(value=0.2, count=16)
    return Quality(figures=(Figure(name="Dino", before=before, after=after, change=after, prompts=()),))


def columns(config: MakeConfig, data: MakeData) -> list[Column]:
    reports: dict[str, Any] = {
        "rex": data(quality=quality(0.7)),
        "rex <b>long</b>": data(quality=quality(0.5), config=config(training={"steps": 1200}, workdir="/elsewhere")),
    }
    return [
        Column(name=name, uri=f"s3://models/{number}/", report=r) for number, (name, r) in enumerate(reports.items())
    ]


def test_settings_that_differ_and_no_places(config: MakeConfig, data: MakeData) -> None:
    assert differing_settings(columns(config, data)) == [("training.steps", ["800", "1200"])]


def test_the_page_has_figures_settings_and_pictures(config: MakeConfig, data: MakeData) -> None:
    html = render_comparison(columns(config, data), title="Two", created=NOW)
    for words in ("0.70 (0.66 to 0.74)", "0.50 (0.46 to 0.54)", "before 0.20", "training.steps", "1200", "in the snow"):
        assert words in Page(html).words
    assert html.count("<img") == 16  # two prompts, four pictures each, of both results
    assert "<b>" not in html and "<script" not in html and "http" not in html.replace("http-equiv", "")


def test_what_was_not_measured_is_said(data: MakeData) -> None:
    only = Column(name="rex", uri="file:///out", report=replace(data(), comparisons=[]))
    html = render_comparison([only], title="One", created=NOW)
    assert "Nothing was measured" in html and "All settings are equal." in html
