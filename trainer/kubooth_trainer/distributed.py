"""Which rank this is, on which device, and the few collectives the trainer uses outside DeepSpeed.

Tensors only: nothing is pickled between ranks. Every rank must call every method marked "collective".

Nobody waits for ever. Collectives of the device's group are entered at about the same time by all, and time out.
Where ranks wait for one that downloads, encodes or uploads, they wait in `barrier`, in a group of its own that has no
such limit: a peer that dies closes its connection and ends the wait at once, and against one that went silent there
is the watchdog, which hears by way of `Pulse` whether any rank still moves.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist

from kubooth_trainer.company import without_company

COLLECTIVE_SLACK = timedelta(seconds=60)  # the watchdog, which can say where ranks hang, comes first
BARRIER_TIMEOUT = timedelta(days=7)  # the longest deadline that a job may set for the watchdog
MOVES = "kubooth/moves"


@dataclass(frozen=True)
class World:
    """The ranks of one training."""

    rank: int
    size: int
    local_rank: int
    local_size: int
    device: torch.device
    waiting: dist.ProcessGroup | None = None  # where ranks wait for others; None: in the default group

    @property
    def is_main(self) -> bool:
        return self.rank == 0

    @property
    def leads_node(self) -> bool:
        """True on the rank of each node that writes shared files of that node."""
        return self.local_rank == 0

    def barrier(self) -> None:
        """Waits until all ranks are here, however long the work of one takes. Collective."""
        if self.size > 1:
            dist.barrier(group=self.waiting)

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

    def broadcast(self, value: torch.Tensor, source: int = 0) -> torch.Tensor:
        """One rank's tensor, on the CPU; the others give one of the same shape and type. Collective."""
        if self.size == 1:
            return value.cpu()
        value = value.to(self.device).contiguous()
        dist.broadcast(value, src=source)
        return value.cpu()

    def as_main(self, numbers: list[int]) -> list[int]:
        """Rank 0's numbers, however many, on all ranks. Collective."""
        count = int(self.broadcast(torch.tensor(len(numbers))))
        if not count:
            return []
        own = torch.tensor(numbers if self.is_main else [0] * count, dtype=torch.int64)
        return [int(number) for number in self.broadcast(own).tolist()]


def join(stall_seconds: float) -> World:
    """Joins the process group that torchrun's environment describes. Collective; called once."""
    use_cuda = torch.cuda.is_available()
    if not use_cuda:
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
    with without_company():
        import deepspeed
        from accelerate import PartialState

        if not use_cuda:
            # DeepSpeed would compile a shared-memory collective at start, and fail where there is no compiler. On GPUs
            # it does not, and to look at these would try out every kernel's builder.
            from deepspeed.ops import __compatible_ops__

            __compatible_ops__["deepspeed_shm_comm"] = False
    local_rank = int(os.environ.get("LOCAL_RANK", "0"))
    device = torch.device("cuda", local_rank) if use_cuda else torch.device("cpu")
    if use_cuda:
        torch.cuda.set_device(device)
    timeout = timedelta(seconds=stall_seconds) + COLLECTIVE_SLACK
    _set_default_timeout(timeout)
    deepspeed.init_distributed("nccl" if use_cuda else "gloo", auto_mpi_discovery=False, verbose=False, timeout=timeout)
    state = PartialState(cpu=not use_cuda)
    return World(
        rank=state.process_index,
        size=state.num_processes,
        local_rank=state.local_process_index,
        local_size=int(os.environ.get("LOCAL_WORLD_SIZE", "1")),
        device=device,
        waiting=dist.new_group(backend="gloo", timeout=BARRIER_TIMEOUT) if state.num_processes > 1 else None,
    )


def _store() -> Any:
    """A connection of its own to the store that the ranks met at."""
    return dist.TCPStore(  # type: ignore[attr-defined]
        os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]), is_master=False, wait_for_workers=False
    )


def _set_default_timeout(timeout: timedelta) -> None:
    """For groups made without one, as DeepSpeed's clone of the world is: torch would give them 10 or 30 minutes.

    torch has no setting for it, and DeepSpeed passes none on (`deepspeed.utils.groups._clone_world_group`).
    """
    dist.distributed_c10d.default_pg_timeout = timeout
    dist.distributed_c10d.default_pg_nccl_timeout = timeout  # type: ignore[attr-defined]


class Tickets:
    """Pieces of work, handed out one by one to whoever is free, by counters in the store that the ranks met at."""

    def __init__(self, world: World, name: str) -> None:
        """`name` is used once in the life of the ranks."""
        self._taken, self._finished = f"kubooth/{name}/taken", f"kubooth/{name}/finished"
        self._store: Any = _store() if world.size > 1 else dist.HashStore()  # type: ignore[attr-defined]

    def take(self) -> int:
        """The next number from 0, given to no other rank."""
        return int(self._store.add(self._taken, 1)) - 1

    def finish(self) -> int:
        """A piece is done; how many are, on all ranks."""
        return int(self._store.add(self._finished, 1))

    def close(self) -> None:
        """No piece has a number that small any more."""
        self._store.add(self._taken, 1 << 40)


class Pulse:
    """News of work on other ranks, by way of the store that the ranks met at.

    One counter for all: adding this rank's moves to it also reads it, and a sum that is more than one's own moves
    means that somebody else moved. Beside the collectives, since a rank that waits in one cannot ask.
    """

    def __init__(self, seconds: float, on_news: Callable[[], None]) -> None:
        """Asks every `seconds`, over a connection of its own, from a thread that ends with the process."""
        self._seconds = seconds
        self._on_news = on_news
        self._moves = 0
        threading.Thread(target=self._run, name="pulse", daemon=True).start()

    def moved(self) -> None:
        """This rank has moved. Any thread may call it."""
        self._moves += 1

    def _run(self) -> None:
        try:
            store = _store()
            known = store.add(MOVES, 0)
            while True:
                time.sleep(self._seconds)
                mine, self._moves = self._moves, 0
                total = store.add(MOVES, mine)
                if total != known + mine:
                    self._on_news()
                known = total
        except RuntimeError:
            return  # the store went with its node: collectives fail of themselves, and the watchdog hears no more news
