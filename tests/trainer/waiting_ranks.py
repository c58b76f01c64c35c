"""Run by torchrun with two ranks: how ranks wait for each other. Prints one JSON object per observation of rank 0.

The argument is the deadline in seconds. Rank 1 is slow, but moves; then it goes silent, as behind a network that
drops everything.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time

import torch.distributed as dist
from deepspeed.utils import groups

from kubooth_trainer.distributed import Pulse, join
from kubooth_trainer.outcome import write_outcome
from kubooth_trainer.stopping import Watchdog

STALL_SECONDS = float(sys.argv[1])


def tell(**facts: object) -> None:
    print(json.dumps(facts), flush=True)


def timeout_of(group: dist.ProcessGroup) -> float:
    backend = group._get_backend(dist.distributed_c10d._get_default_group()._device_types[0])
    return float(backend.options._timeout.total_seconds())


def main() -> None:
    world = join(STALL_SECONDS)
    write_outcome(world.rank)

    def on_stall(message: str) -> None:
        write_outcome(world.rank, exit_code=75, reason="Stalled", message=message)

    watchdog = Watchdog(STALL_SECONDS, on_stall)
    watchdog.listeners.append(Pulse(0.5, watchdog.heard).moved)
    assert world.waiting is not None
    if world.is_main:
        tell(
            world=timeout_of(dist.distributed_c10d._get_default_group()),
            deepspeeds_clone=timeout_of(groups._clone_world_group()),
            waiting=timeout_of(world.waiting),
        )
    else:
        groups._clone_world_group()
    world.barrier()
    watchdog.start()
    began = time.monotonic()
    if not world.is_main:
        while time.monotonic() - began < 2.5 * STALL_SECONDS:
            time.sleep(0.1)
            watchdog.beat()
    world.barrier()
    watchdog.beat()
    if world.is_main:
        tell(waited=time.monotonic() - began)
    else:
        os.kill(os.getpid(), signal.SIGSTOP)
    world.any(False)
    raise AssertionError("the silent peer has answered")


if __name__ == "__main__":
    main()
