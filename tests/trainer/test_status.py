"""What rank 0 says of itself: whole, in the CRD's own words, not too often, and never in the way of training."""

from __future__ import annotations

import itertools
import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from kubooth_operator.api.status import JobStatus
from kubooth_trainer import delivery
from kubooth_trainer.config import STAGES, JobIdentity
from kubooth_trainer.delivery import Outlet, Status, StatusApi, StatusRefusedError, api_outlet, file_outlet
from kubooth_trainer.progress import (
    CheckpointEvent,
    Event,
    InfoEvent,
    PriorEvent,
    ProgressEvent,
    Reporter,
    ResultEvent,
    ResumedEvent,
)
from kubooth_trainer.status import StatusSink, duration

SECONDS = 20.0  # a bound, not an expectation
T0 = 1_790_000_000.0  # 2026-09-21T14:13:20Z
JOB = JobIdentity(name="rex", namespace="team", uid="u-1", attempt=2)


def until(condition: Callable[[], Any], seconds: float = SECONDS) -> Any:
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < deadline, "it did not come to pass"
        time.sleep(0.005)
    return value


class Kept(Outlet):
    """An outlet that only keeps what it is offered."""

    def __init__(self) -> None:
        self.offered: list[tuple[Status, bool]] = []

    def offer(self, status: Status, *, now: bool = False) -> None:
        self.offered.append((status, now))


def progress(step: int, **changes: Any) -> ProgressEvent:
    fields: dict[str, Any] = {
        "step": step, "total": 800, "loss": 0.4866859, "instance_loss": 0.1, "prior_loss": None, "grad_norm": None,
        "learning_rate": 1e-6, "samples_per_second": 8.41234, "eta_seconds": (800 - step) * 1.1875, "time": T0,
    }  # fmt: skip
    return ProgressEvent(**{**fields, **changes})


RESULT = ResultEvent(
    model="s3://m/rex/rex.safetensors", report="s3://m/rex/report.html", manifest="s3://m/rex/manifest.json",
    identifier="sks", seconds=100.0, bytes=2_600_000_000, output="s3://m/rex", manifest_digest="ab" * 32,
)  # fmt: skip


def told(*events: Event | Callable[[Reporter], object]) -> Status:
    """The last state after these events, checked against the CRD's model after each of them."""
    kept = Kept()
    now = iter(range(10_000))
    sink = StatusSink([kept], total_steps=800, clock=lambda: T0 + next(now))
    reporter = Reporter(sinks=[sink], on_move=[sink.moved])
    reporter.plan()
    for event in events:
        if callable(event):
            event(reporter)
        else:
            reporter.emit(event)
    for status, _ in kept.offered:
        parsed = JobStatus.model_validate_json(json.dumps(status), by_alias=True, by_name=False)
        back = parsed.model_dump(mode="json", by_alias=True, exclude_none=True)
        assert back == status, "a field that the CRD does not know"
    return kept.offered[-1][0]


def train_to(step: int) -> list[Event | Callable[[Reporter], object]]:
    return [
        lambda r: r.begin("Train", total=800, unit="steps"),
        progress(step),
        lambda r: r.advance("Train", step),
    ]


def test_before_anything_has_begun() -> None:
    status = told()
    assert [stage["name"] for stage in status["stages"]] == list(STAGES)
    assert {tuple(stage) for stage in status["stages"]} == {("name", "state")}
    assert {**status["progress"], "updatedAt": ""} == {
        "step": 0, "total": 800, "percent": 0.0, "summary": "0/800 0%", "updatedAt": "",
    }  # fmt: skip
    assert set(status) == {"stages", "progress"}


def test_in_training() -> None:
    status = told(InfoEvent(key="identifier", value="sks"), InfoEvent(key="className", value="dog"), *train_to(640))
    assert (status["identifier"], status["className"]) == ("sks", "dog")
    assert {key: status["progress"][key] for key in ("step", "total", "percent", "summary", "eta", "etaSeconds")} == {
        "step": 640, "total": 800, "percent": 80.0, "summary": "640/800 80%", "eta": "3m10s", "etaSeconds": 190,
    }  # fmt: skip
    assert (status["progress"]["loss"], status["progress"]["samplesPerSecond"]) == (0.4867, 8.412)
    (train,) = [stage for stage in status["stages"] if stage["name"] == "Train"]
    assert (train["state"], train["done"], train["total"], train["unit"]) == ("Running", 640, 800, "steps")
    assert "end" not in train


