"""How a checkpoint lies in storage: whole or absent, free of pickle, of world size and of ZeRO stage (but for moments
in 8 bits).

Layout under the job's checkpoint URI:

    attempt-1/step-000100/weights.safetensors      fp32 master weights, by parameter name
                          exp_avg.safetensors      Adam's first moment
                          exp_avg_sq.safetensors   Adam's second moment
                          moments_8bit.safetensors in place of both with AdamW8bit: the optimizer's bytes, by shard
                          ema.safetensors          where an average is kept
                          checkpoint.json          written last: step, identity, size and SHA-256 of each file and of
                                                   this one, and with AdamW8bit the sharding that it goes on at

A folder without `checkpoint.json` does not exist for us. Beside the attempts lies a claim (`kubooth-job.json`), which
an attempt takes when it starts (`checkpoint_claim`).
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from kubooth_trainer.storage import Storage

FORMAT_VERSION = 1
MANIFEST = "checkpoint.json"
DIGEST = "sha256"  # of the manifest itself, in it; earlier releases wrote none
READ_BYTES = 1 << 24
_NAME = re.compile(rf"attempt-(?P<attempt>\d+)/step-(?P<step>\d+)/{re.escape(MANIFEST)}")


def folder_of(attempt: int, step: int) -> str:
    """A checkpoint's folder, relative to the job's checkpoint URI."""
    return f"attempt-{attempt}/step-{step:06d}"


def copy_folder(scratch: Path, step: int) -> Path:
    """Where this machine keeps a checkpoint that lies in a bucket, to read it."""
    return scratch / f"resume-{step:06d}"


def drop_copies(scratch: Path) -> None:
    """Makes room for another one."""
    for copy in scratch.glob("resume-*"):
        shutil.rmtree(copy, ignore_errors=True)


def whole_checkpoints(storage: Storage, uri: str) -> list[tuple[int, int]]:
    """(step, attempt) of everything that has a manifest, newest first."""
    names = (_NAME.fullmatch(entry.name) for entry in storage.list(uri))
    return sorted(((int(name["step"]), int(name["attempt"])) for name in names if name), reverse=True)


def write_tensors(path: Path, tensors: dict[str, torch.Tensor]) -> dict[str, Any]:
    """Writes a file that is on disk when this returns; its entry for the manifest."""
    save_file({name: value.contiguous() for name, value in tensors.items()}, path)
    with path.open("rb") as file:
        os.fsync(file.fileno())
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return {"name": path.name, "size": path.stat().st_size, "sha256": digest}


def manifest_digest(manifest: dict[str, Any]) -> str:
    """SHA-256 of what a manifest says, but for the digest itself."""
    content = {name: value for name, value in manifest.items() if name != DIGEST}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def verify(folder: Path, manifest: dict[str, Any], moved: Callable[[], None]) -> str | None:
    """What is wrong with a folder, or None where every file has its size and digest. `moved` is told of the reading."""
    for entry in manifest["files"]:
        path = folder / entry["name"]
        if not path.exists():
            return f"{entry['name']} is missing"
        if path.stat().st_size != entry["size"]:
            return f"{entry['name']} is truncated"
        digest = hashlib.sha256()
        with path.open("rb") as file:
            while part := file.read(READ_BYTES):
                digest.update(part)
                moved()
        if digest.hexdigest() != entry["sha256"]:
            return f"{entry['name']} is corrupt"
    return None
