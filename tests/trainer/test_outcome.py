"""Whatever ends a rank becomes a documented exit code, a stable reason and a sentence."""

from __future__ import annotations

import errno
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError

from kubooth_trainer.errors import BadSubjectError, ExitCode, StorageUnavailableError
from kubooth_trainer.outcome import RUN_FOLDER_VARIABLE, failure_of, read_outcomes, tells_of_a_lost_peer, write_outcome

FAILURES: list[tuple[BaseException, ExitCode, str, str]] = [
    (BadSubjectError("subject.images: x"), ExitCode.FIX_AND_RESUBMIT, "BadSubject", "subject.images: x"),
    (StorageUnavailableError("s3://b"), ExitCode.RETRY, "StorageUnavailable", "s3://b"),
    (torch.OutOfMemoryError("CUDA out of memory"), ExitCode.RETRY, "DeviceOutOfMemory", "training.batchSize"),
    (OSError(errno.ENOSPC, "full", "/work/x"), ExitCode.RETRY, "DiskFull", "/work/x"),
    (SafetensorError("IoError(Os { code: 28, kind: StorageFull })"), ExitCode.RETRY, "DiskFull", "no room"),
    (MemoryError(), ExitCode.RETRY, "OutOfMemory", "memory"),
    (OSError(errno.EACCES, "no", "/work/x"), ExitCode.CRASHED, "TrainerCrashed", "PermissionError"),
    (RuntimeError("what"), ExitCode.CRASHED, "TrainerCrashed", "RuntimeError: what"),
]


@pytest.mark.parametrize(("error", "code", "reason", "words"), FAILURES, ids=[repr(f[0])[:40] for f in FAILURES])
def test_failure(error: BaseException, code: ExitCode, reason: str, words: str) -> None:
    got_code, got_reason, message = failure_of(error)
    assert (got_code, got_reason) == (code, reason)
    assert words in message


def test_outcomes_come_back_in_the_order_of_their_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(RUN_FOLDER_VARIABLE, str(tmp_path))
    for rank in (1, 0):
        write_outcome(rank)
    write_outcome(1, exit_code=2, reason="BadSubject", message="x")
    assert [(outcome.rank, outcome.exit_code) for outcome in read_outcomes(tmp_path)] == [(0, None), (1, 2)]


GONE = "[/pytorch/third_party/gloo/gloo/transport/tcp/pair.cc:547] Connection closed by peer [10.0.0.2]:3042"
LATE = "[gloo/gloo/transport/tcp/unbound_buffer.cc:81] Timed out waiting 1860000ms for recv operation to complete"
LOST: list[BaseException] = [
    RuntimeError(GONE),
    RuntimeError(LATE),
    RuntimeError("[gloo/gloo/transport/tcp/pair.cc:534] Read error [10.0.0.2]:1: Connection reset by peer"),
    torch.distributed.DistBackendError("NCCL error in: x.cpp:1, remote process exited or there was a network error"),
    torch.distributed.DistNetworkError("failed to recv, got 0 bytes"),
    torch.distributed.DistStoreError("wait timeout after 300000ms"),
]


@pytest.mark.parametrize("error", LOST, ids=[str(error)[-40:] for error in LOST])
def test_a_lost_peer(error: BaseException) -> None:
    code, reason, message = failure_of(error)
    assert (code, reason) == (ExitCode.RETRY, "PeerLost")
    assert str(error) in message


def nccl(short: str, long: str, last: str) -> torch.distributed.DistBackendError:
    """An error as torch 2.13 words it, of NCCL 2.29."""
    where = "/pytorch/torch/csrc/distributed/c10d/NCCLUtils.cpp:94"
    return torch.distributed.DistBackendError(
        f"NCCL error in: {where}, {short}, NCCL version 2.29.7\n{long}\nLast error:\n{last}"
    )


NO_DEVICE_MEMORY = nccl(
    "unhandled cuda error (run with NCCL_DEBUG=INFO for details)",
    "ncclUnhandledCudaError: Call to CUDA function failed.",
    "Cuda failure 2 'out of memory'",
)
TWICE = nccl(
    "invalid usage (run with NCCL_DEBUG=WARN for details)",
    "ncclInvalidUsage: This usually reflects invalid usage of NCCL library.",
    "Duplicate GPU detected : rank 0 and rank 1 both on CUDA device 1000",
)
WRONG = nccl(
    "invalid argument (run with NCCL_DEBUG=WARN for details)",
    "ncclInvalidArgument: Invalid value for an argument.",
    "",
)


def test_wrong_use_of_nccl_in_a_log_is_no_lost_peer() -> None:
    kind = "torch.distributed.DistBackendError: "
    for error in (TWICE, WRONG):
        assert not tells_of_a_lost_peer("", kind + str(error).splitlines()[0])
    assert tells_of_a_lost_peer("", kind + str(LOST[3]))


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (NO_DEVICE_MEMORY, "DeviceOutOfMemory"),
        (TWICE, "TrainerCrashed"),
        (WRONG, "TrainerCrashed"),
        (RuntimeError("CUDA error: out of memory\nCUDA kernel errors might be"), "DeviceOutOfMemory"),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublas...`"), "DeviceOutOfMemory"),
        (RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory"), "OutOfMemory"),
        (RuntimeError("the connection of two layers timed out"), "TrainerCrashed"),
        (ValueError(GONE), "TrainerCrashed"),
    ],
)  # fmt: skip
def test_words_that_libraries_use(error: BaseException, reason: str) -> None:
    assert failure_of(error)[1] == reason


ON_A_FULL_DISK = """
import os, subprocess, sys
from pathlib import Path
from kubooth_trainer.outcome import RUN_FOLDER_VARIABLE, read_outcomes, write_outcome
folder = Path(sys.argv[1])
subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "none", folder], check=True)
os.environ[RUN_FOLDER_VARIABLE] = str(folder)
write_outcome(0)
try:
    (folder / "rest").write_bytes(bytes(1 << 20))
except OSError:
    pass
write_outcome(0, exit_code=75, reason="DiskFull", message="\u00fc" * 5000)
(outcome,) = read_outcomes(folder)
assert (outcome.exit_code, outcome.reason) == (75, "DiskFull"), outcome
assert outcome.message.startswith("\u00fc")
assert sorted(path.name for path in folder.iterdir()) == ["rank-0.json", "rest"]
"""


def test_a_full_disk_can_be_told_of(tmp_path: Path) -> None:
    """In a mount namespace of its own, where even an ordinary user may mount a tiny file system."""
    unshare = [shutil.which("unshare") or "unshare", "--user", "--map-root-user", "--mount"]
    if shutil.which("unshare") is None or subprocess.run([*unshare, "true"], capture_output=True).returncode:
        pytest.skip("this machine allows no user namespaces")
    command = [*unshare, sys.executable, "-W", "error", "-c", ON_A_FULL_DISK, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
