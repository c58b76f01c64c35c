"""`report.html`: the one page that a requester opens, with everything in it and nothing from elsewhere.

Called by the Upload stage. This file decides what is said; `templates/report/` how it looks. No scripts, all text
from users escaped. A new section is one template that `page.html` includes and the values it needs here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from PIL import Image

from kubooth_trainer.config import TrainConfig
from kubooth_trainer.figures import duration, number
from kubooth_trainer.progress import ProgressEvent, StageEvent
from kubooth_trainer.quality import Quality
from kubooth_trainer.repeat import camel_case, repeat_job
from kubooth_trainer.report_chart import learning_rate_chart, loss_chart
from kubooth_trainer.report_device import device_shown
from kubooth_trainer.report_picture import EXACT_PIXELS, MOST_PIXELS, Picture, StoredImage, inline
from kubooth_trainer.report_quality import quality_shown
from kubooth_trainer.report_selection import selection_shown
from kubooth_trainer.selection import Selection
from kubooth_trainer.training_facts import TrainingFacts
from kubooth_trainer.wording import diffusers_code, example_prompt, sample_command

MOST_PHOTOS = 12
MOST_CLASS_IMAGES = 12
MANY_PICTURES = 96  # above this, pictures are embedded smaller, so that the page stays below some 5 MB
COLUMNS = 4


@dataclass(frozen=True, kw_only=True)
class PromptComparison:
    """One prompt, filled in, and what the model made of it before and after. Pictures pair up by seed."""

    prompt: str
    before: Sequence[StoredImage]
    after: Sequence[StoredImage]
    is_class_only: bool = False  # without the identifier: shows whether the class survived


@dataclass(frozen=True, kw_only=True)
class ReportData:
    """All that the page tells."""

    config: TrainConfig
    identifier: str
    photos: Sequence[tuple[str, StoredImage]]  # file name, picture
    comparisons: Sequence[PromptComparison]
    quality: Quality
    class_images: Sequence[StoredImage]
    history: Sequence[ProgressEvent]
    stages: Sequence[StageEvent]
    warnings: Sequence[str]
    versions: dict[str, str]
    job_yaml: str | None  # the job as it was submitted; None: one is written from the config
    world_size: int
    precision: str
    zero_stage: int
    seconds: float  # of the whole run
    created: datetime
    training: TrainingFacts | None = None  # None: training had been finished by an earlier start
    selection: Selection | None = None  # None: the last state is the result
    photo_check: Sequence[tuple[str, Sequence[str]]] = ()  # file name, sentences about it; (): not looked at


def render_report(data: ReportData) -> str:
    """The page as HTML. Pure: the same data gives the same page."""
    config = data.config
    subject = f"{data.identifier} {config.subject.class_name}"
    own = [comparison for comparison in data.comparisons if not comparison.is_class_only]
    of_class = [comparison for comparison in data.comparisons if comparison.is_class_only]
    count = sum(len(c.before) + len(c.after) for c in data.comparisons)
    most = 288 if count > MANY_PICTURES else MOST_PIXELS
    photos = [inline(image, alt=f"Photo {name}", most=MOST_PIXELS) for name, image in data.photos[:MOST_PHOTOS]]
    comparisons = [_comparison(each, data.identifier, most) for each in own]
    return (
        environment()
        .get_template("page.html")
        .render(
            subject=subject,
            identifier=data.identifier,
            class_name=config.subject.class_name,
            job=config.job,
            method=config.method,
            created=data.created,
            output_uri=config.output.uri,
            verdict=_verdict(data),
            facts=_facts(data),
            photos=photos,
            photos_left_out=max(0, len(data.photos) - len(photos)),
            photos_checked=bool(data.photo_check),
            photo_remarks=[(name, remarks) for name, remarks in data.photo_check if remarks],
            hero_after=_hero(comparisons),
            comparisons=comparisons,
            quality=quality_shown(data.quality, class_name=config.subject.class_name),
            is_compact=_is_compact(data.comparisons),
            class_comparisons=[_comparison(each, data.identifier, most) for each in of_class],
            class_images=[
                inline(image, alt=f"Class image {index} made by the base model", most=256)
                for index, image in enumerate(data.class_images[:MOST_CLASS_IMAGES], 1)
            ],
            prior=config.prior if config.prior.enabled else None,
            charts=[chart for chart in (loss_chart(data.history), learning_rate_chart(data.history)) if chart],
            learning_rate=number(config.training.learning_rate),
            stages=_stages(data.stages),
            selection=selection_shown(data.selection) if data.selection else None,
            device=device_shown(data.training) if data.training else None,
            warnings=list(data.warnings),
            code=diffusers_code(config, identifier=data.identifier),
            prompt=example_prompt(config, identifier=data.identifier),
            command=sample_command(config),
            job_yaml=data.job_yaml or repeat_job(config, identifier=data.identifier),
            settings=_settings(config),
            versions=sorted(data.versions.items()),
        )
    )


@cache
def environment() -> Environment:
    """The templates of all pages."""
    return Environment(
        loader=PackageLoader("kubooth_trainer", "templates/report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def _verdict(data: ReportData) -> str:
    """What was done, in one sentence. It claims nothing about quality: that is for figures or eyes."""
    training = data.config.training
    photos = f"{len(data.photos)} photo{'s' * (len(data.photos) != 1)}"
    devices = f"{data.world_size} rank{'s' * (data.world_size != 1)}"
    steps = data.selection.step if data.selection else training.steps
    prior = f" and {data.config.prior.images:,} class images" if data.config.prior.enabled else ""
    return f"Learned from {photos}{prior} in {steps:,} steps on {devices}, in {duration(data.seconds)}."


def _facts(data: ReportData) -> list[tuple[str, str]]:
    training = data.config.training
    last = data.history[-1] if data.history else None
    facts = [
        ("Time", duration(data.seconds)),
        ("Steps", f"{data.selection.step:,} of {training.steps:,}" if data.selection else f"{training.steps:,}"),
        ("Photos per step", f"{training.batch_size:,}"),
        ("Ranks", f"{data.world_size:,}"),
        ("Precision", data.precision),
        ("ZeRO stage", str(data.zero_stage)),
        ("Optimizer", training.optimizer),
        ("Text encoder", "trained" if training.train_text_encoder else "frozen"),
    ]
    if last is not None:
        facts.append(("Images per second", number(last.samples_per_second)))
    return facts


def _hero(comparisons: Sequence[dict[str, Any]]) -> list[Picture]:
    """Up to four pictures by the new model: one of each prompt first, then more of the same."""
    rows = [[after for _, after in each["pairs"] if after is not None] for each in comparisons]
    ranked = [row[index] for index in range(COLUMNS) for row in rows if index < len(row)]
    return ranked[:COLUMNS]


def _comparison(comparison: PromptComparison, identifier: str, most: int) -> dict[str, Any]:
    """Pairs of equal seed, in rows of at most four, and the prompt split around the identifier to mark it."""

    def picture(images: Sequence[Image.Image], index: int, side: str) -> Picture | None:
        if index >= len(images):
            return None
        return inline(images[index], alt=f"{side}, picture {index + 1}: {comparison.prompt}", most=most)

    count = max(len(comparison.before), len(comparison.after))
    pairs = [(picture(comparison.before, i, "Before"), picture(comparison.after, i, "After")) for i in range(count)]
    rows = -(-count // COLUMNS)
    wide = -(-count // rows) if rows else 0
    marked = "" if comparison.is_class_only else identifier
    words = [(word, bool(marked) and word.strip(",.!?") == marked) for word in comparison.prompt.split()]
    return {
        "prompt": comparison.prompt,
        "words": words,
        "pairs": pairs,
        "rows": [pairs[start : start + wide] for start in range(0, count, wide)] if wide else [],
        "columns": wide,
    }


def _is_compact(comparisons: Sequence[PromptComparison]) -> bool:
    """Two prompts side by side: where the pictures are small, or there are at most two of each prompt."""
    pictures = [image for each in comparisons for image in (*each.before, *each.after)]
    is_small = all(image.width <= EXACT_PIXELS for image in pictures)
    return is_small or all(max(len(each.before), len(each.after)) <= 2 for each in comparisons)


def _stages(stages: Sequence[StageEvent]) -> list[dict[str, Any]]:
    """Each stage with its time and that time's part of the whole, in percent."""
    seconds = [_seconds(stage) for stage in stages]
    longest, total = max(seconds, default=0.0), sum(seconds)
    return [
        {
            "name": stage.stage,
            "state": stage.state,
            "time": duration(taken) if stage.state != "Skipped" else "",
            "share": f"{100 * taken / total:.0f}%" if total and stage.state != "Skipped" else "",
            "width": round(100 * taken / longest, 1) if longest else 0,
            "work": f"{stage.total:,} {stage.unit}" if stage.unit and stage.unit != "bytes" else "",
            "note": stage.note if stage.state in ("Succeeded", "Running") else f"{stage.state} {stage.note}".strip(),
        }
        for stage, taken in zip(stages, seconds, strict=True)
    ]


