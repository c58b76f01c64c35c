"""Trackers of experiments: what they keep is read back with their own readers; none of them is in training's way."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from trainer.tiny_job import config_dict

from kubooth_trainer import tracking
from kubooth_trainer.config import TrainConfig
from kubooth_trainer.errors import ConfigError
from kubooth_trainer.progress import Event, FigureShown, ProgressEvent, QualityEvent
from kubooth_trainer.tracking import TrackingSink, Verdict, trackers

SECONDS = 60.0  # a bound, not an expectation


def config(folder: Path, **chosen: Any) -> TrainConfig:
    wanted = {"name": "my dog", "tensorboard": None, "mlflow": None, "wandb": None, **chosen}
    raw = config_dict(folder, folder, folder, tracking=wanted, job__uid="u-1")
    return TrainConfig.model_validate(raw)


def progress(step: int, loss: float) -> ProgressEvent:
    return ProgressEvent(
        step=step, total=20, loss=loss, instance_loss=0.25, prior_loss=None, grad_norm=1.5, learning_rate=1e-6,
        samples_per_second=8.0, eta_seconds=1.0, time=0.0,
    )  # fmt: skip


QUALITY = QualityEvent(verdict=None, message="", figures=[FigureShown(name="Dino", before=0.25, after=0.5)], report="")


def told(config: TrainConfig, events: list[Event], verdict: Verdict = "FINISHED") -> None:
    for tracker in trackers(config):
        sink = TrackingSink(tracker)
        for event in events:
            sink.emit(event)
        sink.close(verdict, seconds=SECONDS)


def test_nothing_is_tracked_unless_it_is_asked_for(tmp_path: Path) -> None:
    assert trackers(config(tmp_path)) == []


def test_tensorboard_reads_the_curves_and_a_restart_replaces_its_points(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    wanted = config(tmp_path, tensorboard=str(tmp_path / "curves"))
    told(wanted, [progress(5, 0.5), progress(10, 0.75)], "FAILED")
    told(wanted, [progress(10, 0.25), progress(15, 0.125), QUALITY])
    (folder,) = (tmp_path / "curves").glob("*/my dog")
    events = EventAccumulator(str(folder)).Reload()
    assert [(each.step, each.value) for each in events.Scalars("train/loss")] == [(5, 0.5), (10, 0.25), (15, 0.125)]
    assert [(each.step, each.value) for each in events.Scalars("quality/Dino/after")] == [(15, 0.5)]
    assert "train/prior_loss" not in events.Tags()["scalars"]


@pytest.mark.filterwarnings("ignore::FutureWarning")  # MLflow would rather have a database than files
def test_mlflow_has_one_run_of_a_job_with_all_its_attempts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from mlflow import MlflowClient

    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    store = (tmp_path / "mlflow").as_uri()
    wanted = config(tmp_path, mlflow={"uri": store, "experiment": "pets"})
    told(wanted, [progress(5, 0.5)], "KILLED")
    client = MlflowClient(tracking_uri=store)
    experiment = client.get_experiment_by_name("pets")
    assert experiment is not None
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.info.status == "KILLED"
    told(wanted, [progress(10, 0.25), QUALITY])
    (run,) = client.search_runs([experiment.experiment_id])
    assert (run.info.run_name, run.info.status) == ("my dog", "FINISHED")
    history = client.get_metric_history(run.info.run_id, "train/loss")
    assert [(each.step, each.value) for each in history] == [(5, 0.5), (10, 0.25)]
    assert run.data.metrics["quality/Dino/after"] == 0.5
    assert float(run.data.params["training.learning_rate"]) == wanted.training.learning_rate


@pytest.mark.parametrize(
    ("kind", "chosen"),
    [
        ("tensorboard", "/curves"),
        ("mlflow", {"uri": "http://mlflow", "experiment": "pets"}),
        ("wandb", {"project": "pets", "entity": None, "url": None}),
    ],
)
def test_a_missing_client_is_said_at_once(
    kind: str, chosen: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(tracking._CLIENTS, kind, "module_of_nobody")
    with pytest.raises(ConfigError, match=rf"tracking\.{kind} .* 'kubooth\[{kind}\]'"):
        trackers(config(tmp_path, **{kind: chosen}))


class Dead:
    """A tracker whose server refuses, in words that hold a secret."""

    def begin(self) -> None:
        raise ConnectionError("refused token=s3cret")

    def log(self, values: Mapping[str, float], step: int) -> None:
        raise AssertionError("not after a failure")

    def end(self, verdict: Verdict) -> None:
        raise AssertionError("not after a failure")


def test_a_dead_server_is_said_once_without_its_words(capfd: pytest.CaptureFixture[str]) -> None:
    sink = TrackingSink(Dead())
    for step in range(100):
        sink.emit(progress(step, 0.5))
    sink.close("FINISHED", seconds=SECONDS)
    said = capfd.readouterr().err
    assert said == "tracking by Dead failed and is dropped (ConnectionError); training goes on\n"


class Hanging(Dead):
    """A tracker whose server never answers."""

    def __init__(self) -> None:
        self.released = threading.Event()

    def begin(self) -> None:
        self.released.wait()


def test_a_server_that_never_answers_holds_up_nothing() -> None:
    tracker = Hanging()
    sink = TrackingSink(tracker)
    for step in range(2 * tracking.PENDING):
        sink.emit(progress(step, 0.5))
    started = time.monotonic()
    sink.close("FINISHED", seconds=0.05)
    assert time.monotonic() - started < SECONDS
    tracker.released.set()
