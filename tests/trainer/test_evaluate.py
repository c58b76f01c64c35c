"""Pictures before and after: one model at a time is in the device's memory."""

from __future__ import annotations

import weakref
from pathlib import Path
from typing import Any

import torch
from torch import nn
from trainer.tiny_job import MakeConfig

from kubooth_trainer.config import TrainConfig
from kubooth_trainer.distributed import World
from kubooth_trainer.evaluate import Subjects, plan_comparisons, sample_comparisons
from kubooth_trainer.families.stable_diffusion import StableDiffusion
from kubooth_trainer.plan import Plan

ALONE = World(rank=0, size=1, local_rank=0, local_size=1, device=torch.device("cpu"))
FP32 = Plan(bf16=False, zero_stage=0, micro_batch=1, accumulation=1, gradient_checkpointing=False)


class Counting(StableDiffusion):
    """Keeps count of the denoisers that are still there when another one is loaded."""

    def __init__(self) -> None:
        self.loaded: list[weakref.ref[nn.Module]] = []
        self.there: list[int] = []

    def load_denoiser(self, folder: Path, dtype: torch.dtype) -> nn.Module:
        self.there.append(sum(each() is not None for each in self.loaded))
        unet = super().load_denoiser(folder, dtype)
        self.loaded.append(weakref.ref(unet))
        return unet


def test_the_first_model_is_gone_when_the_second_comes(
    make_config: MakeConfig, tiny_model: Path, tmp_path: Path
) -> None:
    family = Counting()
    sampler = {"name": "DDIM", "steps": 2, "guidance_scale": 1.0}
    config = TrainConfig.model_validate(make_config(evaluation__images_per_prompt=1, evaluation__sampler=sampler))
    comparisons = plan_comparisons(config, "sks", tmp_path / "pictures")
    subjects = Subjects(family=family, base=tiny_model, trained=tiny_model, resolution=32)
    done: list[Any] = []
    sample_comparisons(config, FP32, subjects, comparisons, world=ALONE, on_progress=done.append)
    assert done[-1] == 4
    assert family.there == [0, 0]
