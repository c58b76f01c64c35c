"""What `Auto` means on this machine: precision, ZeRO stage, micro-batch, gradient checkpointing.

`make_plan` runs at the start, and settles what needs no model. Once the model is loaded, `choose` takes the first of
`options` whose memory fits: docs/decisions/0016 says why in this order.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import torch

from kubooth_trainer.config import TrainConfig
from kubooth_trainer.distributed import World
from kubooth_trainer.engine import Sharding, effective_stage
from kubooth_trainer.errors import ConfigError
from kubooth_trainer.memory import GIB, Need


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The decisions. Batches are in instance images; `accumulation` micro-batches make one optimizer step."""

    bf16: bool
    zero_stage: int
    micro_batch: int
    accumulation: int
    gradient_checkpointing: bool

    @property
    def dtype(self) -> torch.dtype:
        """Of working weights, of sampling and of the exported model."""
        return torch.bfloat16 if self.bf16 else torch.float32

    @property
    def precision(self) -> str:
        return "BF16" if self.bf16 else "FP32"

    def __str__(self) -> str:
        again = ", gradient checkpointing" if self.gradient_checkpointing else ""
        return f"ZeRO {self.zero_stage}, micro-batch {self.micro_batch} x {self.accumulation}{again}"


@dataclass(frozen=True, kw_only=True)
class Limit:
    """What an earlier start of the job found out: more than this does not fit."""

    micro_batch: int
    gradient_checkpointing: bool  # has to be on, where the job leaves it to us


@dataclass(frozen=True, kw_only=True)
class Choice:
    """A plan, the memory it needs, and why it was taken."""

    plan: Plan
    need: Need
    budget: int  # bytes of one rank's device
    reasoning: str
    fits: bool


def make_plan(config: TrainConfig, world: World, *, precision_before: str | None = None) -> Plan:
    """The plan if memory is no matter. Collective. `precision_before`: what earlier starts of the job trained in; with
    `Auto` this one goes on in it. Raises ConfigError for a combination that cannot be run.
    """
    training = config.training
    if config.world_size != world.size:
        raise ConfigError(
            f"parallelism: the configuration asks for {config.world_size} ranks, but {world.size} were started"
        )
    precision: str = training.precision
    if precision == "Auto":
        precision = precision_before or auto_precision(world)
    bf16 = precision == "BF16"
    accumulation = 1 if training.gradient_accumulation == "Auto" else training.gradient_accumulation
    if training.batch_size % (world.size * accumulation):
        raise ConfigError(
            f"training.batchSize: {training.batch_size} images per step cannot be shared out evenly over "
            f"{world.size} ranks x {accumulation} accumulation steps; use a multiple of {world.size * accumulation}"
        )
    return Plan(
        bf16=bf16,
        zero_stage=_stages(config, world, bf16=bf16)[0],
        micro_batch=training.batch_size // (world.size * accumulation),
        accumulation=accumulation,
        gradient_checkpointing=training.gradient_checkpointing == "Enabled",
    )


def going_on(config: TrainConfig, plan: Plan, world: World, saved: Sharding) -> TrainConfig:
    """The config at the ZeRO stage of a checkpoint that is tied to it. Raises ConfigError where that is not to be."""
    stages = _stages(config, world, bf16=plan.bf16)
    if saved.zero_stage not in stages or saved != Sharding.of(saved.zero_stage, world.size):
        there = f"zeroStage {saved.zero_stage}" + (f" on {saved.parts} devices in all" if saved.zero_stage else "")
        raise ConfigError(
            f"parallelism: the checkpoint of this job was saved at {there}, and AdamW8bit goes on only there; set "
            f"these again (this start: {' or '.join(map(str, stages))} on {world.size}), or delete the checkpoints to "
            "begin anew"
        )
    parallelism = config.parallelism.model_copy(update={"zero_stage": saved.zero_stage})
    return config.model_copy(update={"parallelism": parallelism})


