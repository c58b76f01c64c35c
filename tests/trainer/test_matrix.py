"""Ranks and ZeRO stages do not change what is learned, and checkpoints move freely between them."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from trainer.tiny_job import RUN_SECONDS, config_dict

from kubooth_trainer.families import FAMILIES
from kubooth_trainer.methods.dreambooth import Trainee

DRIVER = Path(__file__).with_name("matrix_ranks.py")
STEPS, MIDDLE = 12, 6
STAGES = (0, 1, 2, 3)
RESUMES = [  # (ranks, stage) that saved in the middle, (ranks, stage) that goes on
    ((1, 0), (1, 0)),
    ((1, 3), (1, 3)),
    ((2, 2), (2, 2)),
    ((2, 3), (2, 3)),
    ((2, 2), (1, 0)),
    ((2, 3), (1, 1)),
    ((1, 0), (2, 3)),
    ((1, 1), (2, 2)),
]


def name_of(ranks: int, stage: int) -> str:
    return f"{ranks} ranks ZeRO {stage}"


def resume_name(source: tuple[int, int], target: tuple[int, int]) -> str:
    return f"{name_of(*source)} then {name_of(*target)}"


class Matrix:
    """Results by case name; checkpoints of each case in a folder of its own."""

    def __init__(self, folder: Path, model: Path, photos: Path) -> None:
        self.folder = folder
        self.results: dict[str, dict[str, Any]] = {}
        (folder / "config.json").write_text(json.dumps(config_dict(model, photos, folder, training__steps=STEPS)))

    def checkpoints(self, name: str) -> Path:
        return self.folder / name.replace(" ", "-")

    def run(
        self,
        ranks: int,
        stages: dict[str, int],
        *,
        environment: dict[str, str] | None = None,
        changes: dict[str, dict[str, Any]] | None = None,
        **groups: dict[str, Any],
    ) -> None:
        """Cases by name. `groups` are changes to the config of all, `changes` to that of one, by group."""
        cases = {
            name: {
                "zero_stage": stage,
                "checkpoints": {"uri": self.checkpoints(name).as_uri(), "every_steps": MIDDLE, "keep": 9},
                **groups,
                **(changes or {}).get(name, {}),
            }
            for name, stage in stages.items()
        }
        path = self.folder / f"cases-{len(self.results)}.json"
        path.write_text(json.dumps(cases))
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks)]
        done = subprocess.run(
            [*command, str(DRIVER), str(self.folder / "config.json"), str(path)],
            capture_output=True,
            text=True,
            timeout=RUN_SECONDS,
            check=False,
            env={**os.environ, **(environment or {})},
        )
        assert done.returncode == 0, done.stderr[-5000:]
        for line in done.stdout.splitlines():
            if line.startswith("RESULT "):
                result = json.loads(line.removeprefix("RESULT "))
                self.results[result.pop("case")] = result

    def losses(self, name: str) -> dict[int, float]:
        return dict(self.results[name]["losses"])


@pytest.fixture(scope="module")
def matrix(tiny_model: Path, photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Matrix:
    matrix = Matrix(tmp_path_factory.mktemp("matrix"), tiny_model, photos)
    for ranks in (1, 2):
        matrix.run(ranks, {name_of(ranks, stage): stage for stage in STAGES})
    for source, target in RESUMES:
        saved = matrix.checkpoints(name_of(*source)) / "attempt-1" / f"step-{MIDDLE:06d}"
        shutil.copytree(saved, matrix.checkpoints(resume_name(source, target)) / "attempt-1" / f"step-{MIDDLE:06d}")
    for ranks in (1, 2):
        matrix.run(ranks, {resume_name(s, t): t[1] for s, t in RESUMES if t[0] == ranks})
    return matrix


def test_training_in_bf16_begins_at_the_exact_weights(matrix: Matrix, tiny_model: Path) -> None:
    """At a rate too small to move any of them, the model's fp32 weights come out as they were."""
    cases = {f"exact ZeRO {stage}": stage for stage in (1, 2, 3)}
    still = {"steps": 1, "learning_rate": 1e-30, "text_encoder_learning_rate": 1e-30, "weight_decay": 0.0}
    matrix.run(2, cases, training={**still, "precision": "BF16", "ema": {"decay": 0.9}})
    family = FAMILIES[0]
    unet, text = family.load_denoiser(tiny_model, torch.float32), family.load_text(tiny_model, torch.float32)
    given = {name: weight.detach() for name, weight in Trainee(family, unet, text).named_parameters()}
    assert any(not weight.equal(weight.bfloat16().float()) for weight in given.values())
    for case in cases:
        for kind in ("weights", "ema"):
            found = load_file(matrix.checkpoints(case) / "attempt-1" / "step-000001" / f"{kind}.safetensors")
            assert len(found) > 10
            moved = {name: float((weight - given[name]).abs().max()) for name, weight in found.items()}
            assert {name: by for name, by in moved.items() if by > 1e-20} == {}


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("ranks", [1, 2])
def test_losses_agree_over_ranks_and_stages(matrix: Matrix, ranks: int, stage: int) -> None:
    reference = matrix.losses(name_of(1, 0))
    losses = matrix.losses(name_of(ranks, stage))
    assert sorted(losses) == list(range(1, STEPS + 1))
    assert losses == pytest.approx(reference, abs=1e-5)
    assert len(set(reference.values())) == STEPS  # the reference is no constant


@pytest.mark.parametrize(("source", "target"), RESUMES, ids=lambda pair: name_of(*pair))
def test_resumed_losses_equal_the_undisturbed(matrix: Matrix, source: tuple[int, int], target: tuple[int, int]) -> None:
    resumed = matrix.losses(resume_name(source, target))
    undisturbed = matrix.losses(name_of(1, 0))
    late = range(MIDDLE + 1, STEPS + 1)
    assert {step: resumed[step] for step in late} == pytest.approx({step: undisturbed[step] for step in late}, abs=1e-5)


@pytest.mark.parametrize(
    ("source", "target"), [pair for pair in RESUMES if pair[0] == pair[1]], ids=lambda pair: name_of(*pair)
)
@pytest.mark.parametrize("kind", ["weights", "exp_avg", "exp_avg_sq"])
def test_resumed_state_is_the_same_bytes(
    matrix: Matrix, source: tuple[int, int], target: tuple[int, int], kind: str
) -> None:
    last = Path("attempt-1") / f"step-{STEPS:06d}" / f"{kind}.safetensors"
    resumed = matrix.checkpoints(resume_name(source, target)) / last
    assert resumed.read_bytes() == (matrix.checkpoints(name_of(*source)) / last).read_bytes()
