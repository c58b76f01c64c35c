"""What a step of the engine must not do: wait for the device, or leave out a step without a word."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from kubooth_trainer.plan import processor_multiplies_bf16

SCRIPT = Path(__file__).with_name("engine_waits.py")


@pytest.mark.parametrize(("zero_stage", "precision"), [(0, "FP32"), (1, "FP32"), (1, "BF16"), (2, "BF16"), (3, "BF16")])
def test_a_step_waits_for_nothing_and_lets_no_gradient_of_nan_pass_unseen(zero_stage: int, precision: str) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    alone = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    environment = {**os.environ, **alone, "CUDA_VISIBLE_DEVICES": "", "DS_ACCELERATOR": "cpu"}
    run = subprocess.run(
        [sys.executable, SCRIPT, str(zero_stage), precision], env=environment, capture_output=True, text=True
    )
    assert run.returncode == 0, run.stderr
    found = json.loads(run.stdout.splitlines()[-1])
    assert found["reads"] == []
    assert found["nan_reaches_weights"]  # where the next loss, or the checkpoint, tells of it


@pytest.mark.parametrize(
    ("cpuinfo", "expected"),
    [
        ("vendor_id : GenuineIntel\nflags : avx512f avx512_bf16 amx_bf16 amx_tile", True),
        ("vendor_id : GenuineIntel\nflags : avx512f avx512_bf16", False),
        ("vendor_id : AuthenticAMD\nflags : avx512f avx512_bf16", True),
        ("vendor_id : AuthenticAMD\nflags : avx2", False),
        ("", False),
    ],
)
def test_auto_takes_bf16_where_a_processor_gains_by_it(cpuinfo: str, expected: bool) -> None:
    assert processor_multiplies_bf16(cpuinfo) is expected