def options(config: TrainConfig, world: World, plan: Plan, limit: Limit | None) -> Iterator[Plan]:
    """All plans that the job allows, the fastest first: `plan` and what takes less memory.

    ZeRO 3 sends every weight over the wire twice, so it comes last; checkpointing computes a third more; a smaller
    micro-batch costs little, and ZeRO 1 and 2 next to nothing.
    """
    auto = config.training.gradient_checkpointing == "Auto"
    checkpointing = (False, True) if auto else (plan.gradient_checkpointing,)
    most = plan.micro_batch
    if limit is not None:
        most = min(most, limit.micro_batch)
        checkpointing = checkpointing[-1:] if limit.gradient_checkpointing else checkpointing
    micro_batches = _divisors(config.training.batch_size // world.size, most)
    if config.training.gradient_accumulation != "Auto":
        micro_batches = micro_batches[:1]
    stages = _stages(config, world, bf16=plan.bf16)
    for some in ([stage for stage in stages if stage < 3], [stage for stage in stages if stage == 3]):
        for again in checkpointing:
            for micro_batch in micro_batches:
                for stage in some:
                    yield replace(
                        plan,
                        zero_stage=stage,
                        micro_batch=micro_batch,
                        accumulation=config.training.batch_size // (world.size * micro_batch),
                        gradient_checkpointing=again,
                    )


def choose(plans: Sequence[Plan], need: Callable[[Plan], Need], budget: int) -> Choice:
    """The first that fits by the estimate; where none does, the one that takes the least, and `fits` is False."""
    needs = [need(plan) for plan in plans]
    sizes = [each.device_bytes for each in needs]
    fits = [size <= budget for size in sizes]
    index = fits.index(True) if any(fits) else sizes.index(min(sizes))
    reasoning = f"{plans[index]}: {in_gib(sizes[index])} of {in_gib(budget)} GiB per rank, by the estimate"
    if index:
        reasoning += f"; {plans[0]} would take {in_gib(sizes[0])} GiB"
    return Choice(plan=plans[index], need=needs[index], budget=budget, reasoning=reasoning, fits=any(fits))


def smaller(config: TrainConfig, plan: Plan) -> Limit | None:
    """What to try after `plan` ran out of memory: half the micro-batch, or the next that divides; None: nothing."""
    if plan.micro_batch > 1:
        size = _divisors(plan.micro_batch * plan.accumulation, plan.micro_batch // 2)[0]
        return Limit(micro_batch=size, gradient_checkpointing=plan.gradient_checkpointing)
    if config.training.gradient_checkpointing == "Auto" and not plan.gradient_checkpointing:
        return Limit(micro_batch=1, gradient_checkpointing=True)
    return None


def in_gib(size: int) -> str:
    return f"{size / GIB:.1f}" if size >= GIB else f"{size / GIB:.2f}"


def auto_precision(world: World) -> Literal["BF16", "FP32"]:
    """That of a training which begins here: bf16 where it is the faster on every rank's device. Collective."""
    (is_faster,) = world.all_true([multiplies_bf16(world.device)])
    return "BF16" if is_faster else "FP32"


def multiplies_bf16(device: torch.device) -> bool:
    """True where the hardware multiplies bf16 faster than fp32."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    try:
        return processor_multiplies_bf16(Path("/proc/cpuinfo").read_text())
    except OSError:
        return False


def processor_multiplies_bf16(cpuinfo: str) -> bool:
    """By the text of /proc/cpuinfo: with AMX, or AVX-512 BF16 where that is not Intel's.

    Intel's dot product of bf16 pairs runs on one port of two, so that without AMX bf16 gains no arithmetic and costs
    conversions: a matrix product took 1.8 times as long as in fp32, on an AMD Zen 4 less than in fp32.
    """
    words = set(cpuinfo.split())
    return "amx_bf16" in words or ("avx512_bf16" in words and "GenuineIntel" not in words)


def _stages(config: TrainConfig, world: World, *, bf16: bool) -> list[int]:
    """The ZeRO stages that the job allows, lowest first."""
    wanted, offload = config.parallelism.zero_stage, config.parallelism.offload == "Optimizer"
    if wanted == "Auto":
        lowest = 2 if offload else 0
        found = range(lowest, 4) if world.size > 1 else range(lowest, lowest + 1)
        return sorted({effective_stage(stage, bf16=bf16) for stage in found})
    if offload and wanted < 2:
        raise ConfigError(f"parallelism.offload: Optimizer needs parallelism.zeroStage 2 or 3, got {wanted}")
    return [effective_stage(wanted, bf16=bf16)]


def _divisors(number: int, most: int) -> list[int]:
    """Divisors of `number` that are at most `most`, the largest first."""
    return [size for size in range(most, 0, -1) if number % size == 0]
