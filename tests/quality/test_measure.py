"""From picture files to figures: as by hand from the embeddings, and the same at any number of ranks."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from bed.tiny_encoders import Noise
from PIL import Image
from quality.measure_ranks import EVALUATION, comparisons_in

from kubooth_trainer.distributed import World
from kubooth_trainer.encoders import Encoders, load_encoders
from kubooth_trainer.measure import Subject, measure
from kubooth_trainer.quality import Quality

ALONE = World(rank=0, size=1, local_rank=0, local_size=1, device=torch.device("cpu"))
RANKS_SECONDS = 300  # a bound, not an expectation


@pytest.fixture(scope="module")
def encoders(encoder_folders: dict[str, Path]) -> Encoders:
    uris = {role: folder.as_uri() for role, folder in encoder_folders.items()}
    return load_encoders(encoder_folders, uris, torch.device("cpu"))  # type: ignore[arg-type]


@pytest.fixture
def folder(tmp_path: Path, noise: Noise) -> Path:
    """Three prompts, the last of the class, with three pictures on each side, and three photos."""
    for index, path in enumerate(path for each in comparisons_in(tmp_path) for path in (*each.before, *each.after)):
        path.parent.mkdir(parents=True, exist_ok=True)
        noise(100 + index).save(path)
    for index in range(3):
        noise(index, 64 if index else 80).save(tmp_path / f"photo-{index}.png")
    return tmp_path


def subject_in(folder: Path, count: int = 3) -> Subject:
    names = [f"photo-{index}.png" for index in range(count)]
    return Subject(names=names, images=[Image.open(folder / name) for name in names])


def measured(encoders: Encoders, folder: Path, photos: int = 3) -> Quality:
    return measure(
        EVALUATION, encoders, subject_in(folder, photos), comparisons_in(folder), world=ALONE, moved=lambda: None
    )


def unit(rows: torch.Tensor) -> np.ndarray:
    values = rows.double().numpy()
    return values / np.linalg.norm(values, axis=1, keepdims=True)


def test_figures_equal_sums_done_by_hand(encoders: Encoders, folder: Path) -> None:
    quality = measured(encoders, folder)
    assert encoders.dino is not None and encoders.clip is not None and encoders.lpips is not None
    comparisons = comparisons_in(folder)
    photos = subject_in(folder).images

    def pictures(number: int, side: str) -> list[Image.Image]:
        return [Image.open(path).convert("RGB") for path in getattr(comparisons[number], side)]

    for side in ("before", "after"):
        for name, encoder, prompts in (
            ("Dino", encoders.dino, (0, 1)),
            ("ClipI", encoders.clip, (0, 1)),
            ("Pres", encoders.dino, (2,)),
        ):
            real = unit(encoder.embed(photos))
            by_hand = np.mean([np.mean(unit(encoder.embed(pictures(n, side))) @ real.T) for n in prompts])
            figure = quality.figure(name)
            assert figure is not None
            assert getattr(figure, side).value == pytest.approx(by_hand, abs=1e-6)
            assert getattr(figure, side).count == 9 * len(prompts)
        texts = unit(encoders.clip.read([comparison.plain for comparison in comparisons]))
        by_hand = np.mean([(unit(encoders.clip.embed(pictures(n, side))) @ texts[n]).mean() for n in (0, 1)])
        fidelity = quality.figure("ClipT")
        assert fidelity is not None and getattr(fidelity, side).value == pytest.approx(by_hand, abs=1e-6)
        for name, prompts in (("Div", (0, 1)), ("ClassDiv", (2,))):
            matrices = [encoders.lpips.distances(pictures(n, side)).numpy() for n in prompts]
            by_hand = np.mean([m[np.triu_indices(3, 1)].mean() for m in matrices])
            diversity = quality.figure(name)
            assert diversity is not None and getattr(diversity, side).value == pytest.approx(by_hand, abs=1e-6)


def test_the_upper_bound_leaves_a_photo_out_of_its_own_comparison(encoders: Encoders, folder: Path) -> None:
    assert encoders.dino is not None
    rows = unit(encoders.dino.embed(subject_in(folder).images))
    figure = measured(encoders, folder).figure("Dino")
    assert figure is not None and figure.bound is not None
    expected = np.mean([rows[0] @ rows[1], rows[0] @ rows[2], rows[1] @ rows[2]])
    assert figure.bound.value == pytest.approx(expected, abs=1e-6)


def test_a_copied_photo_is_found(encoders: Encoders, folder: Path) -> None:
    copy = comparisons_in(folder)[1].after[2]
    Image.open(folder / "photo-2.png").save(copy)
    overfit = measured(encoders, folder).overfit
    assert overfit is not None
    assert (overfit.after.value, overfit.photo) == (pytest.approx(1.0, abs=1e-6), "photo-2.png")
    assert overfit.prompt == comparisons_in(folder)[1].prompt


def test_with_one_photo_what_needs_two_is_said_to_be_undefined(encoders: Encoders, folder: Path) -> None:
    quality = measured(encoders, folder, photos=1)
    figure = quality.figure("Dino")
    assert figure is not None and figure.bound is not None and figure.after.value is not None
    assert (figure.bound.value, figure.bound.note) == (None, "there are no two photos to compare")
    assert quality.overfit is not None and quality.overfit.bound.note == "one photo only"
    assert "NaN" not in quality.to_json()


def test_only_what_is_asked_for_is_measured(encoders: Encoders, folder: Path) -> None:
    asked = EVALUATION.model_copy(update={"metrics": ("ClipT",)})
    quality = measure(asked, encoders, subject_in(folder), comparisons_in(folder), world=ALONE, moved=lambda: None)
    assert [figure.name for figure in quality.figures] == ["ClipT"]


def test_two_ranks_give_the_figures_of_one(encoders: Encoders, encoder_folders: dict[str, Path], folder: Path) -> None:
    script = str(Path(__file__).with_name("measure_ranks.py"))
    folders = json.dumps({role: str(path) for role, path in encoder_folders.items()})
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command = [*launcher, script, str(folder), folders]
    subprocess.run(command, check=True, capture_output=True, timeout=RANKS_SECONDS)
    alone = measured(encoders, folder)
    for rank in range(2):
        assert json.loads((folder / f"rank-{rank}.json").read_text()) == pytest.approx(alone.flat(), abs=1e-6)
