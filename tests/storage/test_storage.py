"""The contract of `Storage`, against the local disk and against a real S3 server."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from bed.proxy import Fault, proxied

from kubooth_trainer.errors import StorageDeniedError
from kubooth_trainer.storage import PreconditionFailedError, Storage, Upload

LARGE = 20_000_003  # bytes: three parts


def test_round_trip(place) -> None:
    uri = place.put("a/b c+%é.bin", b"data")
    assert place.storage.exists(uri)
    assert not place.storage.exists(place.at("a"))
    assert place.storage.read_bytes(uri) == b"data"
    assert place.storage.sha256(uri) == hashlib.sha256(b"data").hexdigest()
    place.put("a/b c+%é.bin", b"")
    assert place.storage.read_bytes(uri) == b""
    place.storage.delete([uri])
    place.storage.delete([uri])
    assert not place.storage.exists(uri)


def test_list(place) -> None:
    assert place.storage.list(place.uri) == []
    for name in ("b", "a/2", "a/1", "a/c/d"):
        place.put(name, name.encode())
    entries = place.storage.list(place.uri + "/")
    assert [entry.name for entry in entries] == ["a/1", "a/2", "a/c/d", "b"]
    assert [entry.size for entry in entries] == [3, 3, 5, 1]
    assert [place.storage.read_bytes(entry.uri) for entry in entries] == [b"a/1", b"a/2", b"a/c/d", b"b"]


def test_folder_is_not_a_name_prefix(place) -> None:
    place.put("photos/rex/1.jpg", b"rex")
    place.put("photos/rexxx/2.jpg", b"another dog")
    for uri in (place.at("photos/rex"), place.at("photos/rex") + "/"):
        assert [entry.name for entry in place.storage.list(uri)] == ["1.jpg"]
    place.storage.delete_tree(place.at("photos/rex"))
    assert place.names() == ["photos/rexxx/2.jpg"]


def test_a_single_file_is_listed_by_its_own_name(place) -> None:
    uri = place.put("photos.zip", b"archive")
    [entry] = place.storage.list(uri)
    assert (entry.name, entry.uri, entry.size) == ("photos.zip", uri, 7)


def test_missing_file(place) -> None:
    with pytest.raises(StorageDeniedError, match="there is no such"):
        place.storage.read_bytes(place.at("none"))
    with pytest.raises(StorageDeniedError, match="there is no such"):
        place.storage.sha256(place.at("none"))


def test_large_file(place, tmp_path: Path) -> None:
    data = os.urandom(LARGE)
    (tmp_path / "large").write_bytes(data)
    place.storage.upload(tmp_path / "large", place.at("x/large"))
    place.storage.download(place.at("x/large"), tmp_path / "back" / "large")
    assert (tmp_path / "back" / "large").read_bytes() == data
    assert list((tmp_path / "back").iterdir()) == [tmp_path / "back" / "large"]
    assert place.names() == ["x/large"]


def test_write_if_absent(place) -> None:
    uri = place.at("claim")
    place.storage.write_bytes(uri, b"1", if_absent=True)
    with pytest.raises(PreconditionFailedError):
        place.storage.write_bytes(uri, b"2", if_absent=True)
    assert place.storage.read_bytes(uri) == b"1"
    assert place.names() == ["claim"]


def test_write_if_version(place) -> None:
    uri = place.put("pointer", b"1")
    _, version = place.storage.read_versioned(uri)
    assert [entry.version for entry in place.storage.list(place.uri)] == [version]
    place.storage.write_bytes(uri, b"2", if_version=version)
    for stale in (version, '"never"'):
        with pytest.raises(PreconditionFailedError):
            place.storage.write_bytes(uri, b"3", if_version=stale)
        with pytest.raises(PreconditionFailedError):
            place.storage.delete_version(uri, stale)
    assert place.storage.read_bytes(uri) == b"2"
    place.storage.delete_version(uri, place.storage.read_versioned(uri)[1])
    with pytest.raises(PreconditionFailedError):
        place.storage.write_bytes(uri, b"4", if_version=version)
    place.storage.delete_version(uri, version)
    assert place.names() == []


@pytest.mark.parametrize("condition", ["absent", "version"])
def test_of_16_racing_writers_one_wins(place, condition: str) -> None:
    uri = place.at("pointer")
    version = None
    if condition == "version":
        place.put("pointer", b"before")
        version = place.storage.read_versioned(uri)[1]
    start = threading.Barrier(16)

    def write(number: int) -> bool:
        start.wait()
        try:
            place.storage.write_bytes(uri, b"%d" % number, if_absent=version is None, if_version=version)
        except PreconditionFailedError:
            return False
        return True

    with ThreadPoolExecutor(16) as pool:
        won = list(pool.map(write, range(16)))
    assert won.count(True) == 1
    assert place.storage.read_bytes(uri) == b"%d" % won.index(True)


@pytest.mark.parametrize("size", [1000, LARGE], ids=["small", "in parts"])
def test_conditional_uploads(place, tmp_path: Path, size: int) -> None:
    (tmp_path / "new").write_bytes(b"x" * size)
    uri = place.at("file")

    def upload(**condition: object) -> None:
        place.storage.upload_all([Upload(path=tmp_path / "new", uri=uri, sha256="0" * 64, **condition)])  # type: ignore[arg-type]

    upload(only_if_absent=True)
    first = place.storage.read_versioned(uri)[1]
    with pytest.raises(PreconditionFailedError):
        upload(only_if_absent=True)
    (tmp_path / "new").write_bytes(b"y" * size)
    upload(only_if_version=first)
    (tmp_path / "new").write_bytes(b"z" * size)
    with pytest.raises(PreconditionFailedError):
        upload(only_if_version=first)
    assert place.storage.read_bytes(uri) == b"y" * size
    assert place.names() == ["file"]


def test_upload_tree(place, tmp_path: Path) -> None:
    for name in ("a/1", "a/2", "b"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(name.encode())
    seen: list[tuple[int, int]] = []
    place.storage.upload_tree(
        tmp_path, place.uri, names=["a/1", "b"], on_progress=lambda done, total: seen.append((done, total))
    )
    assert place.names() == ["a/1", "b"]
    assert seen[-1] == (4, 4)


def test_delete_tree(place) -> None:
    for name in ("x/1", "x/y/2", "z"):
        place.put(name, b"1")
    place.storage.delete_tree(place.at("x"))
    place.storage.delete_tree(place.at("x"))
    assert place.names() == ["z"]
    place.storage.delete_tree(place.at("z"))
    assert place.names() == []


def test_a_killed_writer_leaves_nothing_that_counts(place, tmp_path: Path) -> None:
    """SIGKILL in the middle of a large upload: no file appears, and what was sent can be cleared away."""
    large = tmp_path / "large"
    large.write_bytes(os.urandom(32 << 20))
    code = f"""
