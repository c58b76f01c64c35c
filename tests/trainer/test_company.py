"""Imports without unwanted company, in a process of their own."""

from __future__ import annotations

import subprocess
import sys
from importlib.util import find_spec

import pytest

CODE = """
import sys
from kubooth_trainer.company import UNWANTED, without_company
with without_company():
    import deepspeed
    import diffusers
    diffusers.UNet2DConditionModel
diffusers.AutoencoderKL
print("found", [name for name in UNWANTED if name in sys.modules])
import bitsandbytes
with without_company():
    import bitsandbytes
print("found", bitsandbytes.__name__)
"""

COLLECTOR = """
import gc
from kubooth_trainer.company import without_company
with without_company():
    inside = gc.isenabled()
after = gc.isenabled()
gc.disable()
with without_company():
    pass
print("found", inside, after, gc.isenabled())
"""


TRACKED = """
from kubooth_trainer.company import without_company
from kubooth_trainer.tracking import Mlflow
Mlflow(None, None)
with without_company():
    import mlflow
    print("found", mlflow.__name__)
"""


@pytest.mark.skipif(find_spec("mlflow") is None, reason="MLflow is not installed")
def test_a_tracker_that_was_asked_for_is_never_left_out() -> None:
    """Its thread may import it while libraries are imported without company."""
    done = subprocess.run([sys.executable, "-c", TRACKED], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "found mlflow\n"), done.stderr


@pytest.mark.skipif(find_spec("bitsandbytes") is None, reason="bitsandbytes is not installed")
def test_libraries_bring_nothing_along_and_who_asks_for_it_has_it() -> None:
    done = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert [line for line in done.stdout.splitlines() if line.startswith("found")] == ["found []", "found bitsandbytes"]


def test_the_collector_rests_meanwhile_and_is_left_as_it_was() -> None:
    done = subprocess.run([sys.executable, "-c", COLLECTOR], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "found False True False\n"), done.stderr
