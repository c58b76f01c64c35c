"""The gate on the bundled world, by `kubooth run` of the quickstart: a good job passes, a broken one is caught.

The thresholds are those that docs/evaluation.md gives as an example.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from kubooth_trainer.errors import ExitCode

pytestmark = [pytest.mark.soak, pytest.mark.timeout(3600)]

QUICKSTART = Path(__file__).resolve().parents[2] / "examples" / "quickstart.yaml"
GATE = {"identityGain": 0.2, "maxClassDrift": 0.3, "minPromptFidelity": 0.4, "action": "Fail"}


def quickstart(folder: Path, **settings: object) -> subprocess.CompletedProcess[str]:
    named = {f"evaluation.gate.{name}": value for name, value in GATE.items()} | {
        name.replace("__", "."): value for name, value in settings.items()
    }
    changes = [word for name, value in named.items() for word in ("--set", f"{name}={value}")]
    return subprocess.run(
        [sys.executable, "-m", "kubooth_cli.main", "run", str(QUICKSTART), "--output", str(folder / "out"), *changes],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "XDG_CACHE_HOME": str(folder / "cache")},
    )


@pytest.mark.parametrize("seed", [0, 1])
def test_a_good_job_passes(tmp_path: Path, seed: int) -> None:
    done = quickstart(tmp_path, training__seed=seed)
    assert done.returncode == ExitCode.OK, done.stdout + done.stderr
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    print(manifest["metrics"])


@pytest.mark.parametrize("seed", [0, 1])
def test_a_learning_rate_100_times_too_high_is_caught(tmp_path: Path, seed: int) -> None:
    done = quickstart(tmp_path, training__seed=seed, training__learningRate=1e-2)
    assert done.returncode == ExitCode.FIX_AND_RESUBMIT, done.stdout + done.stderr
    assert "QualityRejected" in done.stderr
    assert not (tmp_path / "out" / "manifest.json").exists()
    assert (tmp_path / "out" / ".kubooth" / "rejected" / "report.html").exists()
    print(done.stderr)
