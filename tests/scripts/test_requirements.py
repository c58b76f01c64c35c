"""The pinned requirements: fresh, hashed, free of addresses, and without torch where it must not be."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SETS = ("build", "dev", "docs", "go", "mlflow-server", "operator", "trainer")
TRAINING_ONLY = {"torch", "deepspeed", "diffusers", "transformers", "accelerate", "safetensors", "numpy", "triton"}


def check(root: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(root / "scripts" / "compile-requirements"), "--check"]
    return subprocess.run(command, capture_output=True, text=True)


def pins(name: str) -> set[tuple[str, str]]:
    """(package, version and marker) of every pin of a file."""
    text = (ROOT / "requirements" / f"{name}.txt").read_text()
    return set(re.findall(r"^([a-z0-9._-]+)(==.+?) \\$", text, flags=re.MULTILINE))


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    shutil.copytree(ROOT / "requirements", tmp_path / "requirements")
    shutil.copytree(ROOT / "scripts", tmp_path / "scripts")
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    return tmp_path


def test_committed_files_are_fresh(copy: Path) -> None:
    result = check(copy)
    assert result.returncode == 0, result.stderr


def test_a_changed_dependency_makes_its_sets_stale(copy: Path) -> None:
    project = copy / "pyproject.toml"
    project.write_text(project.read_text().replace('"kopf>=', '"kopf[uvloop]>='))
    result = check(copy)
    assert result.returncode == 1
    assert "requirements/operator.txt was not compiled" in result.stderr
    assert "requirements/dev.txt was not compiled" in result.stderr
    assert "trainer.txt" not in result.stderr


def test_a_missing_file_is_named(copy: Path) -> None:
    (copy / "requirements" / "go.txt").unlink()
    assert "requirements/go.txt is missing" in check(copy).stderr


@pytest.mark.parametrize("line", ["--index-url https://index.example/simple", "# via /home/me/x.in", "-e ."])
def test_addresses_and_paths_are_refused(copy: Path, line: str) -> None:
    with (copy / "requirements" / "build.txt").open("a") as file:
        file.write(f"{line}\n")
    assert "requirements/build.txt names an address" in check(copy).stderr


@pytest.mark.parametrize("name", SETS)
def test_every_pin_has_a_hash(name: str) -> None:
    text = (ROOT / "requirements" / f"{name}.txt").read_text()
    blocks = re.split(r"^(?=[a-z])", text, flags=re.MULTILINE)[1:]
    assert len(blocks) == len(pins(name)) > 0
    assert all("--hash=sha256:" in block for block in blocks)


@pytest.mark.parametrize("name", ["docs", "operator"])
def test_sets_that_carry_nothing_of_the_training(name: str) -> None:
    allowed = {"numpy", "safetensors"} if name == "docs" else set()  # the command line reads class images with them
    assert TRAINING_ONLY & {package for package, _ in pins(name)} <= allowed


@pytest.mark.parametrize("name", ["docs", "operator", "trainer"])
def test_dev_holds_the_same_versions(name: str) -> None:
    versions = {package: pin.split(" ;")[0] for package, pin in pins(name)}
    dev = {(package, pin.split(" ;")[0]) for package, pin in pins("dev")}
    assert set(versions.items()) <= dev
