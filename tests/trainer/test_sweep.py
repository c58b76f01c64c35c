"""A sweep on the tiny model: priors once, on after a stop, results side by side."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

SECONDS = 570  # a bound, not an expectation
SAMPLER = {"steps": 2, "guidanceScale": 3}


@pytest.fixture
def folder(tmp_path: Path, tiny_model: Path, photos: Path) -> Path:
    job = {
        "apiVersion": "kubooth.io/v1alpha1",
        "kind": "PersonalizationJob",
        "metadata": {"name": "tiny"},
        "spec": {
            "model": {"uri": tiny_model.as_uri()},
            "subject": {"className": "dog", "images": photos.as_uri()},
            "prior": {"images": 4, "sampler": SAMPLER},
            "training": {"steps": 4, "batchSize": 2, "precision": "FP32"},
            "evaluation": {"prompts": ["a {identifier} {class}"], "imagesPerPrompt": 1, "sampler": SAMPLER},
            "output": {"uri": "file:out/"},
        },
    }
    variants = [{"name": "one"}, {"name": "two", "set": {"training.learningRate": 1e-4}}]
    (tmp_path / "sweep.yaml").write_text(json.dumps({"base": job, "variants": variants}))
    return tmp_path


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "kubooth_cli.main", *arguments]


def test_it_goes_on_after_a_kill_makes_priors_once_and_compares(folder: Path) -> None:
    environment = {**os.environ, "XDG_CACHE_HOME": str(folder / "cache"), "CUDA_VISIBLE_DEVICES": ""}
    sweep = command("sweep", "sweep.yaml", "--output", "results", "--json")
    first = subprocess.Popen(sweep, cwd=folder, env=environment, stdout=subprocess.PIPE, text=True)
    assert first.stdout is not None
    name = ""
    for line in first.stdout:  # until the second run is in its stages
        event = json.loads(line)
        name = event["name"] if event["type"] == "run" else name
        if name == "two" and event["type"] == "stage":
            first.send_signal(signal.SIGTERM)
            break
    first.communicate(timeout=SECONDS)
    assert first.returncode == 143
    one = (folder / "results" / "one" / "manifest.json").stat()

    again = subprocess.run(
        sweep, cwd=folder, env=environment, capture_output=True, text=True, timeout=SECONDS, check=False
    )
    assert again.returncode == 0, again.stderr
    events = [json.loads(line) for line in again.stdout.splitlines()]
    states = [(event["name"], event["state"]) for event in events if event["type"] == "run"]
    assert states == [("one", "skipped"), ("two", "started")]
    assert (folder / "results" / "one" / "manifest.json").stat() == one
    assert len(list((folder / "cache" / "kubooth" / "prior").iterdir())) == 1  # one prior, kept for both

    results = json.loads((folder / "results" / "results.json").read_text())["results"]
    assert [result["name"] for result in results] == ["one", "two"]
    assert list(results[0]["settings"]) == ["training.learningRate", "training.textEncoderLearningRate"]
    page = (folder / "results" / "index.html").read_text()
    assert "training.learningRate" in page and page.count("<img") == 4  # of two results: a class prompt is added
    assert (folder / "results" / "results.csv").read_text().startswith("result,seed,figure,side,value")

    compared = subprocess.run(
        command("compare", "results/one", "results/two", "-o", "json"),
        cwd=folder, env=environment, capture_output=True, text=True, timeout=SECONDS, check=False,
    )  # fmt: skip
    assert compared.returncode == 0, compared.stderr
    assert [result["name"] for result in json.loads(compared.stdout)["results"]] == ["results/one", "results/two"]
    (folder / "results" / "one" / "report.html").unlink()
    made = subprocess.run(
        command("report", "results/one", "--to", "again.html"),
        cwd=folder, env=environment, capture_output=True, text=True, timeout=SECONDS, check=False,
    )  # fmt: skip
    assert made.returncode == 0, made.stderr
    assert "Did it learn" in (folder / "again.html").read_text()
