"""Curves of a training for TensorBoard, MLflow and Weights & Biases: sinks of `progress`, made by `main` on rank 0.

Each tracker has a thread of its own, so that a slow or dead server costs curves and nothing else. What is told:
losses, learning rate and speed by step, the settings of the training, and the figures of the result. Credentials come
from the environment, where the clients look for them, and what a client says in an error is never printed.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import queue
import sys
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any, Literal, Protocol

from kubooth_trainer.config import MlflowConfig, TrainConfig, WandbConfig
from kubooth_trainer.errors import ConfigError
from kubooth_trainer.progress import Event, ProgressEvent, QualityEvent

Verdict = Literal["FINISHED", "FAILED", "KILLED"]  # in MLflow's words

FLUSH_SECONDS = 5.0  # beside those of the status, at the very end
PENDING = 4096  # batches of figures that may wait for a server
_CLIENTS = {"tensorboard": "tensorboard", "mlflow": "mlflow", "wandb": "wandb"}  # field and module, and our extra
_JOB_TAG = "kubooth.job"


class Tracker(Protocol):
    """One run on one tracker. Only the thread of its sink calls it; whatever it raises ends the tracking."""

    def begin(self) -> None: ...
    def log(self, values: Mapping[str, float], step: int) -> None: ...
    def end(self, verdict: Verdict) -> None: ...


def trackers(config: TrainConfig) -> list[Tracker]:
    """What the config asks for, not begun. Raises ConfigError where this image lacks a client."""
    tracking = config.tracking
    for kind, module in _CLIENTS.items():
        if getattr(tracking, kind) is not None and importlib.util.find_spec(module) is None:
            raise ConfigError(
                f"tracking.{kind} of the runtime: this trainer has no {module}; "
                f"use an image with 'kubooth[{kind}]' installed, or leave the field out"
            )
    chosen: list[Tracker] = []
    if tracking.tensorboard is not None:
        chosen.append(TensorBoard(tracking.tensorboard, config))
    if tracking.mlflow is not None:
        chosen.append(Mlflow(tracking.mlflow, config))
    if tracking.wandb is not None:
        chosen.append(Wandb(tracking.wandb, config))
    return chosen


def settings_of(config: TrainConfig) -> dict[str, str | int | float | bool]:
    """The settings of a training, flat: `training.learning_rate` and so on."""
    parts = {
        "training": config.training.model_dump(exclude_none=True),
        "model": config.model.model_dump(exclude_none=True),
        "job": config.job.model_dump(include={"name", "namespace"}),
    }
    return {
        f"{part}.{name}": value if isinstance(value, str | int | float | bool) else str(value)
        for part, values in parts.items()
        for name, value in values.items()
    }


class TrackingSink:
    """Hands figures to a tracker's own thread. Nothing here blocks; after a failure figures are dropped, said once."""

    def __init__(self, tracker: Tracker) -> None:
        self._tracker = tracker
        self._queue: queue.Queue[Callable[[], None] | None] = queue.Queue(PENDING)
        self._step = 0
        self._failed = False
        self._queue.put(tracker.begin)
        self._thread = threading.Thread(target=self._work, name=type(tracker).__name__, daemon=True)
        self._thread.start()

    def emit(self, event: Event) -> None:
        match event:
            case ProgressEvent():
                self._step = event.step
                self._offer(figures_of_step(event))
            case QualityEvent():
                self._offer(figures_of_result(event))

    def close(self, verdict: Verdict, seconds: float = FLUSH_SECONDS) -> None:
        """Ends the run, as far as that is possible within `seconds`."""
        deadline = time.monotonic() + seconds
        try:
            self._queue.put(lambda: self._tracker.end(verdict), timeout=seconds)
            self._queue.put(None, timeout=max(0.0, deadline - time.monotonic()))
        except queue.Full:
            return
        self._thread.join(max(0.0, deadline - time.monotonic()))

    def _offer(self, values: Mapping[str, float]) -> None:
        step = self._step
        if self._failed or not values:
            return
        try:
            self._queue.put_nowait(lambda: self._tracker.log(values, step))
        except queue.Full:
            self._give_up("its server does not keep up")

    def _work(self) -> None:
        while (act := self._queue.get()) is not None:
            if self._failed:
                continue
            try:
                act()
            except Exception as error:  # noqa: BLE001 - whatever a client raises, training goes on
                self._give_up(type(error).__name__)

    def _give_up(self, why: str) -> None:
        self._failed = True
        name = type(self._tracker).__name__
        print(f"tracking by {name} failed and is dropped ({why}); training goes on", file=sys.stderr, flush=True)


