"""Commands for the cluster from their options to their exit code, above a server that answers by a script.

It says what a real one, as in `tests/cluster`, says only at a certain moment or to a certain person.
"""

from __future__ import annotations

import asyncio
import errno
import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from click.testing import CliRunner, Result
from operator_edge.fake_server import served

from kubooth_cli.cluster import photos
from kubooth_cli.main import main
from kubooth_operator.kinds import JOB
from kubooth_trainer.storage import Storage

Manifest = dict[str, Any]
Answer = Callable[[web.Request], web.StreamResponse]
Command = Callable[..., Result]
FORBIDDEN = "is forbidden: you cannot get it"


def forbidden() -> web.Response:
    return web.json_response({"kind": "Status", "reason": "Forbidden", "message": FORBIDDEN}, status=403)


@pytest.fixture
def kubooth(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Answer], Command]]:
    """Makes the command for a cluster whose API server answers so."""
    monkeypatch.chdir(tmp_path)
    loop, stop = asyncio.new_event_loop(), asyncio.Event()
    answers: list[Answer] = []
    started = threading.Event()

    async def handler(request: web.Request) -> web.StreamResponse:
        await request.read()
        return answers[-1](request)

    async def serve() -> None:
        async with served(handler) as server:
            config = {
                "clusters": [{"name": "c", "cluster": {"server": server}}],
                "users": [{"name": "u", "user": {"token": "none"}}],
                "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u", "namespace": "ns"}}],
                "current-context": "x",
            }
            (tmp_path / "kubeconfig").write_text(json.dumps(config))
            started.set()
            await stop.wait()

    thread = threading.Thread(target=loop.run_until_complete, args=(serve(),))
    thread.start()
    assert started.wait(60)

    def command(answer: Answer) -> Command:
        answers.append(answer)

        def call(*arguments: str) -> Result:
            name, *more = arguments
            return CliRunner().invoke(main, [name, "--kubeconfig", str(tmp_path / "kubeconfig"), *more])

        return call

    yield command
    loop.call_soon_threadsafe(stop.set)
    thread.join()
    loop.close()


def job(phase: str = "Running", **status: Any) -> Manifest:
    return {
        "apiVersion": JOB.api_version,
        "kind": JOB.kind,
        "metadata": {
            "name": "rex",
            "namespace": "ns",
            "uid": "u1",
            "resourceVersion": "1",
            "creationTimestamp": "2026-11-01T12:00:00Z",
        },
        "spec": {
            "subject": {"className": "dog", "images": "s3://photos/rex/"},
            "model": {"uri": "s3://models/sd15/"},
            "output": {"uri": "s3://models/rex/"},
        },
        "status": {"phase": phase, "attempts": 1, **status},
    }


# submit


