"""What stands beside the weights: the manifest's fields, the report and the model card. Rank 0, Upload stage."""

from __future__ import annotations

import platform
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from PIL import Image

from kubooth_trainer.acquire import Acquired
from kubooth_trainer.config import TrainConfig
from kubooth_trainer.evaluate import Comparison
from kubooth_trainer.model_card import render_model_card
from kubooth_trainer.plan import Plan
from kubooth_trainer.progress import FigureShown, QualityEvent, Reporter
from kubooth_trainer.publish import ManifestFields
from kubooth_trainer.quality import Quality
from kubooth_trainer.report import PromptComparison, ReportData, render_report
from kubooth_trainer.report_data import REPORT_DATA, report_to_json
from kubooth_trainer.selection import Selection
from kubooth_trainer.training_facts import TrainingFacts

PACKAGES = ("kubooth", "torch", "diffusers", "transformers", "accelerate", "deepspeed", "safetensors")
REPORTED_CLASS_IMAGES = 12


@dataclass(frozen=True, kw_only=True)
class Finished:
    """All that the pages tell of. `seconds` is the time of this run, from the start of the first stage."""

    config: TrainConfig
    plan: Plan
    acquired: Acquired
    comparisons: list[Comparison]
    quality: Quality
    training: TrainingFacts | None  # None: training had been finished by an earlier start
    selection: Selection | None  # None: the last state is the result
    class_images: list[Path]
    reporter: Reporter
    world_size: int
    seconds: float


def versions() -> dict[str, str]:
    """Versions of what the result depends on."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def manifest_fields(finished: Finished) -> ManifestFields:
    """What `manifest.json` says beside the files and their digests."""
    return ManifestFields(
        identifier=finished.acquired.identifier,
        seed=finished.config.training.seed,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        config=finished.config.model_dump(mode="json"),
        versions=versions(),
        timings=_timings(finished),
        metrics=finished.quality.flat(),
        step=finished.selection.step if finished.selection else finished.config.training.steps,
    )


def quality_event(quality: Quality, *, report: str = "") -> QualityEvent:
    """The figures for the status and the terminal."""

    def shown(value: float | None) -> float | None:
        return None if value is None else round(value, 4)

    return QualityEvent(
        verdict=quality.judgement.verdict if quality.judgement else None,
        message=quality.judgement.message if quality.judgement else " ".join(quality.absent),
        figures=[
            FigureShown(name=figure.name, before=shown(figure.before.value), after=shown(figure.after.value))
            for figure in quality.figures
        ],
        report=report,
    )


def _timings(finished: Finished) -> dict[str, float]:
    """Seconds per finished stage, and mean seconds of each part of a training step (`step.forward`)."""
    stages: dict[str, float] = {
        stage.stage: round(stage.end - stage.start, 3)
        for stage in finished.reporter.stages.values()
        if stage.start is not None and stage.end is not None
    }
    parts = finished.training.step_seconds if finished.training else {}
    return {**stages, **{f"step.{part}": round(seconds, 6) for part, seconds in parts.items()}}


def write_pages(finished: Finished, folder: Path) -> None:
    """Writes report.html, report.json, README.md (the model card) and evaluation.json into the output folder."""
    subject, findings = finished.acquired.subject, finished.acquired.findings
    data = ReportData(
        config=finished.config,
        identifier=finished.acquired.identifier,
        photos=[(photo.name, photo.image) for photo in subject.photos],
        photo_check=[
            (photo.name, [finding.message for finding in findings if photo.name in finding.photos])
            for photo in subject.photos
        ],
        comparisons=[
            PromptComparison(
                prompt=comparison.prompt,
                before=_open(comparison.before),
                after=_open(comparison.after),
                is_class_only=comparison.is_class_only,
            )
            for comparison in finished.comparisons
        ],
        quality=finished.quality,
        class_images=_open(finished.class_images[:REPORTED_CLASS_IMAGES]),
        history=finished.reporter.history,
        stages=list(finished.reporter.stages.values()),
        warnings=finished.reporter.warnings,
        versions=versions(),
        job_yaml=None,
        world_size=finished.world_size,
        precision=finished.plan.precision,
        zero_stage=finished.training.zero_stage if finished.training else finished.plan.zero_stage,
        training=finished.training,
        selection=finished.selection,
        seconds=finished.seconds,
        created=datetime.now(UTC),
    )
    (folder / "report.html").write_text(render_report(data), encoding="utf-8")
    (folder / REPORT_DATA).write_bytes(report_to_json(data))
    card = render_model_card(data)
    (folder / "README.md").write_text(card, encoding="utf-8")
    (folder / "evaluation.json").write_text(finished.quality.to_json(), encoding="utf-8")


def _open(paths: list[Path]) -> list[Image.Image]:
    return [Image.open(path).convert("RGB") for path in paths]
