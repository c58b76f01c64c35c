"""`kubooth watch` and `logs -f` over hours, outages and jobs of the same name; `download` of what is not ours.

A server answers by a script; `tests/cluster` has the same commands with a real one.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from operator_edge.fake_server import connected

from kubooth_cli.cluster.jobs import follow, pods_of
from kubooth_cli.cluster.session import CommandError, Session
from kubooth_cli.logs import _Logs
from kubooth_cli.results import _fetch
from kubooth_operator.kinds import JOB
from kubooth_trainer.config import StorageConfig
from kubooth_trainer.errors import StorageDeniedError
from kubooth_trainer.storage import Storage

Manifest = dict[str, Any]
Answer = Callable[[web.Request], web.StreamResponse]


def job(version: int, phase: str = "Running", uid: str = "u1") -> Manifest:
    metadata = {"name": "rex", "namespace": "ns", "uid": uid, "resourceVersion": str(version)}
    return {
        "apiVersion": JOB.api_version,
        "kind": JOB.kind,
        "metadata": metadata,
        "status": {"phase": phase, "attempts": 1},
    }


def pod() -> Manifest:
    labels = {"kubooth.io/attempt": "1", "batch.kubernetes.io/job-completion-index": "0"}
    return {"metadata": {"name": "rex-kubooth-1-0-abcde", "labels": labels}, "status": {"phase": "Running"}}


def ask(answer: Answer, act: Callable[[Session], Any]) -> Any:
    async def handler(request: web.Request) -> web.StreamResponse:
        return answer(request)

    async def run() -> Any:
        async with connected(handler) as api:
            return await asyncio.wait_for(act(Session(api=api, namespace="ns", server="here")), 60)

    return asyncio.run(run())


def test_a_job_that_waits_is_no_dead_connection(capsys: pytest.CaptureFixture[str]) -> None:
    """The server is asked for bookmarks, which show that it is there, and are no news of the job."""
    asked: list[dict[str, str]] = []

    def answer(request: web.Request) -> web.StreamResponse:
        if "watch" not in request.query:
            return web.json_response(job(1))
        asked.append(dict(request.query))
        bookmark = {"kind": JOB.kind, "metadata": {"resourceVersion": "7"}}
        events = [{"type": "BOOKMARK", "object": bookmark}, {"type": "MODIFIED", "object": job(8, "Succeeded")}]
        return web.Response(text="".join(json.dumps(event) + "\n" for event in events))

    async def until_done(session: Session) -> list[str]:
        phases = []
        async for seen in follow(session, "rex"):
            phases.append(seen["status"]["phase"])
            if phases[-1] == "Succeeded":
                break
        return phases

    assert ask(answer, until_done) == ["Running", "Succeeded"]
    assert asked[0]["allowWatchBookmarks"] == "true"
    assert "connection" not in capsys.readouterr().err


def test_an_outage_after_a_watch_that_ended_well_is_said_once(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kubooth_cli.cluster.jobs._AGAIN_SECONDS", 0.01)
    looks = [job(1), 503, 503, job(2, "Succeeded")]

    def answer(request: web.Request) -> web.StreamResponse:
        if "watch" in request.query:
            return web.Response(text="") if len(looks) == 3 else web.json_response({"message": "so it is"}, status=503)
        now = looks.pop(0)
        return (
            web.json_response(now) if isinstance(now, dict) else web.json_response({"message": "so it is"}, status=now)
        )

    async def until_done(session: Session) -> None:
        async for seen in follow(session, "rex"):
            if seen["status"]["phase"] == "Succeeded":
                break

    ask(answer, until_done)
    assert capsys.readouterr().err == "the connection is lost, trying again: so it is\n"


EXPIRED = {"type": "ERROR", "object": {"kind": "Status", "code": 500, "message": "so it is"}}
BOOKMARK = {"type": "BOOKMARK", "object": {"kind": JOB.kind, "metadata": {"resourceVersion": "7"}}}
SHORT_STREAMS: list[tuple[str, list[list[Manifest] | int], list[float]]] = [
    ("empty", [[], [], [], []], [0.1, 0.2, 0.4, 0.8]),
    ("error", [[EXPIRED], [EXPIRED], [EXPIRED]], [0.1, 0.2, 0.4]),
    ("gone", [410, 410, 410], [0.1, 0.2, 0.4]),
    ("with-news", [[], [], [BOOKMARK], []], [0.1, 0.2, 0.1]),
    ("error-after-news", [[], [BOOKMARK, EXPIRED], [EXPIRED]], [0.1, 0.1, 0.2]),
]


@pytest.mark.parametrize(("streams", "rests"), [c[1:] for c in SHORT_STREAMS], ids=[c[0] for c in SHORT_STREAMS])
def test_a_stream_that_ends_at_once_is_opened_again_after_a_rest(
    streams: list[list[Manifest] | int], rests: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A proxy may cut it off."""
    rested: list[float] = []
    left = list(streams)

    async def sleep(seconds: float) -> float:
        rested.append(seconds)
        return seconds * 2

    def answer(request: web.Request) -> web.StreamResponse:
        if "watch" not in request.query:
            return web.json_response(job(1, "Running" if left else "Succeeded"))
        stream = left.pop(0)
        if isinstance(stream, int):
            return web.json_response({"message": "so it is"}, status=stream)
        return web.Response(text="".join(json.dumps(event) + "\n" for event in stream))

    async def until_done(session: Session) -> None:
        async for seen in follow(session, "rex"):
            if seen["status"]["phase"] == "Succeeded":
                break

    monkeypatch.setattr("kubooth_cli.cluster.jobs.take_rest", sleep)
    ask(answer, until_done)
    assert rested == rests


