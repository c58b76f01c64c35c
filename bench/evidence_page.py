"""The page of `evidence.py`: a record as Markdown, and a sheet of pictures."""

from __future__ import annotations

from pathlib import Path
from string import Template
from typing import Any

from PIL import Image, ImageDraw

from kubooth_cli.side_by_side import published
from kubooth_trainer.report import ReportData

TEMPLATE = Path(__file__).with_name("evidence_template.md")
FEW = "\n**This is a trial:** fewer than three pairs have no interval, so nothing below is settled.\n"
CELL = 96  # pixels
LABEL = 112
FIGURES = ("Dino", "ClipI", "ClipT", "Pres", "Div", "ClassDiv")
BETTER = {
    "Dino": "higher",
    "ClipI": "higher",
    "ClipT": "higher",
    "Pres": "lower",
    "Div": "higher",
    "ClassDiv": "higher",
}
SHEET = "images/evidence.png"
SHOWN_SUBJECTS = 3


def write_page(record: dict[str, Any], work: Path, document: Path) -> None:
    """Writes `document`, and its sheet beside it."""
    results = record["results"]
    sheet(work, results, document.parent / SHEET)
    runs = len(results["subjects"]) * results["seeds"]
    words = f"{count(len(results['subjects']), 'subject')}, {count(results['seeds'], 'seed')} each"
    text = Template(TEMPLATE.read_text()).substitute(
        command=record["command"],
        words=words,
        subjects=", ".join(results["subjects"]),
        few="" if runs >= 3 else FEW,
        names=" | ".join(f"{name}, {BETTER[name]} is better" for name in FIGURES),
        rule="---|" * (len(FIGURES) + 1),
        table="\n".join(row(variant, figures) for variant, figures in results["table"].items()),
        signs="\n".join(verdict(sign) for sign in results["signs"]),
        shown=count(min(SHOWN_SUBJECTS, len(results["subjects"])), "subject"),
        sheet=SHEET,
    )
    document.write_text(text)


def count(number: int, noun: str) -> str:
    return f"{number} {noun}" + ("s" if number > 1 else "")


def row(variant: str, figures: dict[str, dict[str, float | None]]) -> str:
    return f"| {variant} | " + " | ".join(shown(figures.get(name)) for name in FIGURES) + " |"


def shown(estimate: dict[str, float | None] | None) -> str:
    if estimate is None or estimate["mean"] is None:
        return "-"
    if estimate["low"] is None:
        return f"{estimate['mean']:.2f}"
    return f"{estimate['mean']:.2f} ({estimate['low']:.2f} to {estimate['high']:.2f})"


def verdict(sign: dict[str, Any]) -> str:
    pair = f"{sign['variant']} against {sign['than']}"
    return (
        f"| {sign['claim']} ({pair}) | {sign['figure']} | {sign['expected']} | {sign['paper']} "
        f"| {shown(sign['difference'])} | {sign['verdict']} |"
    )


def sheet(work: Path, results: dict[str, Any], path: Path) -> None:
    """Draws the pictures of the first seed."""
    rows: list[tuple[str, list[Image.Image]]] = []
    for number in range(min(SHOWN_SUBJECTS, len(results["subjects"]))):
        folder = work / f"subject-{number}" / "results"
        for variant in results["table"]:
            name = "dreambooth" if variant == "base" else variant
            report = published(str(folder / f"{name}-seed-0")).report
            rows.append((variant, pictures(report, before=variant == "base")))
    width = LABEL + CELL * max(len(images) for _, images in rows)
    page = Image.new("RGB", (width, CELL * len(rows)), "white")
    draw = ImageDraw.Draw(page)
    for line, (name, images) in enumerate(rows):
        draw.text((4, line * CELL + CELL // 2), name, fill="black")
        for column, image in enumerate(images):
            page.paste(image.resize((CELL, CELL)), (LABEL + column * CELL, line * CELL))
    path.parent.mkdir(parents=True, exist_ok=True)
    page.quantize(256).save(path, optimize=True)  # a third of the size, and no difference to the eye


def pictures(report: ReportData, *, before: bool) -> list[Image.Image]:
    """A photo, then the first picture of each prompt."""
    return [report.photos[0][1], *((each.before if before else each.after)[0] for each in report.comparisons)]