def figures_of_step(event: ProgressEvent) -> dict[str, float]:
    """What the curves are drawn of; what is not known is left out."""
    figures = {
        "train/loss": event.loss,
        "train/instance_loss": event.instance_loss,
        "train/prior_loss": event.prior_loss,
        "train/grad_norm": event.grad_norm,
        "train/learning_rate": event.learning_rate,
        "train/samples_per_second": event.samples_per_second,
    }
    return {name: value for name, value in figures.items() if value is not None}


def figures_of_result(event: QualityEvent) -> dict[str, float]:
    """Figures before and after the training, such as `quality/Dino/after`."""
    pairs = ((each.name, when, getattr(each, when)) for each in event.figures for when in ("before", "after"))
    return {f"quality/{name}/{when}": value for name, when, value in pairs if value is not None}


class TensorBoard:
    """Event files in a folder of the run. A restart hides the points that it makes anew."""

    def __init__(self, folder: str, config: TrainConfig) -> None:
        self._folder = os.path.join(folder, config.job.namespace, config.tracking.name.replace("/", "-"))
        self._settings = settings_of(config)
        self._writer: Any = None

    def begin(self) -> None:
        os.makedirs(self._folder, exist_ok=True)

    def log(self, values: Mapping[str, float], step: int) -> None:
        if self._writer is None:
            self._writer = importlib.import_module("torch.utils.tensorboard").SummaryWriter(
                self._folder, purge_step=step
            )
            table = "\n".join(f"    {name}: {value}" for name, value in self._settings.items())
            self._writer.add_text("settings", table, step)
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)
        self._writer.flush()

    def end(self, verdict: Verdict) -> None:
        if self._writer is not None:
            self._writer.close()


class Mlflow:
    """A run on an MLflow server; a restarted job goes on in its run, which carries the job's UID as a tag."""

    def __init__(self, server: MlflowConfig, config: TrainConfig) -> None:
        self._server, self._config = server, config
        self._client: Any = None
        self._run = ""
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "3")
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "20")
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")  # else the client reports to its makers
        with suppress(Exception):  # before libraries are imported without it (`company`); what is wrong `begin` says
            importlib.import_module("mlflow")

    def begin(self) -> None:
        self._client = importlib.import_module("mlflow").MlflowClient(tracking_uri=self._server.uri)
        known = self._client.get_experiment_by_name(self._server.experiment)
        experiment = known.experiment_id if known else self._client.create_experiment(self._server.experiment)
        uid = self._config.job.uid
        found = self._client.search_runs([experiment], f"tags.`{_JOB_TAG}` = '{uid}'", max_results=1) if uid else []
        if found:
            self._run = found[0].info.run_id
            self._client.update_run(self._run, status="RUNNING")
            return
        tags = {_JOB_TAG: uid} if uid else {}
        self._run = self._client.create_run(experiment, run_name=self._config.tracking.name, tags=tags).info.run_id
        parameter = importlib.import_module("mlflow.entities").Param
        # In one request: one for each would take longer than a short training.
        settings = [parameter(name, str(value)) for name, value in settings_of(self._config).items()]
        self._client.log_batch(self._run, params=settings)

    def log(self, values: Mapping[str, float], step: int) -> None:
        metric = importlib.import_module("mlflow.entities").Metric
        now = int(time.time() * 1000)
        self._client.log_batch(self._run, metrics=[metric(name, value, now, step) for name, value in values.items()])

    def end(self, verdict: Verdict) -> None:
        self._client.set_terminated(self._run, status=verdict)


class Wandb:
    """A run on Weights & Biases; a restarted job goes on in its run, whose id is the job's UID."""

    def __init__(self, project: WandbConfig, config: TrainConfig) -> None:
        self._project, self._config = project, config
        self._run: Any = None

    def begin(self) -> None:
        wandb = importlib.import_module("wandb")
        self._run = wandb.init(
            project=self._project.project,
            entity=self._project.entity,
            name=self._config.tracking.name,
            id=self._config.job.uid,
            resume="allow",
            dir=self._config.workdir,
            config=settings_of(self._config),
            settings=wandb.Settings(
                silent=True, console="off", disable_git=True, disable_code=True,
                **({"base_url": self._project.url} if self._project.url else {}),
            ),
        )  # fmt: skip

    def log(self, values: Mapping[str, float], step: int) -> None:
        self._run.log(dict(values), step=step)

    def end(self, verdict: Verdict) -> None:
        self._run.finish(exit_code=0 if verdict == "FINISHED" else 1)