def test_pods_are_those_of_this_job_and_no_earlier_one() -> None:
    selectors: list[str] = []

    def answer(request: web.Request) -> web.StreamResponse:
        selectors.append(request.query["labelSelector"])
        return web.json_response({"items": [pod()]})

    assert ask(answer, lambda session: pods_of(session, job(1), 2)) == [pod()]
    assert selectors == ["kubooth.io/job-uid=u1,kubooth.io/attempt=2"]


def server_of_logs(jobs: list[Manifest | int | None]) -> Answer:
    """Gives one entry of `jobs` for each look at the job, the last one for ever: None is gone, a number an error."""

    def answer(request: web.Request) -> web.StreamResponse:
        if request.path.endswith("/log"):
            return web.Response(text="a line\n")
        if request.path.endswith("/pods"):
            return web.json_response({"items": [pod()]})
        now = jobs.pop(0) if len(jobs) > 1 else jobs[0]
        if isinstance(now, dict):
            return web.json_response(now)
        return web.json_response({"message": "so it is"}, status=now or 404)

    return answer


def logs(session: Session) -> Any:
    return _Logs(session, "rex", attempt=None, tail=None, raw=False).follow()


def test_logs_go_on_through_an_outage(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kubooth_cli.logs._LOOK_SECONDS", 0.01)
    ask(server_of_logs([job(1), 503, 503, job(2), job(3, "Succeeded")]), logs)
    told = capsys.readouterr()
    assert told.out == "1-0 | a line\n"
    assert told.err == "the connection is lost, trying again: so it is\n"


def test_logs_of_a_job_that_is_deleted_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kubooth_cli.logs._LOOK_SECONDS", 0.01)
    with pytest.raises(CommandError, match="job rex was deleted") as raised:
        ask(server_of_logs([job(1), None]), logs)
    assert raised.value.code == 1


# What a bucket says is not trusted


class Bucket(Storage):
    """Holds a manifest, and nothing else."""

    def __init__(self, manifest: bytes) -> None:
        super().__init__(StorageConfig(endpoint=None, region=None))
        self._manifest = manifest

    def read_bytes(self, uri: str) -> bytes:
        return self._manifest

    def fetch_tree(self, uri: str, folder: Path, **_: Any) -> Path:
        return folder


def manifest(name: str) -> bytes:
    fields = {
        "identifier": "sks",
        "seed": 0,
        "created": "2026-11-01T12:00:00Z",
        "config": {},
        "versions": {},
        "timings": {},
        "job": {"name": "rex", "namespace": "ns", "uid": "u1", "attempt": 1, "digest": "d"},
        "files": [{"name": name, "size": 1, "sha256": "0"}],
    }
    return json.dumps(fields).encode()


@pytest.mark.parametrize("climb", ["../mine.txt", "a/../../mine.txt", "{}"])
def test_a_manifest_cannot_reach_files_outside_of_its_folder(tmp_path: Path, climb: str) -> None:
    mine = tmp_path / "mine.txt"
    mine.write_text("mine")
    name = climb.format(mine)
    with pytest.raises(StorageDeniedError, match="leads out of its folder"):
        _fetch(Bucket(manifest(name)), "s3://models/rex", tmp_path / "rex")
    assert mine.read_text() == "mine"


def test_a_result_that_is_not_whole_is_said(tmp_path: Path) -> None:
    with pytest.raises(CommandError, match=r"s3://models/rex/model\.safetensors is missing"):
        _fetch(Bucket(manifest("model.safetensors")), "s3://models/rex", tmp_path / "rex")
    with pytest.raises(CommandError, match=r"manifest\.json is not a manifest that this version can read"):
        _fetch(Bucket(b"<html>"), "s3://models/rex", tmp_path / "other")
