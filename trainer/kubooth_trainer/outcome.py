"""How each training process tells the launcher that it lives and how it ended: one small file per rank.

torchrun turns every worker's exit code into 1, so the launcher reads the reason here instead.
"""

from __future__ import annotations

import errno
import json
import os
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from kubooth_trainer.errors import ExitCode, KuboothError

RUN_FOLDER_VARIABLE = "KUBOOTH_RUN_FOLDER"


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """State of one rank; `exit_code` is None while it runs. `time` is in Unix seconds."""

    rank: int
    pid: int
    exit_code: int | None
    reason: str
    message: str
    time: float


def write_outcome(rank: int, *, exit_code: int | None = None, reason: str = "", message: str = "") -> None:
    """Replaces this rank's file; nothing happens where no launcher asked for it."""
    folder = os.environ.get(RUN_FOLDER_VARIABLE)
    if folder is None:
        return
    outcome = Outcome(rank=rank, pid=os.getpid(), exit_code=exit_code, reason=reason, message=message, time=time.time())
    path = Path(folder) / f"rank-{rank}.json"
    partial = path.with_suffix(f".{os.getpid()}.partial")
    partial.write_text(json.dumps(asdict(outcome)))
    partial.replace(path)


def read_outcomes(folder: Path) -> list[Outcome]:
    """All ranks that have written, by time."""
    found = [Outcome(**json.loads(path.read_text())) for path in folder.glob("rank-*.json")]
    return sorted(found, key=lambda outcome: outcome.time)


def failure_of(error: BaseException) -> tuple[ExitCode, str, str]:
    """(exit code, reason, message) of what ended a rank."""
    if isinstance(error, KuboothError):
        return error.exit_code, error.reason, str(error)
    if type(error).__name__ == "OutOfMemoryError":
        return ExitCode.RETRY, "DeviceOutOfMemory", (
            "training.batchSize: the device's memory did not suffice; lower it, raise training.gradientAccumulation "
            "or set training.gradientCheckpointing: Enabled"
        )  # fmt: skip
    if _is_disk_full(error):
        return (
            ExitCode.RETRY,
            "DiskFull",
            f"{getattr(error, 'filename', None) or 'the work folder'}: no room left; free some and run again",
        )
    if isinstance(error, MemoryError):
        return ExitCode.RETRY, "OutOfMemory", "the host's memory did not suffice"
    return ExitCode.CRASHED, "TrainerCrashed", f"{type(error).__name__}: {error}"


def _is_disk_full(error: BaseException) -> bool:
    """Also where safetensors, written in Rust, wraps the system's error in words of its own."""
    if isinstance(error, OSError):
        return error.errno in (errno.ENOSPC, errno.EDQUOT)
    return type(error).__name__ == "SafetensorError" and f"code: {errno.ENOSPC}" in str(error)
