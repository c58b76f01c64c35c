"""What a record says of where it was made: the processor, the versions, the sources. No names, no paths."""

from __future__ import annotations

import os
import platform
import subprocess
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

PACKAGES = ("torch", "deepspeed", "diffusers", "transformers", "accelerate")
TELLING_FLAGS = (
    "avx2", "avx512f", "avx512_vnni", "avx512_bf16", "avx512_fp16", "amx_tile", "amx_bf16", "amx_int8",
)  # fmt: skip


def machine() -> dict[str, Any]:
    flags = set(_cpu_field("flags").split())
    return {
        "cpu": _cpu_field("model name") or platform.machine(),
        "cpu_family_model": f"{_cpu_field('cpu family')}/{_cpu_field('model')}",
        "vendor": _cpu_field("vendor_id"),
        "cores": cores(),
        "flags": [flag for flag in TELLING_FLAGS if flag in flags],
        "has_amx": "amx_bf16" in flags,
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
    }


def cores() -> int:
    """Those that this process may use."""
    return len(os.sched_getaffinity(0))


def versions(packages: Sequence[str] = PACKAGES) -> dict[str, str]:
    return {"python": platform.python_version(), **{name: version(name) for name in packages}}


def sources(root: Path, *folders: str) -> dict[str, Any]:
    """The commit, and whether `folders` (the trainer where none is named) or the benchmarks differ from it.

    BENCH_COMMIT names it where the files came without their repository.
    """
    which = folders or ("trainer",)
    changed = _git(root, "status", "--porcelain", "--untracked-files=no", "--", *which, "bench/*.py")
    commit = _git(root, "rev-parse", "HEAD") or os.environ.get("BENCH_COMMIT", "")
    return {"commit": commit, "uncommitted_changes": bool(changed)}


def _git(root: Path, *arguments: str) -> str:
    """What git says; nothing where there is none, or no repository: figures are worth keeping all the same."""
    try:
        told = subprocess.run(["git", "-C", str(root), *arguments], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return ""
    return told.stdout.strip()


def _cpu_field(name: str) -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        key, _, value = line.partition(":")
        if key.strip() == name:
            return value.strip()
    return ""
