"""Trackers of experiments with real servers of MLflow and TensorBoard, and the client of W&B without a network."""

from __future__ import annotations

import json
import socket
import struct
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest
from bed.eventually import eventually
from bed.mlflow_server import PASSWORD, USER, MlflowServer
from bed.proxy import proxied
from trainer.test_tracking import QUALITY, SECONDS, config, progress, told

from kubooth_trainer.tracking import TrackingSink, trackers


@pytest.fixture(autouse=True)
def _nobody_else(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("no_proxy", "127.0.0.1")


@pytest.fixture
def credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    """As a pod has them from the runtime's Secret. One try for each request, to be quick about failures."""
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", USER)
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", PASSWORD)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")


def runs(server: MlflowServer, experiment: str) -> list[Any]:
    known = server.call(f"experiments/get-by-name?{urlencode({'experiment_name': experiment})}")["experiment"]
    return list(server.call("runs/search", experiment_ids=[known["experiment_id"]]).get("runs", []))


def kept(server: MlflowServer, experiment: str) -> list[tuple[int, float]]:
    """(step, loss) of the only run, in order of steps; none where there is no run yet."""
    try:
        found = runs(server, experiment)
    except urllib.error.HTTPError as error:
        if error.code != 404:
            raise
        return []
    asked = [urlencode({"run_id": run["info"]["run_id"], "metric_key": "train/loss"}) for run in found]
    answers = [server.call(f"metrics/get-history?{each}").get("metrics", []) for each in asked]
    return sorted((each["step"], each["value"]) for answer in answers for each in answer)


def test_mlflow_keeps_one_run_of_a_job_with_all_its_attempts(
    mlflow_server: MlflowServer, credentials: None, tmp_path: Path
) -> None:
    wanted = config(tmp_path, mlflow={"uri": mlflow_server.endpoint, "experiment": "pets"})
    told(wanted, [progress(5, 0.5)], "KILLED")
    (run,) = runs(mlflow_server, "pets")
    assert run["info"]["status"] == "KILLED"
    told(wanted, [progress(10, 0.25), QUALITY])
    (run,) = runs(mlflow_server, "pets")
    assert (run["info"]["run_name"], run["info"]["status"]) == ("my dog", "FINISHED")
    assert kept(mlflow_server, "pets") == [(5, 0.5), (10, 0.25)]
    metrics = {each["key"]: each["value"] for each in run["data"]["metrics"]}
    assert (metrics["quality/Dino/before"], metrics["quality/Dino/after"]) == (0.25, 0.5)
    parameters = {each["key"]: each["value"] for each in run["data"]["params"]}
    assert float(parameters["training.learning_rate"]) == wanted.training.learning_rate


def test_a_wrong_password_is_said_once_and_never_shown(
    mlflow_server: MlflowServer,
    credentials: None,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "s3cret")
    wanted = config(tmp_path, mlflow={"uri": mlflow_server.endpoint, "experiment": "refused"})
    told(wanted, [progress(step, 0.5) for step in range(1, 9)])
    said = capfd.readouterr().err
    assert said.count("tracking by Mlflow failed and is dropped") == 1
    assert "training goes on" in said and "s3cret" not in said


