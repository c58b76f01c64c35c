"""Which devices this machine offers, found without importing torch, for `kubooth run` to start ranks on."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

_GPU = re.compile(r"^GPU \d+:.*\(UUID: (?P<uuid>[^)]+)\)")
_MIG = re.compile(r"^\s+MIG .*\(UUID: (?P<uuid>[^)]+)\)")


@dataclass(frozen=True)
class Devices:
    """The ranks to start: how many, on what, and the CPU threads of each (None: left to the libraries)."""

    kind: Literal["GPU", "CPU"]
    ranks: int
    threads_per_rank: int | None

    def __str__(self) -> str:
        if self.kind == "GPU":
            return f"{self.ranks} GPU" + ("s" if self.ranks > 1 else "")
        threads = self.threads_per_rank
        each = f", {threads} thread{'s' if threads > 1 else ''} each" if threads else ""
        return f"CPU, {self.ranks} rank{'s' if self.ranks > 1 else ''}{each}"


class NotEnoughDevicesError(ValueError):
    """More ranks were asked for than there are GPUs."""


def find_devices(asked: int | None, environment: Mapping[str, str]) -> Devices:
    """The devices of this machine, or `asked` of them.

    Raises:
        NotEnoughDevicesError: `asked` exceeds the GPUs that CUDA would show.
    """
    gpus = visible_gpus(_nvidia_smi(), environment.get("CUDA_VISIBLE_DEVICES"))
    return choose(asked, gpus=gpus, cores=_cores(), threads_set="OMP_NUM_THREADS" in environment)


def choose(asked: int | None, *, gpus: int, cores: int, threads_set: bool) -> Devices:
    """All GPUs unless fewer are asked for; without GPUs one CPU rank unless more are asked for. Pure."""
    if gpus:
        ranks = asked or gpus
        if ranks > gpus:
            raise NotEnoughDevicesError(
                f"--devices {ranks}: this machine shows {gpus} GPU{'s' if gpus > 1 else ''}; "
                f'ask for at most {gpus}, or set CUDA_VISIBLE_DEVICES="" to use the CPU'
            )
        return Devices("GPU", ranks, None)
    ranks = asked or 1
    return Devices("CPU", ranks, None if threads_set else max(1, cores // ranks))


def visible_gpus(listing: str, selection: str | None) -> int:
    """How many devices CUDA shows, from `nvidia-smi -L` and CUDA_VISIBLE_DEVICES (None: not set). Pure.

    As CUDA does, the selection ends at its first entry that names no device; of MIG slices CUDA shows one
    unless they are selected by UUID.
    """
    gpus = [found["uuid"] for line in listing.splitlines() if (found := _GPU.match(line))]
    slices = [found["uuid"] for line in listing.splitlines() if (found := _MIG.match(line))]
    if selection is None:
        return 1 if slices else len(gpus)
    count = 0
    for entry in (part.strip() for part in selection.split(",")):
        by_number = entry.isdecimal() and int(entry) < len(gpus)
        by_uuid = entry.startswith(("GPU-", "MIG-")) and any(uuid.startswith(entry) for uuid in gpus + slices)
        if not (by_number or by_uuid):
            break
        count += 1
    return count


def _nvidia_smi() -> str:
    try:
        listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=30, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return listed.stdout if listed.returncode == 0 else ""


def _cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
