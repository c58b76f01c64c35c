"""The scripts' one environment, with a Python, a pip and a uv that only write down how they were called."""

from __future__ import annotations

import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from subprocess import PIPE

import pytest

ROOT = Path(__file__).resolve().parents[2]

PYTHON = """#!/usr/bin/env bash
echo "python $*" >>"$CALLS"
here=$(dirname "$0")
case "$*" in
  *version_info*) echo "$FAKE_VERSION" ;;
  *ensurepip*) exit "$FAKE_ENSUREPIP" ;;
  *sys.prefix*) echo "$0" ;;
  --version) echo "Python $FAKE_VERSION" ;;
  "-m venv "*) mkdir -p "$3/bin" && cp "$0" "$3/bin/python" ;;
  "-m pip"*build.txt) cp "$FAKE_UV" "$here/uv" ;;
  "-m pip"*requirements/*.txt) exit "$FAKE_PIP" ;;
  "-m pytest"*) ;;
esac
"""
UV = """#!/usr/bin/env bash
echo "uv $*" >>"$CALLS"
case "$*" in *requirements/*) exit "$FAKE_UV_CODE" ;; esac
printf '#!/bin/sh\\necho kubooth "$@"\\n' >"$(dirname "$0")/kubooth"
chmod +x "$(dirname "$0")/kubooth"
"""


