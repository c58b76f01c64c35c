"""Stage Evaluate: pictures of the base and the personalized model with equal seeds, and what they measure."""

from __future__ import annotations

import hashlib
from pathlib import Path

from kubooth_trainer.acquire import Acquired
from kubooth_trainer.checkpoint import Checkpoint
from kubooth_trainer.evaluate import Comparison, Subjects, plan_comparisons, sample_comparisons
from kubooth_trainer.export import ExportOptions, export_model
from kubooth_trainer.measure import appraise
from kubooth_trainer.quality import Quality
from kubooth_trainer.stages.setting import Setting


def evaluate(setting: Setting, acquired: Acquired, trained: Checkpoint) -> tuple[list[Comparison], Quality]:
    """Writes the model folder, samples the base and the personalized model with equal seeds, and measures both."""
    config, world, reporter = setting.config, setting.world, setting.reporter
    model = setting.work / "output"
    if world.leads_node:
        options = ExportOptions(dtype=setting.plan.dtype, zero_terminal_snr=config.training.zero_terminal_snr)
        export_model(acquired.family, acquired.model, trained, model, options)
        reporter.moved()
    world.barrier()
    settings = config.evaluation.model_dump_json(exclude_defaults=True)
    key = hashlib.sha256(f"{settings} {_weights_digest(model)}".encode()).hexdigest()
    comparisons = plan_comparisons(config, acquired.identifier, setting.work / "evaluation" / key[:16])
    total = 2 * sum(len(comparison.before) for comparison in comparisons)
    reporter.begin("Evaluate", total=total, unit="images")
    portion = sample_comparisons(
        config,
        setting.plan,
        Subjects(family=acquired.family, base=acquired.model, trained=model, resolution=acquired.resolution),
        comparisons,
        world=world,
        on_progress=setting.progress("Evaluate"),
    )
    if portion is not None:
        reporter.warn(f"Evaluate: for want of device memory, pictures were sampled {portion} at a time")
    quality = appraise(config, acquired, comparisons, world=world, reporter=reporter)
    reporter.end("Evaluate")
    return comparisons, quality


def _weights_digest(model: Path) -> str:
    digest = hashlib.sha256()
    for path in sorted(model.rglob("*.safetensors")):
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()