def test_after_training_there_is_no_eta() -> None:
    status = told(*train_to(800), lambda r: r.end("Train"))
    assert status["progress"]["summary"] == "800/800 100%"
    assert not {"eta", "etaSeconds"} & set(status["progress"])


def test_checkpoint_prior_output_and_report() -> None:
    status = told(
        PriorEvent(source="Partial", images=200, cache_key="k" * 64, seconds_saved=12.34),
        CheckpointEvent(uri="s3://m/rex/.kubooth/checkpoints/attempt-1/step-000400", step=400, time=T0),
        RESULT,
    )
    assert status["prior"] == {"cacheKey": "k" * 64, "source": "Partial", "images": 200, "secondsSaved": 12.3}
    assert status["checkpoint"]["time"] == "2026-09-21T14:13:20Z"
    assert status["output"] == {"uri": "s3://m/rex", "manifestDigest": "ab" * 32, "bytes": 2_600_000_000}
    assert status["report"] == {"uri": "s3://m/rex/report.html"}
    assert status["identifier"] == "sks"
    assert status["progress"]["summary"] == "800/800 100%"


def test_a_resumed_run_knows_its_checkpoint_and_its_step() -> None:
    status = told(
        ResumedEvent(uri="s3://c/step-000300", step=300, time=T0),
        lambda r: r.begin("Train", total=800, unit="steps", done=300, note="resumed at step 300"),
    )
    assert (status["checkpoint"]["step"], status["progress"]["step"]) == (300, 300)


def test_a_failed_run_leaves_no_stage_running() -> None:
    status = told(*train_to(5), lambda r: r.fail())
    (train,) = [stage for stage in status["stages"] if stage["name"] == "Train"]
    assert (train["state"], train["done"]) == ("Failed", 5) and train["end"]


@pytest.mark.parametrize(
    ("act", "moves"),
    [
        pytest.param(lambda r: r.advance("Prior", 1), True, id="an image"),
        pytest.param(lambda r: r.advance("Prior", 0), False, id="no image"),
        pytest.param(lambda r: r.moved(), True, id="bytes"),
        pytest.param(lambda r: r.warn("x"), False, id="words"),
        pytest.param(lambda r: r.info("precision", "FP32"), False, id="a fact"),
    ],
)
def test_the_heartbeat_moves_only_when_work_did(act: Callable[[Reporter], object], moves: bool) -> None:
    begun = [lambda r: r.begin("Prior", total=3, unit="images")]
    before, after = told(*begun), told(*begun, act)
    assert (before["progress"]["updatedAt"] != after["progress"]["updatedAt"]) is moves


def test_only_ends_of_stages_and_the_result_are_urgent() -> None:
    kept = Kept()
    reporter = Reporter(sinks=[StatusSink([kept], total_steps=8)])
    reporter.plan()
    reporter.begin("Prior", total=2, unit="images")
    reporter.advance("Prior", 1)
    assert not any(now for _, now in kept.offered)
    for act in (lambda: reporter.end("Prior"), lambda: reporter.emit(RESULT)):
        act()
        assert kept.offered[-1][1]


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0s"), (59.4, "59s"), (59.6, "1m00s"), (190, "3m10s"), (3600, "1h00m"), (7500, "2h05m"), (97_200, "1d03h")],
)
def test_duration(seconds: float, text: str) -> None:
    assert duration(seconds) == text


# Outlets


def test_the_newest_state_wins_and_is_not_written_too_often() -> None:
    written: list[tuple[float, Status]] = []
    outlet = Outlet("test", lambda status: written.append((time.monotonic(), status)), seconds_between=0.2)
    began = time.monotonic()
    number = 0
    while time.monotonic() - began < 1.0:
        number += 1
        outlet.offer({"number": number})
        time.sleep(0.001)
    outlet.close()
    outlet.wait(SECONDS)
    assert written[-1][1] == {"number": number}
    assert 3 <= len(written) <= 8
    gaps = [later - sooner for (sooner, _), (later, _) in itertools.pairwise(written[:-1])]
    assert min(gaps) >= 0.19


