"""`kubooth run` as a person runs it: manifest in, real trainer, paths of a model and a report out."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from trainer.tiny_job import RUN_SECONDS

JOB = """
apiVersion: kubooth.io/v1alpha1
kind: PersonalizationJob
metadata: {name: rex}
spec:
  subject: {className: dog, images: "file:photos/"}
  model: {uri: "file:model/"}
  output: {uri: "file:out/"}
  prior: {images: 4, sampler: {steps: 2}}
  training: {steps: 5, batchSize: 2}
  evaluation: {prompts: ["a {identifier} {class}"], imagesPerPrompt: 1, sampler: {steps: 2}}
"""


@pytest.fixture
def folder(tmp_path: Path, tiny_model: Path, photos: Path) -> Path:
    (tmp_path / "job.yaml").write_text(JOB)
    (tmp_path / "temporary").mkdir()
    (tmp_path / "photos").symlink_to(photos)
    (tmp_path / "model").symlink_to(tiny_model)
    return tmp_path


def kubooth_run(folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "kubooth_cli.main", "run", str(folder / "job.yaml"), *options],
        capture_output=True,
        text=True,
        timeout=RUN_SECONDS,
        check=False,
        env={**os.environ, "XDG_CACHE_HOME": str(folder / "cache"), "TMPDIR": str(folder / "temporary")},
    )


def plain_diffusers_samples(model: Path) -> bool:
    """Loads without a word about dtypes, though the weights are bf16, and draws."""
    code = (
        "from diffusers import DiffusionPipeline as P; import sys; "
        "P.from_pretrained(sys.argv[1])('a dog', num_inference_steps=1, height=32, width=32)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(model)], capture_output=True, text=True, timeout=RUN_SECONDS, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return True


def test_a_manifest_becomes_a_model_and_a_report(folder: Path) -> None:
    changes = ["--set", "parallelism.zeroStage=3", "--set", "training.precision=BF16"]
    done = kubooth_run(folder, "--devices", "2", *changes)
    assert done.returncode == 0, done.stdout + done.stderr
    assert str(folder / "out") in done.stdout
    assert str(folder / "out" / "report.html") in done.stdout
    manifest = json.loads((folder / "out" / "manifest.json").read_text())
    assert manifest["config"]["parallelism"] == {
        "nodes": 1,
        "devices_per_node": 2,
        "zero_stage": 3,
        "offload": "None",
    }
    assert plain_diffusers_samples(folder / "out")
    left = sorted(path.name for path in (folder / "temporary").iterdir())
    assert left == [], "temporary files are left"


def test_a_bad_photo_is_named_and_nothing_is_written(folder: Path, tmp_path: Path) -> None:
    (folder / "photos").unlink()
    (folder / "photos").mkdir()
    (folder / "photos" / "rex.jpg").write_bytes(b"")
    done = kubooth_run(folder)
    assert done.returncode == 2
    assert "rex.jpg" in done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    assert not (folder / "out").exists()
