"""Everything that knows DeepSpeed: building the engine, and taking master weights and moments out of it and back.

State is read and written parameter by parameter as full fp32 tensors, so it knows nothing of the number of ranks or
the ZeRO stage it came from; moments in 8 bits are the exception. DeepSpeed's own checkpoints (pickles tied to the
world size) are not used.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import torch
from torch import nn

from kubooth_trainer.adamw8bit import make_adamw8bit, packed, unpacked
from kubooth_trainer.errors import ConfigError

MOMENTS = ("exp_avg", "exp_avg_sq")
MOMENTS_8BIT = "moments_8bit"
BUCKET_ELEMENTS = 1 << 24  # gradient bucket: the default of 5e8 would take gigabytes for a small model


@dataclass(frozen=True, kw_only=True)
class EngineOptions:
    """What the engine needs beside the module; batch sizes are in instance images."""

    zero_stage: int
    bf16: bool
    micro_batch: int
    accumulation: int
    world_size: int
    max_grad_norm: float
    optimizer: Literal["AdamW", "AdamW8bit"]
    betas: tuple[float, float]
    epsilon: float
    weight_decay: float
    offload: bool  # optimizer and master weights in main memory; ZeRO 2 or 3


@dataclass(frozen=True)
class Sharding:
    """How the state of a training is laid out. `parts`: as many as ranks, but 1 at stage 0: all hold the same."""

    zero_stage: int
    parts: int

    @classmethod
    def of(cls, zero_stage: int, ranks: int) -> Sharding:
        return cls(zero_stage, ranks if zero_stage else 1)


def effective_stage(zero_stage: int, *, bf16: bool) -> int:
    """ZeRO 0 in bf16 keeps no reachable master weights in DeepSpeed: stage 1 is used, with the same arithmetic."""
    return 1 if bf16 and zero_stage == 0 else zero_stage


def build_engine(module: nn.Module, groups: list[dict[str, Any]], options: EngineOptions) -> Any:
    """A DeepSpeed engine over `module`. Collective."""
    import deepspeed
    from deepspeed.runtime.zero import stage3, stage_1_and_2

    settings: dict[str, Any] = {
        "betas": options.betas, "eps": options.epsilon, "weight_decay": options.weight_decay
    }  # fmt: skip
    if options.optimizer == "AdamW8bit":
        optimizer = make_adamw8bit(groups, **settings)
    else:
        # Fused on CPUs too: one pass over ZeRO's flat vector instead of a dozen is ten times faster there.
        optimizer = torch.optim.AdamW(groups, **settings, fused=True)
    is_cuda = next(module.parameters()).device.type == "cuda"
    config = {
        "train_micro_batch_size_per_gpu": options.micro_batch,
        "gradient_accumulation_steps": options.accumulation,
        "train_batch_size": options.micro_batch * options.accumulation * options.world_size,
        "gradient_clipping": options.max_grad_norm,
        # Overflow is ours to judge (`Meter`, `Checkpoints`): DeepSpeed would read every gradient once more, wait for
        # the device in each step, and leave such steps out without a word.
        "bf16": {"enabled": options.bf16, "check_grad_overflow": False},
        "zero_optimization": {
            "stage": options.zero_stage,
            "reduce_bucket_size": BUCKET_ELEMENTS,
            "allgather_bucket_size": BUCKET_ELEMENTS,
            "overlap_comm": is_cuda and options.world_size > 1,  # it waits for the device twice a step
            **({"offload_optimizer": {"device": "cpu", "pin_memory": is_cuda}} if options.offload else {}),
        },
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
        "wall_clock_breakdown": False,
        "timers": {"throughput": {"enabled": False}},  # it waits for the device at both ends of a step
        "steps_per_print": 1 << 30,
    }
    for stage in (stage_1_and_2, stage3):
        stage.is_invalid_grad_norm = _is_clipped_as_it_is
    engine, *_ = deepspeed.initialize(model=module, optimizer=optimizer, config=config)
    if options.world_size == 1 and options.zero_stage == 0:
        # One rank has nobody to average with; DeepSpeed would copy all gradients into buckets and back all the same.
        engine.enable_backward_allreduce = False
    return engine


def _is_clipped_as_it_is(_norm: torch.Tensor) -> bool:
    """In the place of DeepSpeed's look at the norm, for which host and device wait for each other in every step.

    Clipped by an infinite norm, gradients that are not finite become nan: so do the weights, and the next loss.
    """
    return False


def engine_state(engine: Any, options: EngineOptions) -> EngineState:
    """The state of an engine that was built with these options."""
    kind = EngineState8bit if options.optimizer == "AdamW8bit" else EngineState
    return kind(engine, zero_stage=options.zero_stage)


class EngineState:
    """Master weights and Adam moments of an engine, as full fp32 tensors by parameter name."""

    kinds: tuple[str, ...] = MOMENTS
    """What there is beside the weights."""

    def __init__(self, engine: Any, *, zero_stage: int) -> None:
        self._engine = engine
        self._stage = zero_stage
        self._parameters = {
            name: parameter for name, parameter in engine.module.named_parameters() if parameter.requires_grad
        }

    @property
    def names(self) -> list[str]:
        return list(self._parameters)

    @property
    def sharding(self) -> Sharding | None:
        """What the state is tied to; None: it fits any."""
        return None

    def shards(self) -> list[torch.Tensor]:
        """This rank's part of the master weights, as flat fp32 tensors that the optimizer updates in place."""
        optimizer = self._engine.optimizer
        if self._stage == 0:
            return list(self._parameters.values())
        if self._stage == 3:
            return list(optimizer.fp32_partitioned_groups_flat)
        return list(optimizer.single_partition_of_fp32_groups)

    def weights(self) -> Iterator[tuple[str, torch.Tensor]]:
        """(name, fp32 weight on the device) for every parameter, each good until training goes on. Collective."""
        for name, parameter in self._parameters.items():
            yield name, self._full(parameter, None)

    def moments(self, kind: str) -> Iterator[tuple[str, torch.Tensor]]:
        """(name, moment on the device) of one of `kinds`, after at least one step; as good as `weights`. Collective."""
        self._link()
        for name, parameter in self._parameters.items():
            yield name, self._full(parameter, kind)

    def restore(self, *, step: int, read: Callable[[str, str], torch.Tensor]) -> None:
        """Sets weights and moments from `read(kind, name)`, kind in ("weights", *kinds), as after `step` steps."""
        self._restore_moments(step, read)
        for name in self._parameters:
            self.set_weight(name, read("weights", name))

    def _restore_moments(self, step: int, read: Callable[[str, str], torch.Tensor]) -> None:
        state = self._optimizer_state()
        for shard in self.shards():
            state[shard] = {
                "step": torch.tensor(float(step), device=shard.device),  # where fused AdamW keeps it
                **{key: torch.zeros_like(shard, requires_grad=False) for key in MOMENTS},
            }
        self._link()
        for name, parameter in self._parameters.items():
            for key in MOMENTS:
                self._set(parameter, key, read(key, name))

    def set_weight(self, name: str, value: torch.Tensor) -> None:
        """Sets a master weight and the working weight that the next forward uses."""
        parameter = self._parameters[name]
        self._set(parameter, None, value)
        with torch.no_grad():
            if self._stage == 3:
                working: torch.Tensor = parameter.ds_tensor
                working.copy_(self._partition(parameter, value).to(working.dtype))
            else:
                parameter.copy_(value.to(parameter.device, parameter.dtype))

    def _inner(self) -> torch.optim.Optimizer:
        optimizer = self._engine.optimizer
        return optimizer if self._stage == 0 else optimizer.optimizer  # type: ignore[no-any-return]

    def _optimizer_state(self) -> dict[torch.Tensor, dict[str, torch.Tensor]]:
        return self._inner().state

    def _link(self) -> None:
        # With several parameter groups ZeRO 1 and 2 link the moments of the first group only: link them all again.
        if self._stage in (1, 2):
            self._engine.optimizer._hp_optimizer_states_linked = False
            self._engine.optimizer._lazy_init_hp_params_optimizer_state()

    def _full(self, parameter: nn.Parameter, key: str | None) -> torch.Tensor:
        from deepspeed.utils import safe_get_full_fp32_param, safe_get_full_optimizer_state

        if self._stage == 0:
            value = parameter.detach() if key is None else self._optimizer_state()[parameter][key]
        elif key is None:
            value = safe_get_full_fp32_param(parameter)
        else:
            value = safe_get_full_optimizer_state(parameter, key)
        shape: torch.Size = getattr(parameter, "ds_shape", parameter.shape)
        return value.detach().reshape(shape).float()

    def _set(self, parameter: nn.Parameter, key: str | None, value: torch.Tensor) -> None:
        from deepspeed.utils import (
            safe_set_full_fp32_param,
            safe_set_full_optimizer_state,
            safe_set_local_fp32_param,
            safe_set_local_optimizer_state,
        )

        with torch.no_grad():
            if self._stage == 0:
                target = parameter.data if key is None else self._optimizer_state()[parameter][key]
                target.copy_(value)
            elif self._stage == 3:
                part = self._partition(parameter, value)
                if key is None:
                    safe_set_local_fp32_param(parameter, part)
                else:
                    safe_set_local_optimizer_state(parameter, part, key)
            elif key is None:
                safe_set_full_fp32_param(parameter, value.to(parameter.device))
            else:
                safe_set_full_optimizer_state(parameter, value.to(parameter.device), key)

    def _partition(self, parameter: nn.Parameter, value: torch.Tensor) -> torch.Tensor:
        """This rank's part of a full tensor at ZeRO 3, zero-padded as DeepSpeed pads it."""
        size = parameter.ds_tensor.numel()  # type: ignore[attr-defined]
        rank = torch.distributed.get_rank()
        flat = torch.zeros(size * torch.distributed.get_world_size(), dtype=torch.float32)
        flat[: value.numel()] = value.flatten()
        return flat[size * rank : size * (rank + 1)].to(parameter.ds_tensor.device)  # type: ignore[attr-defined]


