"""How each training process tells the launcher that it lives and how it ended: one small file per rank.

torchrun turns every worker's exit code into 1, so the launcher reads the reason here instead.
"""

from __future__ import annotations

import errno
import json
import os
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from kubooth_trainer.errors import (
    DeviceOutOfMemoryError,
    DiskFullError,
    ExitCode,
    HostOutOfMemoryError,
    KuboothError,
    PeerLostError,
)

RUN_FOLDER_VARIABLE = "KUBOOTH_RUN_FOLDER"
WRITING = "writing"  # an empty file in the run folder, while rank 0 makes a checkpoint whole
SUMMARY = "summary.json"  # rank 0's whole part of the status, in the run folder

_ROOM = 4096  # bytes of a file
_CUT = 512  # characters of a message, at most six bytes each, that fit into it

_NETWORK_ERRORS = ("DistBackendError", "DistNetworkError", "DistStoreError")  # of torch.distributed
# gloo and NCCL say why in words only, and gloo in a plain RuntimeError.
_LOST_PEER = re.compile(
    r"(gloo/transport|gloo::|ProcessGroupGloo|TCPStore|ProcessGroupNCCL|NCCL).*"
    r"(closed|reset by peer|timed out|timeout|broken pipe|refused|unreachable|no route|ncclRemoteError|failed to recv"
    r"|remote process exited)",
    re.IGNORECASE | re.DOTALL,
)
# NCCL's words for what is wrong here, not with a peer.
_WRONG_USE = re.compile(
    r"nccl(InvalidUsage|InvalidArgument)|invalid (usage|argument) \(run with NCCL_DEBUG|Duplicate GPU detected"
)
_DEVICE_MEMORY = re.compile(
    r"(CUDA|HIP|XPU)( error:)? out of memory|(CUBLAS|CUDNN)_STATUS_ALLOC_FAILED"
    r"|(CUDA|HIP) failure( \d+)? 'out of memory'",  # NCCL's and RCCL's
    re.IGNORECASE,
)
_HOST_MEMORY = re.compile(r"DefaultCPUAllocator: (can't allocate|not enough) memory|std::bad_alloc", re.IGNORECASE)


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """State of one rank; `exit_code` is None while it runs. `time` is in Unix seconds."""

    rank: int
    pid: int
    exit_code: int | None
    reason: str
    message: str
    time: float
    again: bool = False  # a new start has a better chance: at once, where all ranks are here


def write_outcome(
    rank: int, *, exit_code: int | None = None, reason: str = "", message: str = "", again: bool = False
) -> None:
    """Replaces this rank's file; nothing happens where no launcher asked for it.

    The first one, when the rank starts, takes the room that the last one needs: a rank that ends because the disk is
    full must be able to say so.
    """
    folder = run_folder()
    if folder is None:
        return
    outcome = Outcome(
        rank=rank,
        pid=os.getpid(),
        exit_code=exit_code,
        reason=reason,
        message=message,
        time=time.time(),
        again=again,
    )
    path = folder / f"rank-{rank}.json"
    partial = path.with_suffix(f".{os.getpid()}.partial")
    try:
        partial.write_bytes(_padded(outcome))
        partial.replace(path)
    except OSError:
        partial.unlink(missing_ok=True)
        with path.open("r+b") as file:
            file.write(_padded(replace(outcome, message=message[:_CUT])))


def _padded(outcome: Outcome) -> bytes:
    return json.dumps(asdict(outcome)).encode().ljust(_ROOM)


@contextmanager
def telling_of_writing() -> Iterator[None]:
    """Rank 0 tells that a checkpoint is on its way, so that it is given time where another rank fails."""
    folder = run_folder()
    if folder is None:
        yield
        return
    with suppress(OSError):
        (folder / WRITING).touch()
    try:
        yield
    finally:
        with suppress(OSError):
            (folder / WRITING).unlink(missing_ok=True)


def is_writing(folder: Path, outcomes: list[Outcome]) -> bool:
    """Whether rank 0 told so, and still runs."""
    return (folder / WRITING).exists() and any(each.rank == 0 and each.exit_code is None for each in outcomes)


def run_folder() -> Path | None:
    """Where the launcher reads; None where there is no launcher."""
    folder = os.environ.get(RUN_FOLDER_VARIABLE)
    return None if folder is None else Path(folder)


def read_outcomes(folder: Path) -> list[Outcome]:
    """All ranks that have written, by time."""
    found = []
    for path in folder.glob("rank-*.json"):
        with suppress(ValueError):  # written in place, at this moment
            found.append(Outcome(**json.loads(path.read_bytes())))
    return sorted(found, key=lambda outcome: outcome.time)


def failure_of(error: BaseException) -> tuple[ExitCode, str, str]:
    """(exit code, reason, message) of what ended a rank."""
    known = error if isinstance(error, KuboothError) else _known(error)
    if known is not None:
        return known.exit_code, known.reason, str(known)
    return ExitCode.CRASHED, "TrainerCrashed", f"{type(error).__name__}: {error}"


def tells_of_a_lost_peer(kind: str, text: str) -> bool:
    """Whether an error (its type's name and its words, or a line of a log) says that the network or a peer is gone."""
    if _WRONG_USE.search(text):
        return False
    return kind in _NETWORK_ERRORS or any(name in text for name in _NETWORK_ERRORS) or bool(_LOST_PEER.search(text))


def _known(error: BaseException) -> KuboothError | None:
    kind, text = type(error).__name__, str(error)
    if kind == "OutOfMemoryError" or (isinstance(error, RuntimeError) and _DEVICE_MEMORY.search(text)):
        return DeviceOutOfMemoryError(
            "training.resolution: the device's memory did not suffice; lower it or training.batchSize, set "
            "training.precision: BF16 or training.gradientCheckpointing: Enabled, or take a device with more memory"
        )
    if _is_disk_full(error):
        where = getattr(error, "filename", None) or "the work folder"
        return DiskFullError(f"{where}: no room left; free some and run again")
    if isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and _HOST_MEMORY.search(text)):
        return HostOutOfMemoryError(
            "the host's memory did not suffice: raise resources.limits.memory in the runtime, or lower "
            "training.batchSize"
        )
    if isinstance(error, RuntimeError) and tells_of_a_lost_peer(kind, text):
        return PeerLostError(f"the connection to a peer is gone: {text.strip().splitlines()[0][:300]}")
    return None


def _is_disk_full(error: BaseException) -> bool:
    """Also where safetensors, written in Rust, wraps the system's error in words of its own."""
    if isinstance(error, OSError):
        return error.errno in (errno.ENOSPC, errno.EDQUOT)
    return type(error).__name__ == "SafetensorError" and f"code: {errno.ENOSPC}" in str(error)