def test_what_is_urgent_does_not_wait() -> None:
    written: list[Status] = []
    outlet = Outlet("test", written.append, seconds_between=3600)
    outlet.offer({"number": 1})
    until(lambda: written)
    outlet.offer({"number": 2})
    outlet.offer({"number": 3}, now=True)
    until(lambda: len(written) == 2)
    assert written[-1] == {"number": 3}
    outlet.offer({"number": 4})
    outlet.close()
    outlet.wait(SECONDS)
    assert [status["number"] for status in written] == [1, 3, 4]


def test_failures_are_said_once_and_tried_again(capfd: pytest.CaptureFixture[str]) -> None:
    tries: list[float] = []

    def refuse_three_times(_: Status) -> None:
        tries.append(time.monotonic())
        if len(tries) < 3:
            raise OSError("refused")

    outlet = Outlet("the status", refuse_three_times, seconds_between=0.0)
    outlet.offer({})
    until(lambda: len(tries) == 3)
    outlet.close()
    outlet.wait(SECONDS)
    assert tries[1] - tries[0] >= 2 and tries[2] - tries[1] >= 4
    said = capfd.readouterr().err.splitlines()
    assert said == [
        "the status cannot be written now, which is tried again: refused",
        "the status is written again",
    ]


def test_an_outlet_outlives_any_number_of_failures(monkeypatch: pytest.MonkeyPatch) -> None:
    """As of an API server that is away over a weekend."""
    monkeypatch.setattr(delivery, "_LONGEST_PAUSE", 0.0)
    tries: list[Status] = []

    def refuse_for_long(status: Status) -> None:
        tries.append(status)
        if len(tries) < 1100:
            raise OSError("refused")

    outlet = Outlet("the status", refuse_for_long, seconds_between=0.0)
    outlet.offer({})
    until(lambda: len(tries) == 1100)
    outlet.close()
    outlet.wait(SECONDS)


def test_an_outlet_that_never_answers_holds_nobody_up() -> None:
    stuck = threading.Event()
    outlet = Outlet("test", lambda _: stuck.wait(SECONDS) and None, seconds_between=0.0)
    sink = StatusSink([outlet], total_steps=8)
    reporter = Reporter(sinks=[sink], on_move=[sink.moved])
    reporter.plan()
    began = time.monotonic()
    reporter.begin("Train", total=1000, unit="steps")
    for step in range(1000):
        reporter.advance("Train", step)
    assert time.monotonic() - began < 2
    began = time.monotonic()
    sink.close(0.5)
    assert time.monotonic() - began < 2
    stuck.set()


def test_the_file_for_the_launcher(tmp_path: Path) -> None:
    path = tmp_path / "summary.json"
    sink = StatusSink([file_outlet(path)], total_steps=8)
    reporter = Reporter(sinks=[sink])
    reporter.plan()
    until(path.exists)
    reporter.emit(RESULT)
    sink.close()
    assert json.loads(path.read_text())["output"]["uri"] == "s3://m/rex"
    assert list(tmp_path.iterdir()) == [path]


# The API server, as a real HTTP server


@dataclass
class Server:
    """Answers PATCH requests as told and keeps them; to GET it tells which job there is."""

    url: str = ""
    uid: str = "u-1"
    status: Status = field(default_factory=dict)
    reads: int = 0
    answers: list[tuple[int, bytes]] = field(default_factory=list)  # the last one stays
    requests: list[tuple[str, dict[str, str], dict[str, Any]]] = field(default_factory=list)