import os, signal
from pathlib import Path
from kubooth_trainer.config import StorageConfig
from kubooth_trainer.storage import Storage
from kubooth_trainer.storage.storage import _Tally
sent = []
def advance(self, moved):
    sent.append(moved)
    if sum(sent) > 20 << 20:
        os.kill(os.getpid(), signal.SIGKILL)
_Tally.advance = advance
storage = Storage(StorageConfig.model_validate_json({place.storage._config.model_dump_json()!r}))
storage.upload_tree(Path({str(tmp_path)!r}), {place.at("out")!r}, names=["large"])
"""
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert unfinished(place) == 1
    assert place.names() == []
    place.storage.clear_unfinished(place.at("other"))
    assert unfinished(place) == 1
    place.storage.clear_unfinished(place.at("out"))
    assert unfinished(place) == 0


@pytest.mark.parametrize("place", ["s3"], indirect=True)  # files know none
def test_an_unfinished_upload_that_ended_since_it_was_listed(place, monkeypatch: pytest.MonkeyPatch) -> None:
    client: Any = place.storage._at(place.at("out"))[0]._client
    bucket, key = place.at("out/x").removeprefix("s3://").split("/", 1)
    begun = [client.create_multipart_upload(Bucket=bucket, Key=key)["UploadId"] for _ in range(2)]
    abort = client.abort_multipart_upload

    def after_another(**parameters: str) -> Any:
        if parameters["UploadId"] == begun[0]:
            abort(**parameters)
        return abort(**parameters)

    monkeypatch.setattr(client, "abort_multipart_upload", after_another)
    place.storage.clear_unfinished(place.at("out"))
    assert unfinished(place) == 0


def unfinished(place) -> int:
    """How much lies about that no listing shows."""
    folder = place.storage.local_path(place.uri)
    if folder:
        return sum(path.is_file() for path in folder.rglob("*"))
    bucket = place.uri.split("/")[2]
    client = place.storage._at(place.uri)[0]._client
    return len(client.list_multipart_uploads(Bucket=bucket).get("Uploads", []))


class StopError(Exception):
    """What a listener may raise, for example because the process was told to stop."""


def test_a_listener_that_fails_ends_the_call(place, tmp_path: Path) -> None:
    def on_progress(done: int, total: int) -> None:
        raise StopError

    (tmp_path / "file").write_bytes(b"x")
    with pytest.raises(StopError):
        place.storage.upload_tree(tmp_path, place.uri, names=["file"], on_progress=on_progress)


def test_a_stopped_upload_leaves_nothing_behind(s3, tmp_path: Path) -> None:
    told_to_stop = threading.Event()

    def on_progress(done: int, total: int) -> None:
        told_to_stop.set()
        raise StopError

    (tmp_path / "large").write_bytes(os.urandom(8 * 8 << 20))
    with proxied(s3.endpoint) as proxy:
        proxy.faults.append(Fault("PUT", times=8, before=lambda: told_to_stop.wait(60)))
        with pytest.raises(StopError):
            Storage(s3.behind(proxy.endpoint)).upload_tree(
                tmp_path, s3.uri("x"), names=["large"], on_progress=on_progress
            )
    assert s3.keys() == []
    assert s3.client.list_multipart_uploads(Bucket=s3.bucket).get("Uploads", []) == []