class EngineState8bit(EngineState):
    """The same with AdamW8bit: moments are the optimizer's bytes, by the part of the state that they belong to."""

    kinds = (MOMENTS_8BIT,)

    @property
    def sharding(self) -> Sharding:
        return Sharding.of(self._stage, torch.distributed.get_world_size())

    def moments(self, kind: str) -> Iterator[tuple[str, torch.Tensor]]:
        assert kind == MOMENTS_8BIT
        rank = torch.distributed.get_rank()
        for part in range(self.sharding.parts):
            for index, shard in enumerate(self.shards()):
                for key, value in packed(self._optimizer_state()[shard]).items():
                    if self._stage:  # shards of all ranks have one size
                        value = value if rank == part else torch.empty_like(value)
                        torch.distributed.broadcast(value, src=part)
                    yield f"{part}/{index}/{key}", value

    def _restore_moments(self, step: int, read: Callable[[str, str], torch.Tensor]) -> None:
        part = torch.distributed.get_rank() if self._stage else 0
        state = self._optimizer_state()
        for index, shard in enumerate(self.shards()):
            try:
                state[shard] = unpacked(
                    self._inner(), shard, step=step, prefix=f"{part}/{index}", read=partial(read, MOMENTS_8BIT)
                )
            except ValueError as error:
                raise ConfigError(
                    "training.optimizer: the moments in 8 bits of the checkpoint were laid out by another trainer "
                    f"({error}); go on with that one, or delete the checkpoint"
                ) from error