def test_a_server_that_goes_away_costs_the_curves_from_there_on(
    mlflow_server: MlflowServer, credentials: None, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with proxied(mlflow_server.endpoint) as way:
        (tracker,) = trackers(config(tmp_path, mlflow={"uri": way.endpoint, "experiment": "cut off"}))
        sink = TrackingSink(tracker)
        sink.emit(progress(5, 0.5))
        eventually(lambda: kept(mlflow_server, "cut off") == [(5, 0.5)], "the first point", seconds=SECONDS)
    for step in range(6, 20):  # nobody listens any more
        sink.emit(progress(step, 0.25))
    sink.close("FINISHED", seconds=SECONDS)
    said = capfd.readouterr().err
    assert said.count("tracking by Mlflow failed and is dropped") == 1
    (run,) = runs(mlflow_server, "cut off")
    assert run["info"]["status"] == "RUNNING"
    assert kept(mlflow_server, "cut off") == [(5, 0.5)]


@pytest.fixture
def tensorboard(tmp_path: Path) -> Iterator[str]:
    """The address of one that shows `tmp_path/curves`."""
    log = tmp_path / "tensorboard.log"
    command = [sys.executable, "-m", "tensorboard.main", f"--logdir={tmp_path / 'curves'}", "--host=127.0.0.1"]
    with log.open("wb") as output:
        server = subprocess.Popen([*command, "--port=0", "--reload_interval=1"], stdout=output, stderr=output)
    try:
        line = eventually(
            lambda: next((each for each in log.read_text().splitlines() if " at http://" in each), ""),
            "TensorBoard", seconds=2 * SECONDS, tell=log.read_text,
        )  # fmt: skip
        yield line.partition(" at ")[2].split("/ ")[0]
    finally:
        server.kill()
        server.wait()


def test_tensorboard_shows_the_curves_of_a_job_while_it_goes_on(tmp_path: Path, tensorboard: str) -> None:
    wanted = config(tmp_path, tensorboard=str(tmp_path / "curves"))
    run = f"{wanted.job.namespace}/my dog"

    def points(tag: str) -> list[tuple[int, float]]:
        address = f"{tensorboard}/data/plugin/scalars/scalars?{urlencode({'run': run, 'tag': tag})}"
        try:
            with urllib.request.urlopen(address, timeout=60) as answer:
                return [(step, value) for _, step, value in json.load(answer)]
        except urllib.error.HTTPError as error:
            if error.code != 404:
                raise
            return []  # it has not read them yet

    (tracker,) = trackers(wanted)
    sink = TrackingSink(tracker)
    sink.emit(progress(5, 0.5))
    eventually(lambda: points("train/loss") == [(5, 0.5)], "the point of step 5", seconds=SECONDS)
    sink.emit(progress(10, 0.25))
    sink.emit(QUALITY)
    sink.close("FINISHED", seconds=SECONDS)
    eventually(lambda: points("train/loss") == [(5, 0.5), (10, 0.25)], "both points", seconds=SECONDS)
    eventually(lambda: points("quality/Dino/after") == [(10, 0.5)], "the figure of the result", seconds=SECONDS)


def test_weights_and_biases_offline_needs_no_network_and_keeps_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:  # whatever would leave the machine comes here
        listener.setblocking(False)
        for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
            monkeypatch.setenv(name, f"http://127.0.0.1:{listener.getsockname()[1]}")
            monkeypatch.delenv(name.lower(), raising=False)
        monkeypatch.setenv("WANDB_MODE", "offline")
        monkeypatch.setenv("WANDB_DIR", str(tmp_path))
        wanted = config(tmp_path, wandb={"project": "pets", "entity": "vision", "url": None})
        told(wanted, [progress(5, 0.5), progress(10, 0.25), QUALITY])
        assert "failed" not in capfd.readouterr().err
        with pytest.raises(BlockingIOError):
            listener.accept()
    (kept,) = tmp_path.rglob("*.wandb")
    records = wandb_records(kept)
    (run,) = [each.run for each in records if each.HasField("run")]
    assert (run.project, run.entity, run.display_name, run.run_id) == ("pets", "vision", "my dog", "u-1")
    settings = {each.key or "/".join(each.nested_key): json.loads(each.value_json) for each in run.config.update}
    assert settings["training.learning_rate"] == wanted.training.learning_rate
    steps = [history_of(each.history) for each in records if each.HasField("history")]
    assert [(each["_step"], each["train/loss"]) for each in steps if "train/loss" in each] == [(5, 0.5), (10, 0.25)]
    assert [each["quality/Dino/after"] for each in steps if "quality/Dino/after" in each] == [0.5]
    assert [each.exit.exit_code for each in records if each.HasField("exit")] == [0]


def history_of(history: Any) -> dict[str, Any]:
    return {each.key or "/".join(each.nested_key): json.loads(each.value_json) for each in history.item}


def wandb_records(path: Path) -> list[Any]:
    """What the client wrote: after 7 bytes of header a log as LevelDB has it, in blocks of 32 KiB, of its own messages.

    A chunk is a checksum (4 bytes), its length (2), its kind (1; 1 whole, 2 first, 3 middle, 4 last) and its content.
    """
    from wandb.proto.wandb_internal_pb2 import Record

    content, at, records, pending = path.read_bytes(), 7, [], b""
    while at + 7 <= len(content):
        if (left := 32768 - at % 32768) < 7:
            at += left
            continue
        _, length, kind = struct.unpack("<IHB", content[at : at + 7])
        pending += content[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):
            records.append(Record.FromString(pending))
            pending = b""
    return records
