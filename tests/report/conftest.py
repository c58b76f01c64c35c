"""A whole training's worth of data for the pages, with every part replaceable."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest
from PIL import Image

from kubooth_trainer.config import STAGES, TrainConfig
from kubooth_trainer.progress import ProgressEvent, StageEvent
from kubooth_trainer.quality import Quality
from kubooth_trainer.report import PromptComparison, ReportData

MakeConfig = Callable[..., TrainConfig]
MakeData = Callable[..., ReportData]

SAMPLER = {"name": "DDIM", "steps": 25, "guidance_scale": 7.5}
CONFIG: dict[str, Any] = {
    "config_version": 1,
    "job": {"name": "rex", "namespace": "team-a", "uid": None, "attempt": 1},
    "method": "DreamBooth",
    "model": {"uri": "s3://models/small/", "name": None},
    "subject": {
        "images": "s3://photos/rex/",
        "class_name": "dog",
        "identifier": None,
        "prompt_template": "a photo of {identifier} {class}",
        "crop": "Center",
        "flip": False,
    },
    "prior": {
        "enabled": True,
        "images": 200,
        "weight": 1.0,
        "prompt": "a {class}",
        "negative_prompt": "",
        "sampler": {**SAMPLER, "name": "EulerAncestral"},
        "uri": None,
        "cache": None,
    },
    "training": {
        "steps": 800,
        "learning_rate": 5e-6,
        "train_text_encoder": True,
        "text_encoder_learning_rate": 5e-6,
        "resolution": None,
        "batch_size": 2,
        "gradient_accumulation": "Auto",
        "precision": "Auto",
        "gradient_checkpointing": "Auto",
        "optimizer": "AdamW",
        "adam_beta1": 0.9,
        "adam_beta2": 0.999,
        "adam_epsilon": 1e-8,
        "weight_decay": 0.01,
        "ema": None,
        "snr_gamma": None,
        "offset_noise": 0.0,
        "zero_terminal_snr": False,
        "compile": False,
        "captions": False,
        "lr_schedule": "Constant",
        "warmup_steps": 0,
        "max_grad_norm": 1.0,
        "seed": 0,
    },
    "parallelism": {"nodes": 1, "devices_per_node": 2, "zero_stage": "Auto", "offload": "None"},
    "checkpoints": {"uri": "s3://scratch/rex/checkpoints/", "every_steps": 100, "keep": 2},
    "evaluation": {
        "prompts": ["a photo of {identifier} {class} in the snow", "a photo of a {class}"],
        "images_per_prompt": 4,
        "sampler": SAMPLER,
        "metrics": [],
        "encoders": {},
        "gate": None,
        "best_checkpoint": None,
    },
    "output": {"uri": "s3://models/personalized/rex/", "format": "Diffusers", "overwrite": False},
    "storage": {"endpoint": None, "region": None},
    "tracking": {"name": "team-a/rex", "tensorboard": None, "mlflow": None, "wandb": None},
    "deadlines": {"stall_seconds": 1800, "rendezvous_seconds": 1800},
    "workdir": "/scratch/rex",
}


@pytest.fixture
def config() -> MakeConfig:
    """`config(training={"steps": 5})`: groups are merged, other fields replaced."""

    def make(**changes: Any) -> TrainConfig:
        values = {
            name: {**value, **changes[name]}
            if name in changes and isinstance(value, dict)
            else changes.get(name, value)
            for name, value in CONFIG.items()
        }
        return TrainConfig.model_validate(values)

    return make


def pictures(count: int, size: int = 64, seed: int = 0) -> list[Image.Image]:
    rng = random.Random(seed)
    return [
        Image.frombytes("RGB", (4, 4), rng.randbytes(48)).resize((size, size), Image.Resampling.BICUBIC)
        for _ in range(count)
    ]


def history(steps: int = 800, every: int = 10) -> list[ProgressEvent]:
    rng = random.Random(1)
    events = []
    for step in range(every, steps + 1, every):
        instance = 0.08 + 0.07 * math.exp(-step / 200) + rng.gauss(0, 0.02)
        events.append(
            ProgressEvent(
                step=step,
                total=steps,
                loss=instance + 0.1,
                instance_loss=instance,
                prior_loss=0.1 + rng.gauss(0, 0.015),
                grad_norm=1.0,
                learning_rate=5e-6,
                samples_per_second=9.6,
                eta_seconds=0.0,
                time=1000.0 + step,
            )
        )
    return events


def stages() -> list[StageEvent]:
    seconds = dict(zip(STAGES, (8.2, 61.0, 4.1, 143.5, 37.9, 6.3), strict=True))
    units = dict(zip(STAGES, ("files", "images", "images", "steps", "images", "bytes"), strict=True))
    events, now = [], 1000.0
    for stage in STAGES:
        events.append(
            StageEvent(
                stage=stage,
                state="Succeeded",
                done=200,
                total=200,
                unit=units[stage],
                start=now,
                end=now + seconds[stage],
            )
        )
        now += seconds[stage]
    return events


@pytest.fixture
def data(config: MakeConfig) -> MakeData:
    """`data(identifier="sks", warnings=[...])`."""

    def make(**changes: Any) -> ReportData:
        values: dict[str, Any] = {
            "config": config(),
            "identifier": "zqx",
            "photos": [(f"{index:02d}.jpg", image) for index, image in enumerate(pictures(5, 700))],
            "comparisons": [
                PromptComparison(
                    prompt="a photo of zqx dog in the snow", before=pictures(4, seed=1), after=pictures(4, seed=2)
                ),
                PromptComparison(
                    prompt="a photo of a dog", before=pictures(4, seed=3), after=pictures(4, seed=4), is_class_only=True
                ),
            ],
            "class_images": pictures(20, seed=5),
            "quality": Quality(absent=("Nothing was measured: the runtime names no encoders.",)),
            "history": history(),
            "stages": stages(),
            "warnings": [],
            "versions": {"python": "3.11.7", "torch": "2.13.0"},
            "job_yaml": None,
            "world_size": 2,
            "precision": "BF16",
            "zero_stage": 2,
            "seconds": 261.0,
            "created": datetime(2026, 3, 5, 14, 30, tzinfo=UTC),
        }
        return ReportData(**{**values, **changes})

    return make