@pytest.fixture
def sent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Where photos were sent to; beside them, `job.yaml` names the folder `photos`."""
    uris: list[str] = []

    def send(storage: Any, folder: Path, uri: str) -> tuple[int, int]:
        uris.append(uri)
        return 1, 1

    monkeypatch.setattr(photos, "send", send)
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "one.jpg").write_bytes(b"one")
    manifest = job()
    manifest["spec"]["subject"]["images"] = "file:photos/"
    del manifest["status"]
    manifest["metadata"] = {"name": "rex"}
    (tmp_path / "job.yaml").write_text(json.dumps(manifest))
    return uris


def of_somebody_without_a_right_to_runtimes(request: web.Request) -> web.Response:
    if "personalizationruntimes" in request.path:
        return forbidden()
    return web.json_response(job(), status=201)


@pytest.mark.parametrize(
    "more",
    [
        ("job.yaml",),
        ("job.yaml", "--to", "s3://photos/"),
        ("job.yaml", "--endpoint", "http://s3.invalid"),
        ("job.yaml", "--photos", "photos", "--to", "s3://photos/"),
    ],
)
def test_photos_are_not_uploaded_to_a_store_that_nobody_named(
    kubooth: Callable[[Answer], Command], sent: list[str], more: tuple[str, ...]
) -> None:
    result = kubooth(of_somebody_without_a_right_to_runtimes)("submit", *more, "--no-watch")
    assert result.exit_code == 77 and sent == []
    assert FORBIDDEN in result.stderr and "say both --to and --endpoint" in result.stderr


def test_photos_are_uploaded_without_the_runtime_where_the_caller_says_where(
    kubooth: Callable[[Answer], Command], sent: list[str]
) -> None:
    where = ("--to", "s3://photos/", "--endpoint", "http://s3.invalid")
    result = kubooth(of_somebody_without_a_right_to_runtimes)("submit", "job.yaml", *where, "--no-watch")
    assert result.exit_code == 0 and sent[0].startswith("s3://photos/rex-")


def test_a_job_without_photos_of_this_machine_needs_no_right_to_runtimes(
    kubooth: Callable[[Answer], Command], sent: list[str]
) -> None:
    away = ("--set", "subject.images=s3://photos/rex/")
    result = kubooth(of_somebody_without_a_right_to_runtimes)("submit", "job.yaml", *away, "--no-watch")
    assert result.exit_code == 0 and sent == []


@pytest.mark.parametrize(
    ("more", "code"), [(("--watch", "-o", "name"), 1), (("-o", "name"), 0), (("--no-watch", "-o", "name"), 0)]
)
def test_what_is_watched_is_shown_beside_a_form_for_programs(
    kubooth: Callable[[Answer], Command], sent: list[str], more: tuple[str, ...], code: int
) -> None:
    def answer(request: web.Request) -> web.Response:
        if request.method == "GET" and "personalizationjobs" in request.path:
            return web.json_response(job("Failed", reason="BadImages"))
        return of_somebody_without_a_right_to_runtimes(request)

    away = ("--set", "subject.images=s3://photos/rex/")
    result = kubooth(answer)("submit", "job.yaml", *away, *more)
    assert (result.exit_code, result.stdout) == (code, "personalizationjob.kubooth.io/rex\n")
    assert ("rex has failed: BadImages" in result.stderr) == bool(code)


# cost


@pytest.mark.parametrize("more", [("-A",), ("-l", "team=blue")])
def test_cost_takes_names_or_a_choice(kubooth: Callable[[Answer], Command], more: tuple[str, ...]) -> None:
    result = kubooth(lambda _: web.json_response(job()))("cost", "rex", *more)
    assert result.exit_code == 2 and "not both" in result.stderr


# report, download


REPORT = {"uri": "s3://models/rex/.kubooth/report.html"}


@pytest.fixture
def fetched(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What is downloaded of a bucket, whatever it holds."""
    uris: list[str] = []

    def download(_: Storage, uri: str, path: Path) -> None:
        uris.append(uri)
        path.write_text("a page")

    monkeypatch.setattr(Storage, "download", download)
    return uris


def test_a_rejected_job_has_a_report(kubooth: Callable[[Answer], Command], fetched: list[str]) -> None:
    rejected = job("Failed", reason="QualityRejected", report=REPORT)
    result = kubooth(lambda _: web.json_response(rejected))("report", "rex")
    assert (result.exit_code, result.stdout, fetched) == (0, "rex-report.html\n", [REPORT["uri"]])


@pytest.mark.parametrize(("phase", "waits"), [("Failed", False), ("Succeeded", False), ("Running", True)])
@pytest.mark.parametrize("name", ["report", "download"])
def test_only_a_job_that_has_not_ended_is_waited_for(
    kubooth: Callable[[Answer], Command], name: str, phase: str, waits: bool
) -> None:
    result = kubooth(lambda _: web.json_response(job(phase)))(name, "rex")
    assert result.exit_code == 2 and f"it is {phase}" in result.stderr
    assert ("waits for its end" in result.stderr) == waits


@pytest.mark.parametrize(
    ("error", "code", "words"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), 75, "no room left on this disk"),
        (PermissionError(errno.EACCES, "Permission denied", "rex"), 2, "access denied"),
    ],
)
@pytest.mark.parametrize("name", ["report", "download"])
def test_what_the_disk_refuses_is_a_sentence(
    kubooth: Callable[[Answer], Command],
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    error: OSError,
    code: int,
    words: str,
) -> None:
    def fail(*_: Any) -> None:
        raise error

    monkeypatch.setattr(Storage, "download", fail)
    monkeypatch.setattr("kubooth_cli.results._fetch", fail)
    done = job("Succeeded", report=REPORT, output={"uri": "s3://models/rex/"})
    result = kubooth(lambda _: web.json_response(done))(name, "rex")
    assert result.exit_code == code and words in result.stderr and "Traceback" not in result.stderr


# describe


def test_describe_goes_without_the_pods_that_the_caller_may_not_see(kubooth: Callable[[Answer], Command]) -> None:
    def answer(request: web.Request) -> web.Response:
        return web.json_response(job()) if "personalizationjobs" in request.path else forbidden()

    result = kubooth(answer)("describe", "rex")
    assert result.exit_code == 0 and "Phase:       Running" in result.stdout and "Pods:" not in result.stdout
