"""The personalized model as a folder: trained components from the last checkpoint, the rest from the base model."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import torch

from kubooth_trainer.checkpoint import Checkpoint
from kubooth_trainer.families import Family, wanted_files
from kubooth_trainer.methods.dreambooth import export_weights


def export_model(family: Family, base: Path, checkpoint: Checkpoint, folder: Path, *, dtype: torch.dtype) -> None:
    """Writes a diffusers folder to `folder`, whole or not at all. The weight average is exported where one was kept.

    Trained components are saved in `dtype`; the others are copied from `base` file by file.
    """
    partial = folder.with_name(folder.name + ".partial")
    for path in (partial, folder):
        shutil.rmtree(path, ignore_errors=True)
    weights = checkpoint.tensors("ema" if checkpoint.has_ema else "weights")
    trained: dict[str, Any] = dict(export_weights(family, base, weights, dtype))
    names = [path.relative_to(base).as_posix() for path in base.rglob("*") if path.is_file()]
    for name in wanted_files(names, family):
        if name.partition("/")[0] not in trained:
            (partial / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(base / name, partial / name)
    for component, module in trained.items():
        module.save_pretrained(partial / component, safe_serialization=True)
    partial.replace(folder)
