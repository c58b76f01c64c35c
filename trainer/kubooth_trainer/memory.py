"""How much memory a training takes, estimated before it begins: what the plan for a machine is chosen by.

Weights, gradients and optimizer follow from the number of parameters (ZeRO paper, arXiv 1910.02054, section 3.1, and
what DeepSpeed 0.19 keeps). What the backward pass needs is counted, not guessed: one sample goes through the model on
torch's meta device, which knows all shapes and computes nothing.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torch.overrides import TorchFunctionMode

from kubooth_trainer.distributed import World
from kubooth_trainer.engine import BUCKET_ELEMENTS

GIB = 1 << 30
USABLE = 0.9  # the rest goes to fragmentation
LIBRARIES_BYTES = 3 * GIB // 2  # of one process: libraries on a host, context and workspaces on a GPU
LIVE_ELEMENTS = 1_000_000_000  # DeepSpeed's stage3_max_live_parameters
CGROUP_LIMITS = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))


@dataclass(frozen=True, kw_only=True)
class Activations:
    """Bytes that one sample's forward pass keeps for its backward pass.

    `checkpointed` with gradient checkpointing: the inputs of all blocks, and one block computed again. `largest` is
    the largest single tensor, for what the backward pass holds beside them.
    """

    full: int
    checkpointed: int
    largest: int


@dataclass(frozen=True, kw_only=True)
class Shape:
    """What decides the memory of a training, but the model. `samples` are those of one micro-batch, both halves."""

    zero_stage: int
    bf16: bool
    samples: int
    gradient_checkpointing: bool
    ranks: int
    moment_bytes: float  # of the optimizer's moments, a parameter
    step_bytes: int  # what a step of the optimizer takes in passing, a parameter
    offload: bool  # optimizer and master weights in main memory
    pinned: bool  # the parts of it that a GPU copies from and to
    ema: bool


@dataclass(frozen=True)
class Need:
    """Bytes by what they are for: `device` of one rank, `host` what each rank needs of main memory beside that.

    With what is offloaded, `host` has DeepSpeed's buffers of gradients and of weights on their way to the device, and
    what is pinned as torch takes it: a power of two.
    """

    device: dict[str, int]
    host: dict[str, int]

    @property
    def device_bytes(self) -> int:
        return sum(self.device.values())


def need_of(parameters: int, activations: Activations, shape: Shape) -> Need:
    """The estimate. `parameters` are the trained numbers."""
    width, ranks, stage = (2 if shape.bf16 else 4), shape.ranks, shape.zero_stage
    part = -(-parameters // ranks) if stage else parameters
    weights = width * parameters
    if stage == 3:
        weights = width * (part + min(parameters, LIVE_ELEMENTS))
    gradients = width * parameters
    if stage >= 2:
        gradients = width * (part + 2 * min(parameters, BUCKET_ELEMENTS))
    master = 4 * part if stage else 0  # at stage 0 in fp32 the weights are the master weights
    optimizer = {"optimizer": master + int(shape.moment_bytes * part), "average": 4 * part if shape.ema else 0}
    # In passing: the gradients in fp32, and the optimizer's own, when nothing of the backward pass is left.
    step_copy = (4 + shape.step_bytes) * part if stage else 0
    kept = activations.checkpointed if shape.gradient_checkpointing else activations.full
    device = {
        "weights": weights,
        "gradients": gradients,
        "activations": max(shape.samples * (kept + 2 * activations.largest), 0 if shape.offload else step_copy),
    }
    host = {"checkpoint": int(parameters * ((8 if shape.ema else 4) + shape.moment_bytes))}
    if shape.offload:
        taken = _power_of_two if shape.pinned else int
        host |= {**optimizer, "gradients": taken(4 * part), "copies": taken(width * part)}
        if stage < 3:
            host["optimizer"] += taken(master) - master
    else:
        device |= optimizer
    return Need(
        {name: size for name, size in device.items() if size}, {name: size for name, size in host.items() if size}
    )


def _power_of_two(size: int) -> int:
    """At least `size`."""
    return 1 << (size - 1).bit_length()


def device_bytes(world: World) -> int:
    """What one rank may use, the same on all ranks and at every start on such machines. Collective."""
    if world.device.type == "cuda":
        total = torch.cuda.get_device_properties(world.device).total_memory
    else:
        total = host_bytes() // world.local_size
    usable = max(0, int(total * USABLE) - LIBRARIES_BYTES)
    return min(int(part) for part in world.gather(torch.tensor(usable, dtype=torch.int64)))


def host_bytes() -> int:
    """The memory of this machine, or of this container where it has a limit."""
    limits = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    for path in CGROUP_LIMITS:
        try:
            limits.append(int(path.read_text()))
        except (OSError, ValueError):  # another version of cgroups, or "max"
            continue
    return min(limits)


def count_activations(
    module: nn.Module, arguments: tuple[Any, ...], *, dtype: torch.dtype, fused_attention: bool
) -> Activations:
    """Counts what the backward pass of `module(*arguments)`, a batch of one, needs. `module.unet` has the blocks.

    The weights of `module` are neither copied nor changed. `fused_attention`: no attention matrix is kept.
    """
    shell: Any = _on_meta(module).to(dtype).train()
    weights = {each.untyped_storage()._cdata for each in shell.parameters()}
    kept: dict[int, torch.UntypedStorage] = {}  # holding them keeps each address to one tensor
    blocks: list[tuple[int, int]] = []

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in weights:
            kept[storage._cdata] = storage
        return tensor

    def block(function: Callable[..., Any], *inputs: Any) -> Any:
        before = _total(kept)
        result = function(*inputs)
        given = sum(each.untyped_storage().nbytes() for each in inputs if isinstance(each, torch.Tensor))
        blocks.append((_total(kept) - before, given))
        return result

    shell.unet.enable_gradient_checkpointing(block)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor), _attention(fused_attention):
        shell(*(_emptied(argument, dtype) for argument in arguments))
    full = _total(kept)
    inside = sum(size for size, _ in blocks)
    return Activations(
        full=full,
        checkpointed=full - inside + sum(given for _, given in blocks) + max((size for size, _ in blocks), default=0),
        largest=max((storage.nbytes() for storage in kept.values()), default=0),
    )


def _total(storages: dict[int, torch.UntypedStorage]) -> int:
    return sum(storage.nbytes() for storage in storages.values())


def _on_meta(module: nn.Module) -> nn.Module:
    """A copy without numbers."""
    shells: dict[int, Any] = {}
    for tensor in (*module.parameters(), *module.buffers()):
        empty = torch.empty_like(tensor, device="meta")
        shells[id(tensor)] = nn.Parameter(empty, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else empty
    return copy.deepcopy(module, shells)


def _emptied(argument: Any, dtype: torch.dtype) -> Any:
    if isinstance(argument, torch.Tensor):
        return argument.to("meta", dtype if argument.is_floating_point() else argument.dtype)
    return {name: _emptied(value, dtype) for name, value in argument.items()}


@contextmanager
def _attention(fused: bool) -> Iterator[None]:
    if not fused:
        yield
        return
    with _FusedAttention():
        yield


class _FusedAttention(TorchFunctionMode):
    """The meta device has no fused attention of its own; any device's keeps the same: inputs, output, row sums."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is F.scaled_dot_product_attention:
            fused = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
            return fused(*args[:3], 0.0, False)[0]
        return func(*args, **(kwargs or {}))
