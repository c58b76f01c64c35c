"""Solvers that a base model may name: training reads their config, and has the noise that they sample by."""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import diffusers
import pytest
import torch

from kubooth_trainer.errors import BadModelError
from kubooth_trainer.families import FAMILIES, check_model
from kubooth_trainer.loss import NoiseSchedule

pytestmark = pytest.mark.filterwarnings("ignore:__array_:DeprecationWarning")  # of diffusers' solvers
NAMES = ["model_index.json", "scheduler/scheduler_config.json"] + [
    f"{component}/{name}"
    for component in ("unet", "vae", "text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2")
    for name in ("config.json", "model.safetensors")
]
ACCEPTED = [
    "DDIMScheduler", "DDPMScheduler", "DEISMultistepScheduler", "DPMSolverMultistepScheduler", "DPMSolverSDEScheduler",
    "DPMSolverSinglestepScheduler", "EulerAncestralDiscreteScheduler", "EulerDiscreteScheduler",
    "HeunDiscreteScheduler", "KDPM2AncestralDiscreteScheduler", "KDPM2DiscreteScheduler", "LMSDiscreteScheduler",
    "PNDMScheduler", "UniPCMultistepScheduler",
]  # fmt: skip
REFUSED = [
    "EDMDPMSolverMultistepScheduler", "EDMEulerScheduler", "FlowMatchEulerDiscreteScheduler",
    "FlowMatchHeunDiscreteScheduler", "LCMScheduler", "TCDScheduler",
]  # fmt: skip
CONFIGS: dict[str, dict[str, Any]] = {
    "Stable Diffusion's": {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"},
    "linear": {"beta_start": 0.0002, "beta_end": 0.03, "beta_schedule": "linear", "num_train_timesteps": 500},
    "by default": {},
    "betas of its own": {"trained_betas": [0.0001 + 0.00003 * k for k in range(500)], "num_train_timesteps": 500},
}
WITHOUT = {"DPMSolverSDEScheduler": "scheduling_dpmsolver_sde", "LMSDiscreteScheduler": "scheduling_lms_discrete"}


def index_of(pipeline: str, scheduler: str) -> bytes:
    family = next(each for each in FAMILIES if each.pipeline == pipeline)
    components = {name: ["diffusers", classes[0]] for name, classes in family.components.items()}
    return json.dumps({**components, "_class_name": pipeline, "scheduler": ["diffusers", scheduler]}).encode()


@pytest.fixture
def solver(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Any]:
    """The class of a name. Some are absent from diffusers without packages that only their steps need."""

    def find(name: str) -> Any:
        if name in WITHOUT:
            for package in ("scipy", "scipy.stats", "torchsde"):
                monkeypatch.setitem(sys.modules, package, MagicMock())
            return getattr(importlib.import_module(f"diffusers.schedulers.{WITHOUT[name]}"), name)
        return getattr(diffusers, name)

    return find


@pytest.mark.parametrize("pipeline", ["StableDiffusionPipeline", "StableDiffusionXLPipeline"])
@pytest.mark.parametrize("scheduler", ACCEPTED)
def test_ordinary_solvers_are_accepted(pipeline: str, scheduler: str) -> None:
    assert check_model("file:///model", NAMES, index_of(pipeline, scheduler)).pipeline == pipeline


@pytest.mark.parametrize("scheduler", REFUSED)
def test_solvers_with_other_noise_are_refused(scheduler: str) -> None:
    with pytest.raises(BadModelError, match=f"^file:///model/model_index.json: scheduler is '{scheduler}'; Stable"):
        check_model("file:///model", NAMES, index_of("StableDiffusionPipeline", scheduler))


@pytest.mark.parametrize("scheduler", ACCEPTED)
@pytest.mark.parametrize("config", CONFIGS)
def test_training_has_the_noise_that_the_solver_samples_by(
    tmp_path: Path, solver: Callable[[str], Any], scheduler: str, config: str
) -> None:
    (tmp_path / "model_index.json").write_bytes(index_of("StableDiffusionPipeline", scheduler))
    (tmp_path / "scheduler").mkdir()
    for prediction in ("epsilon", "v_prediction"):
        content = {**CONFIGS[config], "_class_name": scheduler, "prediction_type": prediction}
        (tmp_path / "scheduler" / "scheduler_config.json").write_text(json.dumps(content))
        ours = NoiseSchedule.from_config(FAMILIES[0].load_schedule(tmp_path), zero_terminal_snr=False)
        theirs = solver(scheduler).from_pretrained(tmp_path, subfolder="scheduler", local_files_only=True)
        assert ours.prediction == theirs.config["prediction_type"]
        torch.testing.assert_close(ours.alpha_bar, theirs.alphas_cumprod, rtol=1e-6, atol=0)