@contextmanager
def serving() -> Iterator[Server]:
    server = Server(answers=[(200, b"{}")])

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            server.reads += 1
            metadata = {"uid": server.uid, "resourceVersion": str(server.reads)}
            self._answer(200, json.dumps({"metadata": metadata, "status": server.status}).encode())

        def do_PATCH(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            server.requests.append((self.path, dict(self.headers), body))
            self._answer(*(server.answers.pop(0) if len(server.answers) > 1 else server.answers[0]))

        def _answer(self, status: int, answer: bytes) -> None:
            self.send_response(status)
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, *_: object) -> None:
            pass

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    http.daemon_threads = True
    server.url = f"http://127.0.0.1:{http.server_address[1]}"
    thread = threading.Thread(target=http.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield server
    finally:
        http.shutdown()
        thread.join()
        http.server_close()


@pytest.fixture
def credentials(tmp_path: Path) -> Path:
    (tmp_path / "token").write_text("token-1\n")
    return tmp_path


def test_the_request_is_a_forced_apply_to_the_status_of_this_job(credentials: Path) -> None:
    with serving() as server:
        StatusApi(JOB, server.url, credentials).write({"identifier": "sks"})
    ((path, headers, body),) = server.requests
    assert path == (
        "/apis/kubooth.io/v1alpha1/namespaces/team/personalizationjobs/rex/status"
        "?fieldManager=kubooth-trainer&force=true"
    )
    assert headers["Content-Type"] == "application/apply-patch+yaml"
    assert headers["Authorization"] == "Bearer token-1"
    assert body == {
        "apiVersion": "kubooth.io/v1alpha1",
        "kind": "PersonalizationJob",
        "metadata": {"name": "rex", "namespace": "team", "uid": "u-1", "resourceVersion": "1"},
        "status": {"identifier": "sks"},
    }


def test_a_job_that_was_made_again_under_this_name_is_not_written_to(credentials: Path) -> None:
    with serving() as server:
        server.uid = "u-2"
        with pytest.raises(StatusRefusedError, match="made again under its name"):
            StatusApi(JOB, server.url, credentials).write({})
    assert not server.requests


def test_a_job_that_changes_meanwhile_is_looked_at_again(credentials: Path) -> None:
    with serving() as server:
        server.answers = [(409, b""), (409, b""), (200, b"{}")]
        StatusApi(JOB, server.url, credentials).write({})
    assert [body["metadata"]["resourceVersion"] for _, _, body in server.requests] == ["1", "2", "3"]


def test_a_new_attempt_keeps_what_the_last_one_found_out(credentials: Path) -> None:
    """Until it has resumed, the newest checkpoint is the last attempt's."""
    with serving() as server:
        server.status = {
            "checkpoint": {"step": 400},
            "identifier": "sks",
            "className": "dog",
            "progress": {"step": 410},
            "phase": "Running",
        }
        api = StatusApi(JOB, server.url, credentials)
        api.write({"progress": {"step": 0}})
        api.write({"progress": {"step": 450}, "checkpoint": {"step": 450}})
    assert [body["status"] for _, _, body in server.requests] == [
        {"checkpoint": {"step": 400}, "identifier": "sks", "className": "dog", "progress": {"step": 0}},
        {"checkpoint": {"step": 450}, "identifier": "sks", "className": "dog", "progress": {"step": 450}},
    ]


def test_a_rotated_token_is_read_again(credentials: Path) -> None:
    with serving() as server:
        api = StatusApi(JOB, server.url, credentials)
        api.write({})
        (credentials / "token").write_text("token-2")
        api.write({})
    assert [headers["Authorization"] for _, headers, _ in server.requests] == ["Bearer token-1", "Bearer token-2"]


@pytest.mark.parametrize("status", [401, 403, 404, 422, 429, 500, 503])
def test_a_refusal_is_tried_again(credentials: Path, status: int, capfd: pytest.CaptureFixture[str]) -> None:
    with serving() as server:
        server.answers = [(status, b'{"kind": "Status", "message": "not now"}'), (200, b"{}")]
        outlet = api_outlet(JOB, server.url, credentials)
        outlet.offer({"identifier": "a"})
        until(lambda: server.requests)
        outlet.offer({"identifier": "b"})
        outlet.close()
        outlet.wait(SECONDS)
    assert [body["status"] for _, _, body in server.requests] == [{"identifier": "a"}, {"identifier": "b"}]
    said = capfd.readouterr().err
    assert f"HTTP {status}: not now" in said
    assert "token-1" not in said


def test_a_dead_server_costs_little_at_the_end(credentials: Path) -> None:
    with serving() as server:
        url = server.url
    sink = StatusSink([api_outlet(JOB, url, credentials)], total_steps=8)
    sink.moved()
    began = time.monotonic()
    sink.close(1.0)
    assert time.monotonic() - began < 3


def test_the_last_state_arrives_at_a_server_that_comes_back(credentials: Path) -> None:
    with serving() as server:
        server.answers = [(503, b""), (503, b""), (503, b""), (200, b"{}")]
        sink = StatusSink([api_outlet(JOB, server.url, credentials)], total_steps=8)
        sink.emit(RESULT)
        sink.close(SECONDS)
    assert len(server.requests) == 4
    assert server.requests[-1][2]["status"]["output"]["uri"] == "s3://m/rex"
