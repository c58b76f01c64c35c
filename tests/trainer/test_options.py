"""What options of a training do to its weights, in numbers, on two real ranks."""

from __future__ import annotations

import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from safetensors.torch import load_file
from trainer.test_matrix import Matrix
from trainer.tiny_job import config_dict

from kubooth_trainer import loop
from kubooth_trainer.config import TrainConfig
from kubooth_trainer.distributed import World
from kubooth_trainer.families import FAMILIES
from kubooth_trainer.methods.dreambooth import Trainee
from kubooth_trainer.plan import make_plan

STEPS = 5
DECAY = 0.5


@pytest.fixture(scope="module")
def options(tiny_model: Path, photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Matrix:
    matrix = Matrix(tmp_path_factory.mktemp("options"), tiny_model, photos)
    training = {"steps": STEPS, "ema": {"decay": DECAY}}
    offload = {"parallelism": {"offload": "Optimizer"}}
    matrix.run(
        2,
        {"average 0": 0, "average 2": 2, "average 3": 3, "offload 2": 2, "offload 3": 3, "accumulated 2": 2},
        changes={
            "offload 2": offload,
            "offload 3": offload,
            "accumulated 2": {"training": {**training, "gradient_accumulation": 2}},
        },
        training=training,
    )
    return matrix


def saved(matrix: Matrix, name: str, kind: str) -> dict[str, torch.Tensor]:
    return load_file(matrix.checkpoints(name) / "attempt-1" / f"step-{STEPS:06d}" / f"{kind}.safetensors")


@pytest.mark.parametrize("name", ["average 2", "average 3", "offload 2", "offload 3"])
@pytest.mark.parametrize("kind", ["ema", "weights"])
def test_sharded_averages_and_offloaded_optimizers_are_those_of_the_plain_one(
    options: Matrix, name: str, kind: str
) -> None:
    """Adam makes a step of rounding where there is no gradient, as for a bias before a norm: a few numbers differ."""
    expected, found = saved(options, "average 0", kind), saved(options, name, kind)
    assert expected.keys() == found.keys()
    differences = torch.cat([(found[key] - value).abs().flatten() for key, value in expected.items()])
    assert float((differences > 2e-6).float().mean()) < 0.01
    assert float(differences.mean()) < 1e-7


def test_accumulation_changes_no_loss(options: Matrix) -> None:
    assert options.losses("accumulated 2") == pytest.approx(options.losses("average 0"), abs=1e-5)


def test_gradient_checkpointing_changes_no_loss(tiny_model: Path, photos: Path, tmp_path: Path) -> None:
    matrix = Matrix(tmp_path, tiny_model, photos)
    again = {"training": {"steps": STEPS, "gradient_checkpointing": "Enabled"}}
    matrix.run(1, {"plain": 0, "again": 0}, training={"steps": STEPS}, changes={"again": again})
    assert matrix.losses("again") == pytest.approx(matrix.losses("plain"), abs=1e-5)
    assert len(set(matrix.losses("plain").values())) == STEPS


@pytest.mark.filterwarnings("ignore:.gradient_checkpointing_enable. is deprecated:FutureWarning")  # of transformers 5
@pytest.mark.parametrize("precision", ["BF16", "FP32"])
def test_a_model_comes_to_its_device_as_it_is_trained(
    tiny_model: Path, photos: Path, tmp_path: Path, precision: str
) -> None:
    """In BF16 the device never holds it in FP32; the exact weights stay behind for the master weights."""
    given = config_dict(
        tiny_model, photos, tmp_path, training__precision=precision, training__gradient_checkpointing="Enabled"
    )
    config = TrainConfig.model_validate(given)
    world = World(rank=0, size=1, local_rank=0, local_size=1, device=torch.device("cpu"))
    plan, around = make_plan(config, world), cast(Any, SimpleNamespace(world=world))
    family = FAMILIES[0]
    trainee = Trainee(
        family, family.load_denoiser(tiny_model, torch.float32), family.load_text(tiny_model, torch.float32)
    )
    loaded = loop._Loaded(trainee, torch.zeros(1, 1, 4, dtype=torch.int64), None)
    exact = loop._exact_weights(loaded)
    placed, _ = loop._place(loaded, config, plan, around)
    assert {weight.dtype for weight in placed.parameters()} == {plan.dtype}
    assert {weight.dtype for weight in exact.values()} == {torch.float32}
    assert all(weight.equal(exact[name].to(plan.dtype)) for name, weight in placed.named_parameters())
    for module in (placed.unet, *placed.encoders()):
        assert any(getattr(part, "gradient_checkpointing", False) for part in module.modules())


def test_an_average_is_not_the_last_weights(options: Matrix) -> None:
    average, weights = saved(options, "average 3", "ema"), saved(options, "average 3", "weights")
    moved = [float((average[key] - weights[key]).abs().max()) for key in weights]
    assert max(moved) > 1e-5


def test_without_a_compiler_the_unet_is_trained_uncompiled_and_that_is_said(
    tiny_model: Path, photos: Path, tmp_path: Path
) -> None:
    matrix = Matrix(tmp_path, tiny_model, photos)
    matrix.run(1, {"no compiler": 0}, training={"steps": 1, "compile": True}, environment={"PATH": "/nowhere"})
    (warning,) = matrix.results["no compiler"]["warnings"]
    assert warning == "training.compile: there is no C compiler here, so the UNet is trained uncompiled"


@pytest.mark.soak
def test_a_compiled_unet_has_the_losses_of_the_plain_one(tiny_model: Path, photos: Path, tmp_path: Path) -> None:
    if shutil.which("cc") is None:
        pytest.skip("needs a C compiler")
    matrix = Matrix(tmp_path, tiny_model, photos)
    matrix.run(2, {"plain": 2}, training={"steps": STEPS})
    matrix.run(2, {"compiled 2": 2, "compiled 3": 3}, training={"steps": STEPS, "compile": True})
    for name in ("compiled 2", "compiled 3"):
        assert matrix.results[name]["warnings"] == []
        assert matrix.losses(name) == pytest.approx(matrix.losses("plain"), abs=1e-4)
