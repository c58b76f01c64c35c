"""What a command imports, seen in a process of its own: start-up stays quick by what is not loaded."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest

HEAVY = {
    "accelerate", "boto3", "deepspeed", "diffusers", "kopf", "kubernetes", "numpy", "PIL", "rich", "torch",
    "transformers",
}  # fmt: skip
PROGRAM = """
import json, sys
from kubooth_cli.main import main
sys.argv[0] = "kubooth"
try:
    main()
finally:
    print("MODULES", json.dumps(sorted({name.partition(".")[0] for name in sys.modules})))
"""


def modules_after(kubooth: Any, *arguments: str) -> tuple[set[str], str]:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", PROGRAM, *arguments],
        cwd=kubooth.folder, env=kubooth.environment, capture_output=True, text=True, check=True,
    )  # fmt: skip
    text, _, listed = done.stdout.rpartition("MODULES ")
    return set(json.loads(listed)), text


@pytest.mark.parametrize("arguments", [("--help",), ("-h",), ("--version",)])
def test_help_needs_click_alone(kubooth: Any, arguments: tuple[str, ...]) -> None:
    loaded, _ = modules_after(kubooth, *arguments)
    assert not loaded & (HEAVY | {"pydantic", "yaml", "kubooth_trainer", "kubooth_operator"})


@pytest.mark.parametrize(
    "arguments",
    [
        ("run", "--help"),
        ("sample", "--help"),
        ("validate", "--help"),
        ("explain", "--help"),
        ("validate", "job.yaml"),
        ("explain", "training.learningRate"),
        ("run", "job.yaml", "--dry-run"),
    ],
)
def test_nothing_heavy_before_there_is_work(kubooth: Any, arguments: tuple[str, ...]) -> None:
    loaded, _ = modules_after(kubooth, *arguments)
    assert not loaded & HEAVY


def test_help_names_every_command(kubooth: Any) -> None:
    _, text = modules_after(kubooth, "--help")
    for name in ("run", "sample", "validate", "explain"):
        assert f"  {name}  " in text
