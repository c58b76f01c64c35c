"""The trainer's own writes to a real API server: with the Role and the policy of a job, and a token bound to a pod."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from bed.controlplane import ControlPlane
from cluster.test_api_status_policy import APPLY, STARTED, Gang, gang, make_pod  # noqa: F401 - a fixture

from kubooth_trainer.config import STAGES, JobIdentity
from kubooth_trainer.delivery import FIELD_MANAGER, StatusApi, StatusRefusedError, api_outlet
from kubooth_trainer.progress import CheckpointEvent, PriorEvent, ProgressEvent, Reporter, ResultEvent
from kubooth_trainer.status import StatusSink

SECONDS = 60.0  # a bound, not an expectation
OUTPUT = "s3://models/personalized/rex"


def until(condition: Callable[[], Any]) -> Any:
    deadline = time.monotonic() + SECONDS
    while not (value := condition()):
        assert time.monotonic() < deadline, "it did not come to pass"
        time.sleep(0.05)
    return value


class Pod:
    """Rank 0 of an attempt, as far as the API server can see it."""

    def __init__(self, gang: Gang, folder: Path, *, attempt: int = 1, uid: str | None = None) -> None:  # noqa: F811
        self.gang = gang
        self.name = make_pod(gang, f"rex-kubooth-{attempt}-0-abcde")
        self.credentials = folder
        (folder / "ca.crt").write_bytes(gang.plane.ca.read_bytes())
        self.rotate()
        metadata = gang.job()["metadata"]
        self.identity = JobIdentity(name="rex", namespace=gang.namespace, uid=uid or metadata["uid"], attempt=attempt)

    def rotate(self) -> None:
        (self.credentials / "token").write_text(self.gang.token(self.name) + "\n")

    def sink(self) -> StatusSink:
        return StatusSink([api_outlet(self.identity, self.gang.plane.endpoint, self.credentials)], total_steps=800)


def live(sink: StatusSink) -> Reporter:
    """A whole training, from the first word to the last."""
    reporter = Reporter(sinks=[sink], on_move=[sink.moved])
    reporter.plan()
    for stage in STAGES[:3]:
        reporter.begin(stage, total=4, unit="images")
        reporter.advance(stage, 2)
        reporter.end(stage)
    reporter.emit(PriorEvent(source="Generated", images=200, cache_key="k" * 64))
    reporter.begin("Train", total=800, unit="steps")
    reporter.emit(
        ProgressEvent(
            step=800, total=800, loss=0.125, instance_loss=0.1, prior_loss=0.025, grad_norm=1.0, learning_rate=5e-6,
            samples_per_second=8.5, eta_seconds=0.0, time=time.time(),
        )
    )  # fmt: skip
    reporter.emit(
        CheckpointEvent(uri=f"{OUTPUT}/.kubooth/checkpoints/attempt-1/step-000800", step=800, time=time.time())
    )
    for stage in STAGES[3:]:
        if stage != "Train":
            reporter.begin(stage, total=1, unit="images")
        reporter.end(stage)
    reporter.emit(
        ResultEvent(
            model=OUTPUT, report=f"{OUTPUT}/report.html", manifest=f"{OUTPUT}/manifest.json", identifier="sks",
            seconds=60.0, bytes=3_000_000_000, output=OUTPUT, manifest_digest="ab" * 32,
        )
    )  # fmt: skip
    return reporter


def test_a_whole_life_arrives_as_it_was_told(gang: Gang, tmp_path: Path) -> None:  # noqa: F811
    sink = Pod(gang, tmp_path).sink()
    live(sink)
    sink.close(SECONDS)
    job = gang.plane.get("pjob", "rex", "-n", gang.namespace, "--show-managed-fields")
    status = job["status"]
    assert {field: status[field] for field in STARTED} == STARTED
    assert [(stage["name"], stage["state"]) for stage in status["stages"]] == [(name, "Succeeded") for name in STAGES]
    assert status["progress"]["summary"] == "800/800 100%"
    assert status["prior"] == {"source": "Generated", "images": 200, "cacheKey": "k" * 64}
    assert status["checkpoint"]["step"] == 800
    assert status["output"] == {"uri": OUTPUT, "bytes": 3_000_000_000, "manifestDigest": "ab" * 32}
    assert status["report"] == {"uri": f"{OUTPUT}/report.html"}
    (entry,) = [entry for entry in job["metadata"]["managedFields"] if entry["manager"] == FIELD_MANAGER]
    assert (entry["operation"], entry["subresource"]) == ("Apply", "status")
    assert set(entry["fieldsV1"]["f:status"]) == {
        f"f:{field}" for field in ("stages", "progress", "checkpoint", "identifier", "prior", "output", "report")
    }


def test_a_job_that_was_made_again_under_this_name_is_not_written_to(gang: Gang, tmp_path: Path) -> None:  # noqa: F811
    pod = Pod(gang, tmp_path, uid="00000000-0000-0000-0000-000000000000")
    with pytest.raises(StatusRefusedError, match="made again under its name"):
        StatusApi(pod.identity, gang.plane.endpoint, pod.credentials).write({"identifier": "sks"})
    assert "identifier" not in gang.job()["status"]


def test_any_character_arrives(gang: Gang, tmp_path: Path) -> None:  # noqa: F811
    """The API server reads an apply as YAML, whose reader takes no surrogates."""
    pod = Pod(gang, tmp_path)
    text = 'a 🐕 \U00020bb7野 \\ud83d\\udc15 \u2028\u0085 é "quoted" \\'
    api = StatusApi(pod.identity, gang.plane.endpoint, pod.credentials)
    api.write({"identifier": text})
    assert gang.job()["status"]["identifier"] == text
    api.write({"identifier": "half \ud83d of one"})
    assert gang.job()["status"]["identifier"] == "half \ufffd of one"


def test_a_version_that_is_not_the_newest_is_a_conflict(gang: Gang, tmp_path: Path) -> None:  # noqa: F811
    """What the trainer's precondition rests on: a status that was written meanwhile, or is another job's."""
    pod = Pod(gang, tmp_path)
    version = gang.job()["metadata"]["resourceVersion"]
    token = gang.token(pod.name)
    assert gang.patch(token, {"identifier": "a"}, kind=APPLY, resourceVersion=version).code == 200
    assert gang.patch(token, {"identifier": "b"}, kind=APPLY, resourceVersion=version).code == 409
    StatusApi(pod.identity, gang.plane.endpoint, pod.credentials).write({"identifier": "c"})
    assert gang.job()["status"]["identifier"] == "c"


def test_a_superseded_attempt_is_refused_and_goes_on_unharmed(
    gang: Gang,  # noqa: F811
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    pod = Pod(gang, tmp_path)
    gang.as_admin({"attempts": 2})
    sink = pod.sink()
    reporter = live(sink)
    sink.close(2.0)
    assert sink in reporter.sinks
    assert "stages" not in gang.job()["status"]
    said = capfd.readouterr().err
    assert said.count("cannot be written now") == 1
    assert "HTTP 403" in said and "of attempt 2 of job rex" in said


def test_a_rotated_token(gang: Gang, tmp_path: Path) -> None:  # noqa: F811
    """The old one stops working while the trainer writes; the kubelet has put a new one in its place."""
    pod = Pod(gang, tmp_path)
    (tmp_path / "token").write_text("expired")
    sink = pod.sink()
    sink.moved()
    pod.rotate()
    until(lambda: "progress" in gang.job()["status"])
    sink.close(SECONDS)


def test_an_api_server_that_is_away_costs_freshness_only(api_server: ControlPlane, gang: Gang, tmp_path: Path) -> None:  # noqa: F811
    sink = Pod(gang, tmp_path).sink()
    reporter = Reporter(sinks=[sink], on_move=[sink.moved])
    reporter.plan()
    until(lambda: "stages" in gang.job()["status"])
    api_server.stop_apiserver()
    try:
        began = time.monotonic()
        reporter.begin("Download", total=1, unit="files")
        reporter.end("Download")
        for _ in range(1000):
            reporter.moved()
        assert time.monotonic() - began < 5
    finally:
        api_server.start_apiserver()
    reporter.begin("Prior", total=1, unit="images")
    reporter.end("Prior")
    until(lambda: [stage["state"] for stage in gang.job()["status"]["stages"]].count("Succeeded") == 2)
    sink.close(SECONDS)
