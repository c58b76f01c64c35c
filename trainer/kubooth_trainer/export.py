"""The personalized model as a folder: trained components from the last checkpoint, the rest from the base model."""

from __future__ import annotations

import inspect
import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from kubooth_trainer.checkpoint import Checkpoint
from kubooth_trainer.families import INDEX, Family, wanted_files
from kubooth_trainer.families.weight_files import is_weights, plain_name
from kubooth_trainer.methods.dreambooth import export_weights

SCHEDULER = "scheduler/scheduler_config.json"
_RESCALING = "DDIMScheduler"


@dataclass(frozen=True, kw_only=True)
class ExportOptions:
    """`dtype` of the trained components; whether training used a schedule that ends without any signal."""

    dtype: torch.dtype
    zero_terminal_snr: bool


def export_model(family: Family, base: Path, checkpoint: Checkpoint, folder: Path, options: ExportOptions) -> None:
    """Writes a diffusers folder to `folder`, whole or not at all. The weight average is exported where one was kept.

    Components that were not trained are copied from `base` file by file, under the names that weights have without
    variants: trained ones are saved so, and `from_pretrained` takes a folder of one kind. The scheduler says how to
    sample what was trained with zero-terminal SNR.
    """
    partial = folder.with_name(folder.name + ".partial")
    for path in (partial, folder):
        shutil.rmtree(path, ignore_errors=True)
    weights = checkpoint.tensors("ema" if checkpoint.has_ema else "weights")
    trained: dict[str, Any] = dict(export_weights(family, base, weights, options.dtype))
    names = [path.relative_to(base).as_posix() for path in base.rglob("*") if path.is_file()]
    for name in wanted_files(names, family):
        if name.partition("/")[0] not in trained:
            _copy(base / name, partial / name)
    index = _index(family, base)
    if options.zero_terminal_snr:
        index["scheduler"], schedule = _zero_terminal(index["scheduler"], family.load_schedule(base))
        (partial / SCHEDULER).write_text(json.dumps(schedule, indent=2, sort_keys=True) + "\n")
    (partial / INDEX).write_text(json.dumps(index, indent=2, sort_keys=True) + "\n")
    for component, module in trained.items():
        # transformers writes on rank 0 only, but the first rank of every node needs the model to sample with.
        module.should_save_on_this_rank = lambda is_main_process: is_main_process
        module.save_pretrained(partial / component, safe_serialization=True)
    for component in family.weighted:
        _load_in_fp32(partial / component / "config.json")
    partial.replace(folder)


def _copy(source: Path, target: Path) -> None:
    """The fp16 variant, which is here only where it is all there is, becomes the plain one; so does its index."""
    target.parent.mkdir(parents=True, exist_ok=True)
    if is_weights(target.name):
        target = target.with_name(plain_name(target.name))
    if target.name == source.name or target.suffix != ".json":
        shutil.copyfile(source, target)
        return
    index = json.loads(source.read_text())
    index["weight_map"] = {tensor: plain_name(file) for tensor, file in index["weight_map"].items()}
    target.write_text(json.dumps(index, indent=2, sort_keys=True) + "\n")


def _index(family: Family, base: Path) -> dict[str, Any]:
    """The base's index without what is not copied (a safety checker), which diffusers would look for in vain."""
    index: dict[str, Any] = json.loads((base / INDEX).read_text())
    for name, entry in index.items():
        if isinstance(entry, list) and name not in family.components:
            index[name] = [None, None]
    if "safety_checker" in index:
        index["requires_safety_checker"] = False
    return index


def _zero_terminal(entry: list[str], schedule: Mapping[str, Any]) -> tuple[list[str], dict[str, Any]]:
    """The scheduler's entry in the index and its config, to sample from where no signal is left (arXiv 2305.08891).

    Schedulers that know no rescaled betas, as PNDM, would sample by others without a word: DDIM takes their place.
    """
    rescaled = {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}
    if "rescale_betas_zero_snr" in _options(entry[1]):
        return entry, {**schedule, **rescaled}
    known = {name: value for name, value in schedule.items() if name in _options(_RESCALING)}
    return ["diffusers", _RESCALING], {**known, "_class_name": _RESCALING, "clip_sample": False, **rescaled}


def _options(scheduler: str) -> set[str]:
    import diffusers

    return set(inspect.signature(getattr(diffusers, scheduler).__init__).parameters)


def _load_in_fp32(path: Path) -> None:
    """Lets `from_pretrained` without a dtype load every component in fp32, whatever the file holds.

    diffusers always does so; transformers 5 goes by the config, and by the weights where that does not say; a
    pipeline of two dtypes cannot run.
    """
    config = json.loads(path.read_text())
    keys = [key for key in ("dtype", "torch_dtype") if key in config]
    if not keys and "_class_name" not in config:  # which diffusers' own have
        keys = ["dtype"]
    config |= dict.fromkeys(keys, "float32")
    path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
