"""What a training takes by the estimate, and the plan that is chosen by it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from trainer.tiny_job import MakeConfig
from trainer.tiny_xl import write as write_xl

from kubooth_trainer import plan as planning
from kubooth_trainer.adamw8bit import CPU_STEP_BYTES, MOMENT_BYTES
from kubooth_trainer.config import TrainConfig
from kubooth_trainer.distributed import World
from kubooth_trainer.families import FAMILIES, Family
from kubooth_trainer.memory import Activations, Need, Shape, count_activations, need_of
from kubooth_trainer.methods.dreambooth import Trainee
from kubooth_trainer.plan import Limit, Plan, choose, make_plan, options, smaller

SHAPE = Shape(
    zero_stage=0, bf16=False, samples=2, gradient_checkpointing=False, ranks=1, moment_bytes=8, step_bytes=0,
    offload=False, pinned=False, ema=False,
)  # fmt: skip


def world(size: int = 1) -> World:
    return World(rank=0, size=size, local_rank=0, local_size=size, device=torch.device("cpu"))


# The estimate


@pytest.fixture(params=["1.x", "XL"])
def trainee(request: pytest.FixtureRequest, tiny_model: Path, tmp_path: Path) -> tuple[Trainee, tuple[Any, ...]]:
    """A tiny model, and arguments for one sample."""
    folder, family = tiny_model, next(each for each in FAMILIES if each.pipeline == "StableDiffusionPipeline")
    if request.param == "XL":
        folder, family = tmp_path / "xl", next(each for each in FAMILIES if "XL" in each.pipeline)
        write_xl(folder, tmp_path / "scratch")
    return loaded(family, folder)


def loaded(family: Family, folder: Path) -> tuple[Trainee, tuple[Any, ...]]:
    unet: Any = family.load_denoiser(folder, torch.float32)
    module = Trainee(family, unet, family.load_text(folder, torch.float32)).train()
    ids = family.tokenize(family.load_tokenizers(folder), ["a photo of a dog"])
    side = unet.config.sample_size
    index = torch.zeros(1, dtype=torch.int64)
    return module, (torch.randn(1, unet.config.in_channels, side, side), index, ids, index)


def kept_by(module: Trainee, arguments: tuple[Any, ...]) -> int:
    """Bytes that a real forward pass keeps."""
    weights = {parameter.untyped_storage().data_ptr() for parameter in module.parameters()}
    kept: dict[int, torch.UntypedStorage] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        module(*arguments)
    return sum(storage.nbytes() for storage in kept.values())


def test_what_is_counted_without_computing_is_what_a_forward_pass_keeps(
    trainee: tuple[Trainee, tuple[Any, ...]],
) -> None:
    module, arguments = trainee
    before = {name: value.clone() for name, value in module.state_dict().items()}
    counted = count_activations(module, arguments, dtype=torch.float32, fused_attention=True)
    assert counted.full == pytest.approx(kept_by(module, arguments), rel=0.02)
    assert all(value.equal(before[name]) for name, value in module.state_dict().items())
    module.unet.enable_gradient_checkpointing()  # type: ignore[operator]
    inputs_only = kept_by(module, arguments)
    assert inputs_only < counted.checkpointed < counted.full  # one block more than the inputs


def test_half_the_width_takes_half_the_memory(trainee: tuple[Trainee, tuple[Any, ...]]) -> None:
    module, arguments = trainee
    wide, narrow = (
        count_activations(module, arguments, dtype=dtype, fused_attention=True)
        for dtype in (torch.float32, torch.bfloat16)
    )
    assert narrow.full == pytest.approx(wide.full / 2, rel=0.1)


@pytest.mark.parametrize(
    ("change", "bytes_per_parameter"),
    [
        ({}, 16),
        ({"ranks": 4}, 16),
        ({"ema": True}, 20),
        ({"zero_stage": 1, "ranks": 4}, 4 + 4 + (4 + 8) / 4),
        ({"zero_stage": 1, "bf16": True}, 2 + 2 + 4 + 8),
        ({"zero_stage": 1, "bf16": True, "ranks": 4, "ema": True}, 2 + 2 + (4 + 8 + 4) / 4),
        ({"zero_stage": 2, "bf16": True, "ranks": 4}, 2 + 2 / 4 + (4 + 8) / 4),
        ({"zero_stage": 1, "bf16": True, "moment_bytes": MOMENT_BYTES}, 2 + 2 + 4 + 2 + 8 / 256),
        ({"zero_stage": 2, "bf16": True, "ranks": 4, "offload": True}, 2 + 2 / 4),
    ],
)
def test_bytes_per_parameter(change: dict[str, Any], bytes_per_parameter: float) -> None:
    """ZeRO paper, arXiv 1910.02054, figure 1; buckets of fixed size vanish beside so many parameters."""
    parameters = 4_000_000_000
    shape = replace(SHAPE, **change)
    need = need_of(parameters, Activations(full=0, checkpointed=0, largest=0), shape)
    held = sum(size for name, size in need.device.items() if name != "activations")
    assert held / parameters == pytest.approx(bytes_per_parameter, rel=0.02)
    assert need.host["checkpoint"] == parameters * (4 + shape.moment_bytes + 4 * shape.ema)


@pytest.mark.parametrize(
    ("change", "offloaded"),
    [
        ({"zero_stage": 2}, {"optimizer": 12, "gradients": 4, "copies": 2}),
        ({"zero_stage": 2, "pinned": True}, {"optimizer": 8 + 4 * 4 / 3, "gradients": 16 / 3, "copies": 8 / 3}),
        ({"zero_stage": 3, "pinned": True}, {"optimizer": 12, "gradients": 16 / 3, "copies": 8 / 3}),
    ],
)
def test_what_is_offloaded_is_pinned_in_powers_of_two(change: dict[str, Any], offloaded: dict[str, float]) -> None:
    """Bytes a parameter, of three quarters of a power of two."""
    parameters = 3 << 28
    shape = replace(SHAPE, bf16=True, offload=True, **change)
    host = need_of(parameters, Activations(full=0, checkpointed=0, largest=0), shape).host
    found = {name: size / parameters for name, size in host.items() if name != "checkpoint"}
    assert found == pytest.approx(offloaded)


def test_a_step_of_8_bits_on_a_cpu_has_its_moments_in_fp32_for_a_moment() -> None:
    shape = replace(SHAPE, zero_stage=2, moment_bytes=MOMENT_BYTES)
    nothing = Activations(full=0, checkpointed=0, largest=0)
    on_gpu, on_cpu = (need_of(1000, nothing, replace(shape, step_bytes=each)) for each in (0, CPU_STEP_BYTES))
    assert on_cpu.device["activations"] - on_gpu.device["activations"] == 12 * 1000


# The plan


def configured(make_config: MakeConfig, **overrides: Any) -> TrainConfig:
    return TrainConfig.model_validate(make_config(**overrides))


def plans(config: TrainConfig, ranks: World, limit: Limit | None = None) -> list[str]:
    return [str(each) for each in options(config, ranks, make_plan(config, ranks), limit)]


@pytest.mark.parametrize(("wanted", "before", "found"), [
    ("Auto", None, "BF16"), ("Auto", "FP32", "FP32"), ("Auto", "BF16", "BF16"), ("FP32", "BF16", "FP32"),
    ("BF16", "FP32", "BF16"),
])  # fmt: skip
def test_a_job_goes_on_in_the_precision_that_it_began_in(
    make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch, wanted: str, before: str | None, found: str
) -> None:
    monkeypatch.setattr(planning, "multiplies_bf16", lambda _: True)
    config = configured(make_config, training__precision=wanted)
    assert make_plan(config, world(), precision_before=before).precision == found


@pytest.mark.parametrize("others", [True, False])
def test_ranks_on_devices_of_two_kinds_train_in_one_precision(
    make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch, others: bool
) -> None:
    class Ranks(World):
        def all_true(self, flags: list[bool]) -> list[bool]:
            return [flag and others for flag in flags]

    monkeypatch.setattr(planning, "multiplies_bf16", lambda _: True)
    config = configured(make_config, training__precision="Auto", parallelism__devices_per_node=2)
    ranks = Ranks(rank=0, size=2, local_rank=0, local_size=2, device=torch.device("cpu"))
    assert make_plan(config, ranks).bf16 is others


def test_options_from_the_fastest_to_the_smallest(make_config: MakeConfig) -> None:
    config = configured(make_config, training__batch_size=4, parallelism__devices_per_node=2)
    without_3 = [f"ZeRO {stage}, micro-batch {size}" for size in ("2 x 1", "1 x 2") for stage in (0, 1, 2)]
    with_3 = [f"ZeRO 3, micro-batch {size}" for size in ("2 x 1", "1 x 2")]
    again = ", gradient checkpointing"
    assert plans(config, world(2)) == [
        *without_3, *[each + again for each in without_3], *with_3, *[each + again for each in with_3]
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("overrides", "limit", "expected"),
    [
        ({"training__gradient_checkpointing": "Disabled"}, None, ["4 x 1", "2 x 2", "1 x 4"]),
        ({"training__gradient_checkpointing": "Enabled", "training__gradient_accumulation": 2}, None, ["2 x 2+"]),
        ({}, Limit(micro_batch=1, gradient_checkpointing=True), ["1 x 4+"]),
        (
            {"training__gradient_accumulation": 2, "training__gradient_checkpointing": "Disabled"},
            Limit(micro_batch=1, gradient_checkpointing=False),
            ["1 x 4"],
        ),
    ],
)
def test_what_the_job_sets_stays(
    make_config: MakeConfig, overrides: dict[str, Any], limit: Limit | None, expected: list[str]
) -> None:
    found = plans(configured(make_config, **overrides), world(), limit)
    assert [each.removeprefix("ZeRO 0, micro-batch ").replace(", gradient checkpointing", "+") for each in found] == (
        expected
    )


def test_the_first_that_fits_is_taken_and_said(make_config: MakeConfig) -> None:
    config = configured(make_config, training__batch_size=4)
    all_plans = list(options(config, world(), make_plan(config, world()), None))

    def need(plan: Plan) -> Need:
        return Need({"activations": plan.micro_batch << 30}, {})

    chosen = choose(all_plans, need, 2 << 30)
    assert (chosen.plan.micro_batch, chosen.plan.accumulation, chosen.fits) == (2, 2, True)
    assert "2.0 of 2.0 GiB" in chosen.reasoning and "would take 4.0 GiB" in chosen.reasoning
    least = choose(all_plans, need, 1 << 20)
    assert (least.plan.micro_batch, least.fits) == (1, False)


def test_each_failure_takes_less_until_nothing_is_left(make_config: MakeConfig) -> None:
    config = configured(make_config, training__batch_size=12)
    found, plan = [], make_plan(config, world())
    while (limit := smaller(config, plan)) is not None:
        plan = next(options(config, world(), plan, limit))
        found.append(str(plan).removeprefix("ZeRO 0, micro-batch "))
    assert found == ["6 x 2", "3 x 4", "1 x 12", "1 x 12, gradient checkpointing"]
