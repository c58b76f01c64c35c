"""What `Auto` means on this machine: precision, ZeRO stage, micro-batch, gradient checkpointing."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from kubooth_trainer.config import TrainConfig
from kubooth_trainer.distributed import World
from kubooth_trainer.engine import effective_stage
from kubooth_trainer.errors import ConfigError

BYTES_PER_PARAMETER = 16  # bf16 weights and gradients, fp32 master weights and two moments
ACTIVATION_BYTES = 12 << 30  # SD 1.5 at 512 px, one sample, without checkpointing: an upper bound


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


def make_plan(config: TrainConfig, world: World) -> Plan:
    """Fits the config to this machine. Raises ConfigError for a combination that cannot be run."""
    training = config.training
    if config.world_size != world.size:
        raise ConfigError(
            f"parallelism: the configuration asks for {config.world_size} ranks, but {world.size} were started"
        )
    bf16 = training.precision == "BF16" or (training.precision == "Auto" and multiplies_bf16(world.device))
    accumulation = 1 if training.gradient_accumulation == "Auto" else training.gradient_accumulation
    if training.batch_size % (world.size * accumulation):
        raise ConfigError(
            f"training.batchSize: {training.batch_size} images per step cannot be shared out evenly over "
            f"{world.size} ranks x {accumulation} accumulation steps; use a multiple of {world.size * accumulation}"
        )
    stage = config.parallelism.zero_stage
    if stage == "Auto":
        stage = 0 if world.size == 1 else 2
    checkpointing = training.gradient_checkpointing == "Enabled" or (
        training.gradient_checkpointing == "Auto" and _is_small(world.device)
    )
    return Plan(
        bf16=bf16,
        zero_stage=effective_stage(stage, bf16=bf16),
        micro_batch=training.batch_size // (world.size * accumulation),
        accumulation=accumulation,
        gradient_checkpointing=checkpointing,
    )


def multiplies_bf16(device: torch.device) -> bool:
    """True where the hardware has bf16 matrix or vector products (on CPUs: AMX or AVX-512 BF16)."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    try:
        flags = Path("/proc/cpuinfo").read_text().split()
    except OSError:
        return False
    return "amx_bf16" in flags or "avx512_bf16" in flags


def _is_small(device: torch.device) -> bool:
    """True where SD 1.5 with its text encoder would not fit without gradient checkpointing."""
    if device.type != "cuda":
        return False
    total: int = torch.cuda.get_device_properties(device).total_memory
    return total < 1_000_000_000 * BYTES_PER_PARAMETER + ACTIVATION_BYTES
