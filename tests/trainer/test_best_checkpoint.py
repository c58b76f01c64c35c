"""`evaluation.bestCheckpoint` in whole runs: the chosen state is that of a training that ends there; restarts go on."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from trainer.test_job import output_of, weights_of
from trainer.tiny_job import STEPS, Launch, MakeConfig, Run, config_dict, start_launcher

from kubooth_trainer.config import TrainConfig
from kubooth_trainer.progress import Event, InfoEvent, ProgressEvent, Reporter, StageEvent
from kubooth_trainer.report_data import report_from_json
from kubooth_trainer.selection import Selection, ranked
from kubooth_trainer.stages import train as train_stage

EVERY = 5


def selecting(encoders: dict[str, Path], *, early_stop: bool = False) -> dict[str, Any]:
    return {
        "evaluation__encoders": {role: folder.as_uri() for role, folder in encoders.items()},
        "evaluation__best_checkpoint": {
            "every_steps": EVERY,
            "prompts": ["a photo of a {identifier} {class}", "a photo of a {class}"],
            "images_per_prompt": 1,
            "early_stop": early_stop,
        },
        "checkpoints__keep": 1,
        "checkpoints__every_steps": 1000,
    }


def selection_of(output: Path) -> Selection:
    path = output / "report.json"
    found = report_from_json(path.read_bytes(), where=str(path)).selection
    assert found is not None
    return found


def measured_steps(run: Run) -> list[int]:
    told = [event.key for event in run.events if isinstance(event, InfoEvent) and event.key.startswith("state at")]
    return [int(key.rpartition(" ")[2]) for key in told]


def is_measured(event: Event) -> bool:
    return isinstance(event, InfoEvent) and event.key.startswith("state at")


def last_of_train(run: Run) -> StageEvent:
    return [event for event in run.events if isinstance(event, StageEvent) and event.stage == "Train"][-1]


@pytest.fixture(scope="module")
def whole(
    tiny_model: Path, photos: Path, encoder_folders: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> tuple[dict[str, Any], Run]:
    """A job that nothing happens to: its config and its run."""
    folder = tmp_path_factory.mktemp("whole")
    config = config_dict(tiny_model, photos, folder, **selecting(encoder_folders))
    run = start_launcher(config, folder, "whole")
    with run.process:
        assert run.finish().result
    return config, run


def test_the_result_is_the_state_of_the_highest_score(
    whole: tuple[dict[str, Any], Run], launch: Launch, make_config: MakeConfig, tmp_path: Path
) -> None:
    config, run = whole
    assert measured_steps(run) == [5, 10, 15, 20]
    losses = [event.step for event in run.events if isinstance(event, ProgressEvent)]
    assert losses == [5, 10, 15, 20], "each stretch goes on where the one before ended"
    found = selection_of(output_of(config))
    assert found.step == ranked(found.probes)[0].step and not found.stopped_early
    assert last_of_train(run).note == f"the state at step {found.step} is the best"
    manifest = json.loads((output_of(config) / "manifest.json").read_text())
    assert manifest["step"] == found.step
    page = (output_of(config) / "report.html").read_text()
    assert f"The result is the state after step {found.step}" in page
    assert not list(Path(config["checkpoints"]["uri"].removeprefix("file://")).rglob("*"))
    plain = make_config(training__steps=found.step, output__uri=(tmp_path / "plain").as_uri())
    assert launch(plain).finish().result
    assert weights_of(output_of(config)) == weights_of(output_of(plain)), "as if training had ended there"


def test_a_start_that_begins_with_measuring_says_what_it_trains_by_when_it_trains(
    make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch, encoder_folders: dict[str, Path]
) -> None:
    """The start before was killed while it measured: the first stretch finds nothing to train."""
    stretches: list[tuple[int, bool, bool]] = []

    def train(*_: Any, until: int, goes_on: bool, has_told: bool) -> object | None:
        stretches.append((until, goes_on, has_told))
        return object() if until > EVERY else None

    monkeypatch.setattr(train_stage, "train", train)
    config, reporter = TrainConfig.model_validate(make_config(**selecting(encoder_folders))), Reporter()
    reporter.begin("Train", total=STEPS, unit="steps")
    checkpoints = SimpleNamespace(at=lambda *_: None, newest=lambda _: object())
    train_stage._train_and_select(
        cast(Any, SimpleNamespace(config=config, plan=None, reporter=reporter)),
        cast(Any, None),
        cast(Any, SimpleNamespace(checkpoints=checkpoints)),
        cast(Any, SimpleNamespace(kept=list)),
    )
    assert stretches == [(5, False, False), (10, True, False), (15, True, True), (20, True, True)]


def test_stopped_between_states_it_goes_on_and_measures_none_twice(
    whole: tuple[dict[str, Any], Run], launch: Launch, make_config: MakeConfig, encoder_folders: dict[str, Path]
) -> None:
    config = make_config(**selecting(encoder_folders))
    run = launch(config)
    run.until(is_measured)
    run.until(is_measured)
    run.process.send_signal(signal.SIGTERM)
    stopped = run.finish()
    assert stopped.code == 143
    again = launch(config).finish()
    assert again.result
    before, after = measured_steps(stopped), measured_steps(again)
    assert before[:2] == [5, 10] and before + after == [5, 10, 15, 20]
    undisturbed = output_of(whole[0])
    assert selection_of(output_of(config)) == selection_of(undisturbed)
    assert weights_of(output_of(config)) == weights_of(undisturbed)


def test_training_ends_early_where_what_was_measured_says_so(
    launch: Launch, make_config: MakeConfig, encoder_folders: dict[str, Path], tmp_path: Path
) -> None:
    config = make_config(**selecting(encoder_folders, early_stop=True))
    run = launch(config)
    run.until(is_measured)
    run.until(is_measured)
    run.process.send_signal(signal.SIGTERM)
    assert run.finish().code == 143
    kept = tmp_path / "checkpoints" / "selection" / "probes.json"
    told = json.loads(kept.read_text())
    first, *later = told["probes"]
    first |= {"dino": 0.9, "pres": 0.1, "clip_t": 0.3}  # what the next state measures cannot be better
    for probe in later:
        probe |= {"dino": 0.5, "pres": 0.2, "clip_t": 0.1}
    told["probes"] = [first, later[0], {**later[0], "step": 15, "pres": 0.3}]
    kept.write_text(json.dumps(told))
    again = launch(config).finish()
    assert again.result
    found = selection_of(output_of(config))
    assert (found.step, found.stopped_early) == (5, True)
    train = last_of_train(again)
    assert (train.state, train.done, train.total) == ("Succeeded", 15, STEPS)
    assert train.note == "stopped at step 15, the state at step 5 is the best"
    plain = make_config(training__steps=5, output__uri=(tmp_path / "plain").as_uri())
    assert launch(plain).finish().result
    assert weights_of(output_of(config)) == weights_of(output_of(plain)), "the best was kept beside the newest"


@pytest.mark.soak
@pytest.mark.parametrize("zero_stage", [2, 3])
def test_two_ranks_measure_the_same(
    whole: tuple[dict[str, Any], Run],
    launch: Launch,
    make_config: MakeConfig,
    encoder_folders: dict[str, Path],
    tmp_path: Path,
    zero_stage: int,
) -> None:
    two = make_config(
        **selecting(encoder_folders), parallelism__devices_per_node=2, parallelism__zero_stage=zero_stage,
        output__uri=(tmp_path / "two").as_uri(),
    )  # fmt: skip
    two["workdir"] = str(tmp_path / "two-work")
    assert launch(two).finish().result
    ours, theirs = selection_of(output_of(two)), selection_of(output_of(whole[0]))
    for mine, other in zip(ours.probes, theirs.probes, strict=True):
        assert (mine.dino, mine.pres, mine.clip_t) == pytest.approx((other.dino, other.pres, other.clip_t), abs=5e-3)


def test_photos_that_cannot_be_measured_are_trained_on_to_the_end(launch: Launch, make_config: MakeConfig) -> None:
    config = make_config(
        evaluation__best_checkpoint={
            "every_steps": EVERY, "prompts": ["a {identifier} {class}"], "images_per_prompt": 1, "early_stop": True
        },
        evaluation__encoders={"dino": (Path(__file__).parents[2] / "world/kubooth_world/encoders/dino").as_uri()},
    )  # fmt: skip
    run = launch(config).finish()
    assert run.result
    assert any("the last state is the result" in getattr(event, "message", "") for event in run.events)
    assert json.loads((output_of(config) / "manifest.json").read_text())["step"] == STEPS
