"""Fits a training into the memory there is: an estimate before it begins, and a smaller micro-batch where that erred.

One rank out of memory leaves its peers in a collective, so all start again. What was found out is noted beside the
checkpoints: the launcher's next start, or the next attempt on a cluster, reads it there. The batch of a step stays as
it is, and draws are indexed by sample: what is learned does not change.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Any

import torch

from kubooth_trainer.adamw8bit import CPU_STEP_BYTES, MOMENT_BYTES
from kubooth_trainer.batches import TrainInputs
from kubooth_trainer.checkpoint_claim import require_claim
from kubooth_trainer.claim import Claim
from kubooth_trainer.config import TrainConfig
from kubooth_trainer.distributed import World
from kubooth_trainer.errors import (
    DeviceOutOfMemoryError,
    HostOutOfMemoryError,
    KuboothError,
    SmallerBatchError,
    StorageDeniedError,
)
from kubooth_trainer.families import Conditioning
from kubooth_trainer.memory import (
    LIBRARIES_BYTES,
    USABLE,
    Need,
    Shape,
    count_activations,
    device_bytes,
    host_bytes,
    need_of,
)
from kubooth_trainer.methods.dreambooth import Trainee, parameter_groups
from kubooth_trainer.outcome import failure_of
from kubooth_trainer.plan import Choice, Limit, Plan, choose, in_gib, options, smaller
from kubooth_trainer.progress import Reporter

NOTE = "memory/limit.json"  # below the job's checkpoint URI


@dataclass(frozen=True, kw_only=True)
class MemoryNote:
    """What earlier starts of a training found out about memory. `identity` is that of its checkpoints."""

    claim: Claim
    identity: str

    @property
    def _location(self) -> str:
        return self.claim.storage.join(self.claim.uri, NOTE)

    def write(self, limit: Limit) -> None:
        """Raises as `require_claim`: a successor has found out for itself."""
        require_claim(self.claim)
        content = {"identity": self.identity, **asdict(limit)}
        self.claim.storage.write_bytes(self._location, json.dumps(content).encode())

    def read(self, world: World) -> Limit | None:
        """Rank 0's answer, on all ranks. Collective."""
        found = self._read() if world.is_main else None
        told = [found.micro_batch, int(found.gradient_checkpointing)] if found else [0, 0]
        micro_batch, checkpointing = world.broadcast(torch.tensor(told, dtype=torch.int64)).tolist()
        return Limit(micro_batch=micro_batch, gradient_checkpointing=bool(checkpointing)) if micro_batch else None

    def _read(self) -> Limit | None:
        try:
            content = json.loads(self.claim.storage.read_bytes(self._location))
            if content.pop("identity") != self.identity:
                return None
            return Limit(**content)
        except (StorageDeniedError, ValueError, KeyError, TypeError):  # none there, or not one of ours
            return None


def fit(
    config: TrainConfig,
    plan: Plan,
    world: World,
    *,
    trainee: Trainee,
    inputs: TrainInputs,
    prompts: torch.Tensor | Conditioning,
    limit: Limit | None,
) -> Choice:
    """The plan that is trained by. `trainee` is on the CPU still. Collective."""
    in_8bit = config.training.optimizer == "AdamW8bit"
    halves = 1 if inputs.class_latents is None else 2
    groups = parameter_groups(trainee, config.training)
    parameters = sum(parameter.numel() for group in groups for parameter in group["params"])
    activations = count_activations(
        trainee, _one_sample(inputs, prompts), dtype=plan.dtype, fused_attention=world.device.type == "cuda"
    )

    def need(plan: Plan) -> Need:
        found = need_of(
            parameters,
            activations,
            Shape(
                zero_stage=plan.zero_stage,
                bf16=plan.bf16,
                samples=halves * plan.micro_batch,
                gradient_checkpointing=plan.gradient_checkpointing,
                ranks=world.size,
                moment_bytes=MOMENT_BYTES if in_8bit else 8,
                step_bytes=CPU_STEP_BYTES if in_8bit and world.device.type != "cuda" else 0,
                offload=config.parallelism.offload == "Optimizer",
                pinned=world.device.type == "cuda",
                ema=config.training.ema is not None,
            ),
        )
        return found if world.device.type == "cuda" else _in_one_memory(found, world)

    return choose(list(options(config, world, plan, limit)), need, device_bytes(world))


def tell(choice: Choice, world: World, limit: Limit | None, reporter: Reporter) -> None:
    """Says what was chosen, and what may go wrong with it."""
    plan = choice.plan
    reporter.info("zeroStage", str(plan.zero_stage))
    reporter.info("microBatch", f"{plan.micro_batch} x {plan.accumulation}")
    reporter.info("memory", choice.reasoning)
    if limit is not None:
        reporter.warn(
            f"memory did not suffice for a larger micro-batch, so training uses {plan}; the images of a step, and so "
            "the losses, are the same"
        )
    if not choice.fits:
        reporter.warn(
            f"training may not fit into memory: {choice.reasoning}. Where it does not, use more devices, a smaller "
            "training.resolution or parallelism.offload: Optimizer (with training.optimizer: AdamW)"
        )
    if world.device.type == "cuda":
        host = choice.need.host["checkpoint"] + world.local_size * (
            LIBRARIES_BYTES + sum(size for name, size in choice.need.host.items() if name != "checkpoint")
        )
        if host > USABLE * host_bytes():
            reporter.warn(
                f"main memory may not suffice: checkpoints written beside the training, and what is offloaded, take "
                f"{in_gib(host)} GiB of {in_gib(host_bytes())}: raise resources.limits.memory in the runtime"
            )


def after(error: Exception, config: TrainConfig, plan: Plan, world: World, note: MemoryNote) -> KuboothError | None:
    """What a failed training ends with where memory was short; None where that was not it. Notes what to try next."""
    reasons = {DeviceOutOfMemoryError.reason}
    if world.device.type != "cuda":
        reasons.add(HostOutOfMemoryError.reason)
    if failure_of(error)[1] not in reasons:
        return None
    limit = smaller(config, plan)
    if limit is None:
        return DeviceOutOfMemoryError(
            f"training.resolution: memory does not suffice for one photo at a time ({plan}). Set "
            "training.gradientCheckpointing: Enabled, parallelism.zeroStage: 3 on more devices or "
            "parallelism.offload: Optimizer (with training.optimizer: AdamW), or lower training.resolution"
        )
    note.write(limit)
    again = ", with gradient checkpointing" if limit.gradient_checkpointing else ""
    return SmallerBatchError(
        f"training.batchSize: memory did not suffice for {plan}; the next start takes micro-batch {limit.micro_batch}"
        f"{again}, and so the same images in each step"
    )


def _one_sample(inputs: TrainInputs, prompts: torch.Tensor | Conditioning) -> tuple[Any, ...]:
    """Arguments of the trainee for a batch of one."""
    first = prompts[:1] if isinstance(prompts, torch.Tensor) else {key: value[:1] for key, value in prompts.items()}
    index = torch.zeros(1, dtype=torch.int64)
    return torch.zeros((1, *inputs.instance_latents.shape)), index, first, index


def _in_one_memory(need: Need, world: World) -> Need:
    """On CPUs the device's memory is the host's, which the ranks of a node share."""
    host = {name: size // world.local_size if name == "checkpoint" else size for name, size in need.host.items()}
    together = {name: need.device.get(name, 0) + host.get(name, 0) for name in (*need.device, *host)}
    return Need(together, {})
