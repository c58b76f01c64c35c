"""The training loop goes on exactly where it was, and a folder can begin with the bundled weights."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from diffusers import UNet2DConditionModel
from torch import Tensor, nn

import kubooth_world
from kubooth_world import architecture, train
from kubooth_world.training import export
from kubooth_world.training.loop import Fit, Plan, Worker, load_average
from kubooth_world.training.start import START, begin_with

PLAN = Plan(steps=6, batch=4, learning_rate=1e-2, warmup=2)


def _train(path: Path, plan: Plan, stop: int) -> dict[str, Tensor]:
    """Train a small layer until the step `stop` of a plan, saving there; return its weights."""
    torch.manual_seed(0)
    layer = nn.Linear(3, 2)
    fit = Fit(plan, Worker(rank=0, count=1), path, {"layer": layer})

    def loss(rng: np.random.Generator, step: int) -> tuple[Tensor, dict[str, float]]:
        batch = torch.from_numpy(rng.standard_normal((plan.batch, 3))).float()
        return (layer(batch) - torch.randn(plan.batch, 2)).square().mean(), {}

    def interrupt() -> None:
        if fit.step == stop < plan.steps:
            raise KeyboardInterrupt

    try:
        fit.run(loss, on_save=interrupt)
    except KeyboardInterrupt:
        assert fit.step == stop
    return {name: tensor.clone() for name, tensor in layer.state_dict().items()}


def test_an_interrupted_run_ends_as_an_undisturbed_one(tmp_path: Path) -> None:
    every_step = replace(PLAN, save_every_s=-1.0)
    whole = _train(tmp_path / "whole.safetensors", every_step, stop=6)
    _train(tmp_path / "parts.safetensors", every_step, stop=3)
    parts = _train(tmp_path / "parts.safetensors", every_step, stop=6)
    assert all(torch.equal(whole[name], parts[name]) for name in whole)


def test_a_folder_can_begin_with_the_bundled_weights(tmp_path: Path) -> None:
    bundled = kubooth_world.model_path()
    begin_with(bundled, tmp_path)
    unet = architecture.build_unet(architecture.SMALL_WORLD)
    text = architecture.build_text_encoder(architecture.SMALL_WORLD, 2193)
    load_average(tmp_path / START, {"unet": unet, "text": text})
    known = UNet2DConditionModel.from_pretrained(bundled / "unet").state_dict()
    assert all(torch.equal(tensor, known[name].float()) for name, tensor in unet.state_dict().items())

    # What training would leave behind exports to a model of the bundled layout.
    (tmp_path / START).rename(tmp_path / "unet.safetensors")
    np.save(tmp_path / "latents-000.npy", np.random.default_rng(0).standard_normal((4, 8, 16, 16)))
    export.export_model(tmp_path, tmp_path / "model")
    for name in ("unet/diffusion_pytorch_model.safetensors", "vae/diffusion_pytorch_model.safetensors"):
        assert (tmp_path / "model" / name).read_bytes() == (bundled / name).read_bytes(), name


def test_every_stage_has_a_plan() -> None:
    assert set(train.PLANS) | {"data", "export-encoders", "export", "evaluate"} == set(train.STAGES)
