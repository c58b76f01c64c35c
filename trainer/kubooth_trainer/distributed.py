"""Which rank this is, on which device, and the few collectives the trainer uses outside DeepSpeed.

Tensors only: nothing is pickled between ranks. Every rank must call every method marked "collective".
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist

PROCESS_GROUP_TIMEOUT = timedelta(hours=2)  # longer than a slow model download by one rank of a node


@dataclass(frozen=True)
class World:
    """The ranks of one training."""

    rank: int
    size: int
    local_rank: int
    local_size: int
    device: torch.device

    @property
    def is_main(self) -> bool:
        return self.rank == 0

    @property
    def leads_node(self) -> bool:
        """True on the rank of each node that writes shared files of that node."""
        return self.local_rank == 0

    def barrier(self) -> None:
        """Collective."""
        if self.size > 1:
            dist.barrier()

    def any(self, flag: bool) -> bool:
        """True where the flag is set on any rank. Collective."""
        if self.size == 1:
            return flag
        value = torch.tensor([int(flag)], device=self.device)
        dist.all_reduce(value, op=dist.ReduceOp.MAX)
        return bool(value.item())

    def all_true(self, flags: list[bool]) -> list[bool]:
        """Element-wise: True where every rank says True. Collective."""
        if self.size == 1 or not flags:
            return flags
        value = torch.tensor([int(flag) for flag in flags], device=self.device)
        dist.all_reduce(value, op=dist.ReduceOp.MIN)
        return [bool(flag) for flag in value.tolist()]

    def mean(self, value: torch.Tensor) -> torch.Tensor:
        """Element-wise mean over ranks, of the same shape everywhere. Collective."""
        if self.size > 1:
            dist.all_reduce(value)
            value /= self.size
        return value

    def gather(self, value: torch.Tensor) -> list[torch.Tensor]:
        """The tensors of all ranks, of one shape, on the CPU, in rank order. Collective."""
        if self.size == 1:
            return [value.cpu()]
        value = value.to(self.device).contiguous()
        parts = [torch.empty_like(value) for _ in range(self.size)]
        dist.all_gather(parts, value)
        return [part.cpu() for part in parts]


def join() -> World:
    """Joins the process group that torchrun's environment describes. Collective; called once."""
    use_cuda = torch.cuda.is_available()
    if not use_cuda:
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
    import deepspeed
    from accelerate import PartialState
    from deepspeed.ops import __compatible_ops__

    # On CPUs DeepSpeed would compile a shared-memory collective at start, and fail where there is no compiler.
    __compatible_ops__["deepspeed_shm_comm"] = False
    local_rank = int(os.environ.get("LOCAL_RANK", "0"))
    device = torch.device("cuda", local_rank) if use_cuda else torch.device("cpu")
    if use_cuda:
        torch.cuda.set_device(device)
    deepspeed.init_distributed(
        "nccl" if use_cuda else "gloo", auto_mpi_discovery=False, verbose=False, timeout=PROCESS_GROUP_TIMEOUT
    )
    state = PartialState(cpu=not use_cuda)
    return World(
        rank=state.process_index,
        size=state.num_processes,
        local_rank=state.local_process_index,
        local_size=int(os.environ.get("LOCAL_WORLD_SIZE", "1")),
        device=device,
    )
