"""All of ranks, ZeRO stages, accumulation, text encoder trained or frozen: one loss curve. `scripts/soak` runs it."""

from __future__ import annotations

import shutil
from itertools import product
from pathlib import Path
from typing import Any

import pytest
from trainer.test_matrix import MIDDLE, STAGES, Matrix

pytestmark = pytest.mark.soak

RANKS = (1, 2, 3)
ACCUMULATIONS = (1, 2)
BATCH = 6 * max(ACCUMULATIONS)  # divides by every combination
STEPS = 10


def name_of(ranks: int, stage: int, accumulation: int, *, frozen: bool) -> str:
    return f"{ranks} ranks ZeRO {stage} accumulation {accumulation} text {'frozen' if frozen else 'trained'}"


@pytest.fixture(scope="module")
def matrix(tiny_model: Path, photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Matrix:
    matrix = Matrix(tmp_path_factory.mktemp("matrix"), tiny_model, photos)
    for ranks in RANKS:
        stages, changes = {}, {}
        for stage, accumulation, frozen in product(STAGES, ACCUMULATIONS, (False, True)):
            name = name_of(ranks, stage, accumulation, frozen=frozen)
            stages[name] = stage
            training: dict[str, Any] = {"steps": STEPS, "batch_size": BATCH, "train_text_encoder": not frozen}
            changes[name] = {"training": {**training, "gradient_accumulation": accumulation}}
        matrix.run(ranks, stages, changes=changes)
    return matrix


@pytest.mark.parametrize("frozen", [False, True], ids=["trained", "frozen"])
@pytest.mark.parametrize("accumulation", ACCUMULATIONS)
@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("ranks", RANKS)
def test_losses_agree_with_one_reference(
    matrix: Matrix, ranks: int, stage: int, accumulation: int, frozen: bool
) -> None:
    reference = matrix.losses(name_of(1, 0, 1, frozen=frozen))
    assert len(set(reference.values())) == STEPS
    found = matrix.losses(name_of(ranks, stage, accumulation, frozen=frozen))
    assert found == pytest.approx(reference, abs=1e-4)


def test_what_two_ranks_began_three_go_on_with(tiny_model: Path, photos: Path, tmp_path: Path) -> None:
    matrix = Matrix(tmp_path, tiny_model, photos)
    training = {"steps": 20, "batch_size": BATCH}
    matrix.run(2, {"two": 2}, training=training)
    place = Path("attempt-1") / f"step-{MIDDLE:06d}"
    shutil.copytree(matrix.checkpoints("two") / place, matrix.checkpoints("three") / place)
    matrix.run(3, {"three": 3}, training=training)
    late = {step: loss for step, loss in matrix.losses("two").items() if step > MIDDLE}
    resumed = matrix.losses("three")
    assert late and {step: resumed[step] for step in late} == pytest.approx(late, abs=1e-5)