def _seconds(stage: StageEvent) -> float:
    return max(0.0, stage.end - stage.start) if stage.start is not None and stage.end is not None else 0.0


def _settings(config: TrainConfig) -> list[tuple[str, list[tuple[str, str]]]]:
    """The whole resolved config in groups: fields under the names that users write, values as text."""
    top: list[tuple[str, str]] = []
    groups: list[tuple[str, list[tuple[str, str]]]] = []
    for name, value in config.model_dump(mode="json").items():
        if isinstance(value, dict):
            groups.append((name, list(_flat(value))))
        else:
            top.append((camel_case(name), _shown(value)))
    return [("general", top), *groups]


def flat_settings(config: TrainConfig) -> list[tuple[str, str]]:
    """Every field of a resolved config by its path, such as `training.learningRate`, with its value as text."""
    return list(_flat(config.model_dump(mode="json")))


def _flat(values: dict[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    rows: list[tuple[str, str]] = []
    for name, value in values.items():
        if isinstance(value, dict):
            rows += _flat(value, f"{prefix}{camel_case(name)}.")
        else:
            rows.append((prefix + camel_case(name), _shown(value)))
    return rows


def _shown(value: Any) -> str:
    if value is None or value == "" or value == []:
        return "not set"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return number(value)
    return "\n".join(str(part) for part in value) if isinstance(value, list) else str(value)
