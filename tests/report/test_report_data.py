"""`report.json`: what is published is enough to make the page again."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from kubooth_trainer.errors import ConfigError
from kubooth_trainer.report import ReportData, render_report
from kubooth_trainer.report_data import report_from_json, report_to_json

MakeData = Callable[..., ReportData]


def test_the_page_made_again_is_the_same_page(data: MakeData) -> None:
    given = data(photos=[], warnings=["one <thing>"])  # small pictures alone: these are kept exactly
    again = report_from_json(report_to_json(given), where="report.json")
    assert render_report(again) == render_report(given)


def test_large_pictures_are_kept_as_large_as_the_page_has_them(data: MakeData) -> None:
    again = report_from_json(report_to_json(data()), where="report.json")
    assert [(name, image.size) for name, image in again.photos][:1] == [("00.jpg", (448, 448))]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"{", "out/report.json: is no report"),
        (b"{}", "config: Field required"),
    ],
)
def test_what_is_no_report_is_refused(content: bytes, words: str) -> None:
    with pytest.raises(ConfigError) as refused:
        report_from_json(content, where="out/report.json")
    assert words in str(refused.value)