@dataclass
class Checkout:
    """A copy of what the scripts read, and how to call them in it."""

    root: Path
    environment: dict[str, str]

    @property
    def venv(self) -> Path:
        return self.root / ".venv"

    def run(self, script: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        (self.root.parent / "calls").write_text("")
        return subprocess.run(
            [self.root / "scripts" / script, *arguments],
            env=self.environment | environment,
            capture_output=True,
            text=True,
        )

    def calls(self) -> list[str]:
        return (self.root.parent / "calls").read_text().splitlines()

    def installs(self) -> list[str]:
        return [call for call in self.calls() if " install " in call]


@pytest.fixture
def checkout(tmp_path: Path) -> Checkout:
    root = tmp_path / "check out"  # a blank in the path, as users have them
    for name in ("scripts", "requirements"):
        shutil.copytree(ROOT / name, root / name)
    for name in ("pyproject.toml", "world/pyproject.toml"):
        (root / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, root / name)
    (root / "examples").mkdir()
    (root / "examples" / "quickstart.yaml").touch()
    for name, text in (("python", PYTHON), ("uv", UV)):
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    environment = {
        "PATH": os.environ["PATH"],
        "PYTHON": str(tmp_path / "python"),
        "CALLS": str(tmp_path / "calls"),
        "FAKE_VERSION": "3.12",
        "FAKE_ENSUREPIP": "0",
        "FAKE_UV": str(tmp_path / "uv"),
        "FAKE_UV_CODE": "0",
        "FAKE_PIP": "0",
    }
    return Checkout(root, environment)


def test_first_run_installs_by_hash_and_runs_the_example(checkout: Checkout) -> None:
    result = checkout.run("quickstart")
    assert result.returncode == 0, result.stderr
    assert result.stdout.split("kubooth ", 1)[1].strip() == f"run {checkout.root}/examples/quickstart.yaml"
    build, trainer, ours = checkout.installs()
    assert build.startswith("python -m pip") and "--require-hashes" in build
    assert trainer.startswith("uv") and "--require-hashes" in trainer and trainer.endswith("trainer.txt")
    assert ours.startswith("uv") and "--no-build-isolation" in ours and ours.endswith("check out/world")


def test_second_run_installs_nothing(checkout: Checkout) -> None:
    checkout.run("quickstart")
    assert checkout.run("quickstart").returncode == 0
    assert checkout.installs() == []


@pytest.mark.parametrize("changed", ["pyproject.toml", "world/pyproject.toml", "requirements/trainer.txt"])
def test_changed_inputs_install_again_into_the_same_environment(checkout: Checkout, changed: str) -> None:
    checkout.run("quickstart")
    (checkout.venv / "kept").touch()
    with (checkout.root / changed).open("a") as file:
        file.write("# changed\n")
    assert checkout.run("quickstart").returncode == 0
    assert len(checkout.installs()) == 3
    assert (checkout.venv / "kept").exists()


def test_test_adds_to_the_environment_of_quickstart(checkout: Checkout) -> None:
    checkout.run("quickstart")
    result = checkout.run("test", "-k", "some thing", PATH=f"{checkout.venv / 'bin'}:{checkout.environment['PATH']}")
    assert result.returncode == 0, result.stderr
    assert any(call.endswith("dev.txt") for call in checkout.installs())
    assert (
        checkout.calls()[-1] == "python -m pytest --numprocesses=3 --dist=loadfile --no-loadscope-reorder -k some thing"
    )
    assert checkout.run("quickstart").returncode == 0
    assert checkout.installs() == []


def test_interrupted_installation_starts_over(checkout: Checkout) -> None:
    assert checkout.run("quickstart", FAKE_UV_CODE="1", FAKE_PIP="1").returncode == 1
    (checkout.venv / "half a package").touch()
    assert checkout.run("quickstart").returncode == 0
    assert not (checkout.venv / "half a package").exists()


def test_moved_checkout_is_installed_anew(checkout: Checkout) -> None:
    checkout.run("quickstart")
    moved = Checkout(checkout.root.rename(checkout.root.parent / "elsewhere"), checkout.environment)
    assert moved.run("quickstart").returncode == 0
    assert any(" -m venv " in call for call in moved.calls())


def test_pip_installs_where_uv_fails(checkout: Checkout) -> None:
    result = checkout.run("quickstart", FAKE_UV_CODE="2")
    assert result.returncode == 0, result.stderr
    assert "trying with pip" in result.stderr
    assert any(call.startswith("python -m pip") and call.endswith("trainer.txt") for call in checkout.installs())


@pytest.mark.parametrize(
    ("environment", "sentence"),
    [
        ({"FAKE_VERSION": "3.10"}, "needs Python 3.11, 3.12 or 3.13"),
        ({"FAKE_VERSION": "3.14"}, "python is 3.14"),
        ({"PYTHON": "/nowhere/python3"}, "none was found"),
        ({"FAKE_ENSUREPIP": "1"}, "python3-venv"),
    ],
)
def test_unfit_python_is_named_in_one_sentence(checkout: Checkout, environment: dict[str, str], sentence: str) -> None:
    result = checkout.run("quickstart", **environment)
    assert result.returncode == 1
    assert sentence in result.stderr
    assert len(result.stderr.splitlines()) == 1
    assert not checkout.venv.exists()


def test_environment_of_someone_else_is_left_alone(checkout: Checkout) -> None:
    (checkout.venv / "bin").mkdir(parents=True)
    result = checkout.run("quickstart")
    assert result.returncode == 1
    assert "move it away" in result.stderr
    assert [path.name for path in checkout.venv.iterdir()] == ["bin"]


def test_quickstart_passes_its_job_and_options_on(checkout: Checkout, tmp_path: Path) -> None:
    job = tmp_path / "my job.yaml"
    job.touch()
    result = checkout.run("quickstart", "--job", str(job), "--output", "out dir", "--devices", "2")
    assert result.stdout.strip() == f"kubooth run {job} --output out dir --devices 2"


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [(["--job"], "--job needs a file"), (["--job", "absent.yaml"], "no job file absent.yaml")],
)
def test_quickstart_refuses_before_it_installs(checkout: Checkout, arguments: list[str], sentence: str) -> None:
    result = checkout.run("quickstart", *arguments)
    assert result.returncode == 1
    assert sentence in result.stderr
    assert checkout.calls() == []


@pytest.mark.parametrize("script", ["quickstart", "test", "check", "soak", "docs"])
def test_help_installs_nothing(checkout: Checkout, script: str) -> None:
    result = checkout.run(script, "--help")
    assert result.returncode == 0
    assert result.stdout.startswith(f"Usage: scripts/{script}")
    assert checkout.calls() == []


def test_a_devcluster_that_does_not_come_up_leaves_the_rest_of_the_line_undone(checkout: Checkout) -> None:
    line = 'eval "$("$0" up)" && echo "this reaches another cluster"'
    done = subprocess.run(
        ["bash", "-c", line, checkout.root / "scripts" / "devcluster"],
        env=checkout.environment | {"FAKE_VERSION": "3.9"},
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert "3.9" in done.stderr


def test_two_installations_at_once_wait_for_each_other(checkout: Checkout) -> None:
    (checkout.root.parent / "calls").write_text("")
    command = [checkout.root / "scripts" / "quickstart"]
    both = [subprocess.Popen(command, env=checkout.environment, stdout=PIPE, stderr=PIPE, text=True) for _ in range(2)]
    for process in both:
        _, errors = process.communicate()
        assert process.returncode == 0, errors
    assert len(checkout.installs()) == 3
