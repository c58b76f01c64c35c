"""The page that puts results side by side: figures, what differs in their settings, and pictures of equal prompts.

Called by `kubooth compare` and `kubooth sweep`; one file, no scripts, like the report whose looks it shares. Pure.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from PIL import Image

from kubooth_trainer.quality import TITLES, Figure
from kubooth_trainer.report import ReportData, environment, flat_settings
from kubooth_trainer.report_picture import Picture, inline
from kubooth_trainer.report_quality import shown

PLACES = {"workdir", "output.uri", "checkpoints.uri", "prior.cache", "job.attempt"}  # where things lie decides nothing
MOST_PIXELS = 256
MANY_PICTURES = 300  # above this fewer of each prompt are shown, so that the page can be opened
FEW = 2


@dataclass(frozen=True, kw_only=True)
class Column:
    """One result: what it is called here, where it lies, and what its report tells."""

    name: str
    uri: str
    report: ReportData


def differing_settings(columns: Sequence[Column]) -> list[tuple[str, list[str]]]:
    """(field, its value in each result) of the settings that are not equal everywhere."""
    each = [dict(flat_settings(column.report.config)) for column in columns]
    fields = dict.fromkeys(field for values in each for field in values if field not in PLACES)
    rows = [(field, [values.get(field, "not set") for values in each]) for field in fields]
    return [(field, values) for field, values in rows if len(set(values)) > 1]


def render_comparison(columns: Sequence[Column], *, title: str, created: datetime) -> str:
    """The page as HTML. The same results give the same page."""
    return (
        environment()
        .get_template("compare.html")
        .render(
            title=title,
            created=created,
            names=[column.name for column in columns],
            uris=[column.uri for column in columns],
            figures=_figures(columns),
            notes=sorted({f"{c.name}: {sentence}" for c in columns for sentence in c.report.quality.absent}),
            settings=differing_settings(columns),
            prompts=_prompts(columns),
        )
    )


def _figures(columns: Sequence[Column]) -> list[dict[str, Any]]:
    """Rows of the table: each figure before and after, in every result that has it."""
    names = dict.fromkeys(figure.name for column in columns for figure in column.report.quality.figures)

    def told(figure: Figure | None) -> tuple[str, str]:
        return (shown(figure.before), shown(figure.after)) if figure else ("not measured", "not measured")

    cells = {name: [told(column.report.quality.figure(name)) for column in columns] for name in names}
    return [{"title": TITLES[name], "cells": cells[name]} for name in names]


def _prompts(columns: Sequence[Column]) -> list[dict[str, Any]]:
    """Every prompt with the pictures of each result after training."""
    total = sum(len(comparison.after) for column in columns for comparison in column.report.comparisons)
    most = FEW if total > MANY_PICTURES else None
    rows: dict[str, list[tuple[str, list[Picture]]]] = {}
    for column in columns:
        for template, comparison in zip(
            column.report.config.evaluation.prompts, column.report.comparisons, strict=False
        ):
            alt = f"{column.name}: {comparison.prompt}"
            rows.setdefault(template, []).append((column.name, _pictures(comparison.after[:most], alt)))
    return [{"prompt": template, "results": results} for template, results in rows.items()]


def _pictures(images: Sequence[Image.Image], alt: str) -> list[Picture]:
    return [inline(image, alt=f"{alt}, picture {number}", most=MOST_PIXELS) for number, image in enumerate(images, 1)]
