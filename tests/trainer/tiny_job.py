"""Configs of the tiny job, and a running launcher: shared by the trainer's tests."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kubooth_trainer.progress import Event, FailedEvent, ResultEvent, event_from_json

STEPS = 20
RUN_SECONDS = 570  # a bound, not an expectation: a hang fails the test instead of the suite


def config_dict(model: Path, photos: Path, folder: Path, **overrides: Any) -> dict[str, Any]:
    sampler = {"name": "EulerAncestral", "steps": 3, "guidance_scale": 3.0}
    config: dict[str, Any] = {
        "config_version": 1,
        "job": {"name": "tiny", "namespace": "default", "uid": None, "attempt": 1},
        "method": "DreamBooth",
        "model": {"uri": model.as_uri(), "name": None},
        "subject": {
            "images": photos.as_uri(),
            "class_name": "dog",
            "identifier": None,
            "prompt_template": "a photo of {identifier} {class}",
            "crop": "Center",
            "flip": False,
        },
        "prior": {
            "enabled": True,
            "images": 6,
            "weight": 1.0,
            "prompt": "a photo of a {class}",
            "negative_prompt": "",
            "sampler": sampler,
            "uri": None,
            "cache": None,
        },
        "training": {
            "steps": STEPS,
            "learning_rate": 1e-4,
            "train_text_encoder": True,
            "text_encoder_learning_rate": 5e-5,
            "resolution": None,
            "batch_size": 4,
            "gradient_accumulation": "Auto",
            "precision": "FP32",
            "gradient_checkpointing": "Auto",
            "optimizer": "AdamW",
            "adam_beta1": 0.9,
            "adam_beta2": 0.999,
            "adam_epsilon": 1e-8,
            "weight_decay": 1e-2,
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
        "parallelism": {"nodes": 1, "devices_per_node": 1, "zero_stage": "Auto", "offload": "None"},
        "checkpoints": {"uri": (folder / "checkpoints").as_uri(), "every_steps": 5, "keep": 2},
        "evaluation": {
            "prompts": ["a {identifier} {class} in the snow", "a photo of a {class}"],
            "images_per_prompt": 2,
            "sampler": sampler,
            "metrics": [],
            "encoders": {},
            "gate": None,
            "best_checkpoint": None,
        },
        "output": {"uri": (folder / "output").as_uri(), "format": "Diffusers", "overwrite": False},
        "storage": {"endpoint": None, "region": None},
        "tracking": {"name": "team/rex", "tensorboard": None, "mlflow": None, "wandb": None},
        "deadlines": {"stall_seconds": 600, "rendezvous_seconds": 600},
        "workdir": str(folder / "work"),
    }
    for path, value in overrides.items():
        *parents, last = path.split("__")
        target = config
        for parent in parents:
            target = target[parent]
        assert last in target, path
        target[last] = value
    return config


@dataclass
class Run:
    """A finished or running launcher."""

    process: subprocess.Popen[str]
    log: Path
    events: list[Event] = field(default_factory=list)
    code: int | None = None

    def until(self, matches: Callable[[Event], bool]) -> Event:
        """Reads events up to the first that matches."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            event = event_from_json(line)
            assert event is not None, f"not an event: {line!r}"
            self.events.append(event)
            if matches(event):
                return event
        raise AssertionError(f"the run ended first: {self.log.read_text()[-3000:]}")

    def finish(self) -> Run:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            event = event_from_json(line)
            assert event is not None, f"not an event: {line!r}"
            self.events.append(event)
        self.code = self.process.wait(timeout=RUN_SECONDS)
        return self

    @property
    def result(self) -> ResultEvent:
        assert self.code == 0, self.log.read_text()[-5000:]
        return next(event for event in self.events if isinstance(event, ResultEvent))

    @property
    def failure(self) -> FailedEvent:
        return next(event for event in self.events if isinstance(event, FailedEvent))


def start_launcher(config: dict[str, Any], folder: Path, name: str, *options: str) -> Run:
    """The real launcher on a config; config and log are files in `folder`, by name."""
    path, log = folder / f"config-{name}.json", folder / f"log-{name}.txt"
    path.write_text(json.dumps(config))
    with log.open("w") as stderr:
        process = subprocess.Popen(
            [sys.executable, "-m", "kubooth_trainer.launcher", "--config", str(path), "--die-with-parent", *options],
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
    return Run(process, log)


MakeConfig = Callable[..., dict[str, Any]]
Launch = Callable[[dict[str, Any]], Run]
