"""AdamW8bit beside AdamW: what is learned, what is kept, how it goes on; on a small network at every ZeRO stage, and in
whole trainings of the tiny model."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from trainer.adamw8bit_ranks import CASES, MIDDLE, STEPS, network
from trainer.test_bad_inputs import Inputs
from trainer.test_matrix import MIDDLE as TINY_MIDDLE
from trainer.test_matrix import STEPS as TINY_STEPS
from trainer.test_matrix import Matrix
from trainer.tiny_job import RUN_SECONDS, MakeConfig

from kubooth_trainer.adamw8bit import MOMENT_BYTES, make_adamw8bit, require_adamw8bit, unpacked
from kubooth_trainer.config import TrainConfig
from kubooth_trainer.distributed import World
from kubooth_trainer.engine import Sharding
from kubooth_trainer.errors import ConfigError
from kubooth_trainer.plan import going_on, make_plan

DRIVER = Path(__file__).with_name("adamw8bit_ranks.py")
TOLERANCE = 2e-4  # in losses of about 2, over some 12 steps
CUT = 50_000  # numbers of a group of the tiny model
NUMBERS = sum(parameter.numel() for parameter in network().parameters())


@dataclass(frozen=True)
class Small:
    """Trainings of the small network on so many ranks."""

    ranks: int
    folder: Path
    losses: dict[str, list[float]]

    def saved(self, case: str, kind: str) -> Path:
        return self.folder / case / "attempt-1" / f"step-{STEPS:06d}" / f"{kind}.safetensors"

    def sharding(self, case: str) -> dict[str, int] | None:
        manifest = json.loads(self.saved(case, "weights").with_name("checkpoint.json").read_text())
        return manifest.get("sharding")  # type: ignore[no-any-return]


@pytest.fixture(scope="module", params=[1, 2], ids=["1 rank", "2 ranks"])
def small(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Small:
    folder = tmp_path_factory.mktemp("small")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(request.param)]
    done = subprocess.run(
        [*command, str(DRIVER), str(folder)], capture_output=True, text=True, timeout=RUN_SECONDS, check=False
    )
    assert done.returncode == 0, done.stderr[-5000:]
    lines = [line.removeprefix("RESULT ") for line in done.stdout.splitlines() if line.startswith("RESULT ")]
    return Small(request.param, folder, {each["case"]: each["losses"] for each in map(json.loads, lines)})


IN_8_BITS = [case for case in CASES if case != "AdamW"]


@pytest.mark.parametrize("case", IN_8_BITS)
def test_it_learns_as_adamw_does(small: Small, case: str) -> None:
    expected, found = torch.tensor(small.losses["AdamW"]), torch.tensor(small.losses[case])
    assert not found.equal(expected)
    assert ((found - expected).abs() / expected).max() < (0.01 if case == "bf16" else 0.001)


@pytest.mark.parametrize("case", CASES)
def test_resumed_at_the_same_size_it_ends_with_the_same_bytes(small: Small, case: str) -> None:
    kinds = ["weights", "ema", *(["exp_avg", "exp_avg_sq"] if case == "AdamW" else ["moments_8bit"])]
    for kind in kinds:
        assert small.saved(f"{case} resumed", kind).read_bytes() == small.saved(case, kind).read_bytes(), kind
    assert small.losses[f"{case} resumed"] == small.losses[case][MIDDLE:]


@pytest.mark.parametrize("case", IN_8_BITS)
def test_moments_take_a_quarter_and_say_what_they_are_tied_to(small: Small, case: str) -> None:
    held = sum(value.nbytes for value in load_file(small.saved(case, "moments_8bit")).values())
    assert MOMENT_BYTES / 8 <= held / (8 * NUMBERS) < 0.27  # padding; at ZeRO 0 biases stay in fp32
    stage = CASES[case][0]
    assert small.sharding(case) == {"zero_stage": stage, "parts": small.ranks if stage else 1}


@pytest.mark.parametrize(("case", "groups"), [("2", 2), ("cut", 4)])
def test_a_group_of_more_numbers_than_the_library_counts_is_cut(small: Small, case: str, groups: int) -> None:
    shards = {name.rpartition("/")[0] for name in load_file(small.saved(case, "moments_8bit"))}
    assert len(shards) == groups * small.ranks


def test_groups_are_cut_between_parameters_and_keep_their_options(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kubooth_trainer.adamw8bit.MOST_NUMBERS", 10)
    sizes = [[4, 6, 1, 12, 3], [10]]
    made = make_adamw8bit(
        [
            {"params": [torch.zeros(size) for size in group], "lr": rate, "initial_lr": rate}
            for group, rate in zip(sizes, (1.0, 2.0), strict=True)
        ]
    )
    found = [([len(each) for each in group["params"]], group["lr"]) for group in made.param_groups]
    assert found == [([4, 6], 1.0), ([1], 1.0), ([12], 1.0), ([3], 1.0), ([10], 2.0)]
    assert all(group["initial_lr"] == group["lr"] for group in made.param_groups)


def test_state_of_adamw_is_tied_to_nothing(small: Small) -> None:
    assert small.sharding("AdamW") is None


@pytest.mark.parametrize(
    ("saved", "stage", "ranks", "goes_on"),
    [
        (Sharding(2, 2), 2, 2, True),
        (Sharding(2, 2), "Auto", 2, True),
        (Sharding(0, 1), "Auto", 1, True),
        (Sharding(0, 1), 0, 2, True),
        (Sharding(2, 2), 2, 1, False),
        (Sharding(2, 1), 2, 2, False),
        (Sharding(2, 2), 3, 2, False),
        (Sharding(2, 2), 0, 2, False),
        (Sharding(2, 2), "Auto", 1, False),
    ],
)
def test_moments_go_on_at_their_size_only(
    make_config: MakeConfig, saved: Sharding, stage: int | str, ranks: int, *, goes_on: bool
) -> None:
    config = TrainConfig.model_validate(
        make_config(parallelism__zero_stage=stage, parallelism__devices_per_node=ranks, training__precision="FP32")
    )
    world = World(rank=0, size=ranks, local_rank=0, local_size=ranks, device=torch.device("cpu"))
    plan = make_plan(config, world)
    if goes_on:
        assert going_on(config, plan, world, saved).parallelism.zero_stage == saved.zero_stage
        return
    with pytest.raises(ConfigError, match=r"^parallelism: .* saved at zeroStage 2 on [12] devices in all, and"):
        going_on(config, plan, world, saved)


def test_of_another_layout_nothing_is_taken() -> None:
    with pytest.raises(ValueError, match="4096 numbers for a parameter of 5000"):
        unpacked(
            make_adamw8bit([{"params": [torch.zeros(5000)], "lr": 1.0}]), torch.zeros(5000), step=1, prefix="0/0",
            read=lambda name: torch.zeros(4096, dtype=torch.uint8),
        )  # fmt: skip


@pytest.fixture
def inputs(tmp_path: Path, tiny_model: Path, photos: Path) -> Inputs:
    return Inputs(tmp_path, tiny_model, photos)


@pytest.fixture(scope="module")
def tiny(tiny_model: Path, photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Matrix:
    """The tiny model on two ranks: with AdamW, with AdamW8bit, and in two halves, the second with `zeroStage: Auto`."""
    matrix = Matrix(tmp_path_factory.mktemp("tiny"), tiny_model, photos)
    in_8_bits: dict[str, Any] = {"optimizer": "AdamW8bit"}
    place = {"uri": matrix.checkpoints("halves").as_uri(), "every_steps": TINY_MIDDLE, "keep": 9}
    matrix.run(
        2,
        {"AdamW": 2, "AdamW8bit": 2, "first half": 2, "second half": 0, "cut": 2},
        changes={
            "AdamW8bit": {"training": in_8_bits},
            "cut": {"training": in_8_bits, "most_numbers": CUT},
            "first half": {"training": {**in_8_bits, "steps": TINY_MIDDLE}, "checkpoints": place},
            "second half": {"training": in_8_bits, "checkpoints": place, "parallelism": {"zero_stage": "Auto"}},
        },
    )
    return matrix


def test_losses_of_the_tiny_model_are_those_of_adamw(tiny: Matrix) -> None:
    assert tiny.losses("AdamW8bit") == pytest.approx(tiny.losses("AdamW"), abs=TOLERANCE)
    assert tiny.losses("AdamW8bit") != tiny.losses("AdamW")


def test_cut_groups_learn_the_same_at_their_learning_rates(tiny: Matrix) -> None:
    assert tiny.losses("cut") == pytest.approx(tiny.losses("AdamW8bit"), abs=TOLERANCE)
    last = Path("attempt-1") / f"step-{TINY_STEPS:06d}" / "moments_8bit.safetensors"
    names = [load_file(tiny.checkpoints(name) / last).keys() for name in ("AdamW8bit", "cut")]
    before, after = ({name.rpartition("/")[0] for name in each} for each in names)
    assert len(before) == 2 * 2 and len(after) > 2 * 3


@pytest.mark.parametrize("kind", ["weights", "moments_8bit"])
def test_a_stopped_training_goes_on_at_the_stage_of_its_checkpoint(tiny: Matrix, kind: str) -> None:
    last = Path("attempt-1") / f"step-{TINY_STEPS:06d}" / f"{kind}.safetensors"
    assert (tiny.checkpoints("halves") / last).read_bytes() == (tiny.checkpoints("AdamW8bit") / last).read_bytes()
    assert tiny.results["second half"]["warnings"] == []


def test_a_trainer_without_bitsandbytes_says_so_before_anything_else(
    inputs: Inputs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    inputs.config["training"]["optimizer"] = "AdamW8bit"
    shutil.rmtree(inputs.photos)  # which are looked at next
    error = inputs.run()
    assert (error.reason, str(error)) == (
        "ConfigError",
        "training.optimizer: AdamW8bit needs bitsandbytes, which this trainer does not have; "
        "pip install 'kubooth[bnb]', or use AdamW",
    )


def test_a_bitsandbytes_that_fails_is_told_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def step(self: object) -> None:
        raise RuntimeError("\n\nCUDA VERSION MISMATCH\nRequested: 99.0")

    monkeypatch.setattr("bitsandbytes.optim.AdamW8bit.step", step)
    with pytest.raises(ConfigError, match=r"^training.optimizer: .* on cpu \(CUDA VERSION MISMATCH\); install"):
        require_adamw8bit(torch.device("cpu"))
    monkeypatch.undo()
    require_adamw8bit(torch.device("cpu"))
