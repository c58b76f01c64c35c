"""Every benchmark still runs, on sizes that say nothing: its record is whole and its ratios are numbers."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

BENCH = Path(__file__).resolve().parent.parent.parent / "bench"
RUN_SECONDS = 570  # a bound, not an expectation
SCRIPTS = [
    "transfer",
    pytest.param("class_images", marks=pytest.mark.soak),
    pytest.param("prior_latents", marks=pytest.mark.soak),
    pytest.param("whole_job", marks=pytest.mark.soak),
    pytest.param("recovery", marks=pytest.mark.soak),
    pytest.param("gpu", marks=pytest.mark.soak),
]


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_trial_leaves_a_whole_record(script: str, tmp_path: Path) -> None:
    path = tmp_path / "record.json"
    done = subprocess.run(
        [sys.executable, str(BENCH / f"{script}.py"), "--quick", "--record", str(path)],
        capture_output=True,
        text=True,
        timeout=RUN_SECONDS,
        check=False,
        env={**os.environ, "TMPDIR": str(tmp_path)},
    )
    assert done.returncode == 0, done.stderr[-4000:]
    record = json.loads(path.read_text())
    assert set(record) == {"what", "command", "machine", "versions", "sources", "load_before", "results"}
    assert record["command"].startswith(f"python bench/{script}.py ")
    figures = list(numbers(record["results"]))
    assert figures and all(math.isfinite(each) for each in figures)
    if script == "class_images":
        assert record["results"]["same_bytes_at_1_and_2_ranks"]
    if script == "whole_job":
        assert record["results"]["stages"]["warm"].keys() >= {"Prior", "Train", "Upload"}


def numbers(value: Any) -> Iterator[float]:
    if isinstance(value, dict):
        for part in value.values():
            yield from numbers(part)
    elif isinstance(value, list):
        for part in value:
            yield from numbers(part)
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield float(value)
