"""The trainer's image, really built, and run from its root file system: read-only, not as root, a whole small job."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from bed.images import USER, Image
from trainer.tiny_job import RUN_SECONDS, config_dict

pytestmark = [pytest.mark.soak, pytest.mark.timeout(3600)]  # some gigabytes of packages are fetched and unpacked


@pytest.fixture
def image(built_image: Callable[[str], Image]) -> Image:
    return built_image("trainer")


def test_size_labels_and_content(image: Image, tmp_path: Path) -> None:
    sizes = image.compressed(tmp_path)
    print(f"compressed: {sum(sizes) / 1e6:.0f} MB; layers in MB: {[round(size / 1e6, 1) for size in sizes]}")
    assert image.config["User"] == f"{USER}:{USER}"
    assert image.config["Labels"]["org.opencontainers.image.title"] == "kubooth-trainer"
    assert {"torch", "deepspeed", "diffusers", "bitsandbytes"} <= image.packages
    assert not image.packages & {"pip", "kopf", "kubooth_world"}
    assert sizes[-1] < 5e6, "a change of code makes the last layer anew"


def test_it_says_its_version(image: Image) -> None:
    start = time.monotonic()
    done = run(image, *image.entry, "--version")
    print(f"{done.stdout.strip()} after {time.monotonic() - start:.1f} s")
    assert done.stdout.startswith("kubooth-trainer ")


def test_a_job_runs_in_it(image: Image, tiny_model: Path, photos: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny_model, tmp_path / "model")
    shutil.copytree(photos, tmp_path / "photos")
    work = Path("/work")
    (tmp_path / "config.json").write_text(json.dumps(config_dict(work / "model", work / "photos", work)))
    for path in (tmp_path, *tmp_path.rglob("*")):
        os.chown(path, USER, USER)
    mount = f"mount --bind {shlex.quote(str(tmp_path))} {shlex.quote(str(image.root))}/work"
    run(image, *image.entry, "--config", "/work/config.json", before=mount)
    manifest = json.loads((tmp_path / "output" / "manifest.json").read_text())
    assert all((tmp_path / "output" / file["name"]).stat().st_size == file["size"] for file in manifest["files"])


def run(image: Image, *arguments: str, before: str = "true") -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        image.command(*arguments, before=before),
        env=image.environment,
        capture_output=True,
        text=True,
        timeout=RUN_SECONDS,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done
