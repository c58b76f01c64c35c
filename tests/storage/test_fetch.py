"""`fetch_tree`: local folders in place; buckets mirrored, and after a restart only what is missing."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from bed.proxy import Fault, proxied

from kubooth_trainer.config import StorageConfig
from kubooth_trainer.errors import StorageDeniedError
from kubooth_trainer.storage import Storage


def content(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_local_folder_is_used_in_place(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "1.jpg").write_bytes(b"1")
    storage = Storage(StorageConfig(endpoint=None, region=None))
    for name in ("photos", "photos/1.jpg"):
        assert storage.fetch_tree((tmp_path / name).as_uri(), tmp_path / "work") == tmp_path / name
    assert not (tmp_path / "work").exists()


def test_bucket_is_mirrored(s3, tmp_path: Path) -> None:
    files = {"1.jpg": b"one", "model/unet/weights": os.urandom(9 << 20), "empty": b"", "b c+%é.txt": b"x"}
    for name, data in files.items():
        s3.put(f"photos/rex/{name}", data)
    s3.put("photos/rex/folder/", b"")  # as consoles create folders
    s3.put("photos/rexxx/no.jpg", b"another dog")
    seen: list[tuple[int, int]] = []
    storage = Storage(s3.config)
    folder = storage.fetch_tree(
        s3.uri("photos/rex/"), tmp_path / "work", on_progress=lambda done, total: seen.append((done, total))
    )
    assert folder == tmp_path / "work"
    assert content(folder) == files
    total = sum(map(len, files.values()))
    assert seen[-1] == (total, total)
    assert all(0 <= done <= total == of for done, of in seen)


def test_single_object(s3, tmp_path: Path) -> None:
    uri = s3.put("sets/photos.zip", b"archive")
    path = Storage(s3.config).fetch_tree(uri, tmp_path / "work")
    assert path == tmp_path / "work" / "photos.zip"
    assert path.read_bytes() == b"archive"


def test_more_than_one_page(s3, tmp_path: Path) -> None:
    storage = Storage(s3.config)
    (tmp_path / "in").mkdir()
    names = [f"{number:04}" for number in range(1003)]
    for name in names:
        (tmp_path / "in" / name).write_bytes(name.encode())
    storage.upload_tree(tmp_path / "in", s3.uri("many"), names=names)
    assert [entry.name for entry in storage.list(s3.uri("many"))] == names
    storage.delete_tree(s3.uri("many"))
    assert s3.keys() == []


def test_second_start_fetches_only_what_is_missing_or_changed(s3, tmp_path: Path) -> None:
    for name in ("kept", "changed", "lost", "torn"):
        s3.put(f"x/{name}", b"first " + name.encode())
    with proxied(s3.endpoint) as proxy:
        storage = Storage(s3.behind(proxy.endpoint))
        work = storage.fetch_tree(s3.uri("x"), tmp_path / "work")
        os.utime(work / "changed", (0, 0))  # what was fetched is older than what is there now
        (work / "lost").unlink()
        (work / "torn").write_bytes(b"first")
        (work / "stale").write_bytes(b"no longer in the bucket")
        (work / "lost.5aC1d2E3").write_bytes(b"fir")  # left by a killed download
        proxy.requests.clear()
        storage.fetch_tree(s3.uri("x"), tmp_path / "work")
        fetched = {
            line.split()[1].rpartition("/")[2] for line in proxy.requests if line.startswith("GET") and "/x/" in line
        }
    assert fetched == {"changed", "lost", "torn"}
    assert content(work) == {name: b"first " + name.encode() for name in ("kept", "changed", "lost", "torn")}


@pytest.mark.parametrize("size", [1 << 20, 20 << 20], ids=["one request", "ranges"])
def test_torn_connection_goes_on(s3, tmp_path: Path, size: int) -> None:
    data = os.urandom(size)
    s3.put("x/weights", data)
    with proxied(s3.endpoint) as proxy:
        proxy.faults.append(Fault(f"GET /{s3.bucket}/x/weights", cut_after=size // 4, times=2))
        seen: list[int] = []
        folder = Storage(s3.behind(proxy.endpoint)).fetch_tree(
            s3.uri("x"), tmp_path / "work", on_progress=lambda done, total: seen.append(done)
        )
    assert content(folder) == {"weights": data}
    assert seen[-1] == size
    assert proxy.faults[0].times == 0


@pytest.mark.parametrize("key", ["x/../../escape", "x//absolute", "x/./dot", "x/a\\b"])
def test_names_that_lead_out_are_refused(s3, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, key: str) -> None:
    """A real AWS bucket may hold such keys; the test server refuses them, so the listing is altered on its way."""
    s3.put("x/harmless", b"1")
    storage = Storage(s3.config)
    backend = storage._at(s3.uri())[0]
    listed = backend._objects

    monkeypatch.setattr(backend, "_objects", lambda location: [{**item, "Key": key} for item in listed(location)])
    with pytest.raises(StorageDeniedError, match="leads out of its folder") as failure:
        storage.fetch_tree(s3.uri("x"), tmp_path / "work")
    assert s3.uri("x") in str(failure.value)
    assert not (tmp_path / "work").exists()


def test_nothing_there(s3, tmp_path: Path) -> None:
    with pytest.raises(StorageDeniedError, match="there is nothing at this location"):
        Storage(s3.config).fetch_tree(s3.uri("none"), tmp_path / "work")
