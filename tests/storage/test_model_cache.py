"""Models kept on a node, from a real S3 server: fetched once, by whoever comes first, and never half."""

from __future__ import annotations

import os
import shutil
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from bed.proxy import Fault, Proxy, proxied

from kubooth_trainer.config import ModelCacheConfig, StorageConfig
from kubooth_trainer.errors import StorageUnavailableError
from kubooth_trainer.model_cache import ModelCache
from kubooth_trainer.storage import Patience, Storage

NAMES = ["model_index.json", "unet/weights"]
SIZE = 2 + 50_000


@dataclass
class Job:
    """One job on the node, which reaches the server through a proxy that counts."""

    root: Path
    config: StorageConfig
    max_bytes: int = 10 * SIZE
    warnings: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        storage = Storage(self.config, Patience(attempts=2, retry_seconds=1, connect_seconds=5, read_seconds=5))
        config = ModelCacheConfig(path=str(self.root), max_bytes=self.max_bytes)
        self.cache = ModelCache(config, storage, warn=self.warnings.append)

    def fetch(self, uri: str) -> tuple[Path, str] | None:
        return self.cache.fetch(uri, NAMES)


@pytest.fixture
def bucket(s3: Any) -> Any:
    for model in "abc":
        put(s3, model, model.encode())
    return s3


def put(s3: Any, model: str, content: bytes) -> None:
    s3.put(f"{model}/model_index.json", b"{}")
    s3.put(f"{model}/unet/weights", content * 50_000)
    s3.put(f"{model}/readme", b"not wanted")


def reads(proxy: Proxy, what: str) -> int:
    return sum(line.startswith("GET") and what in line for line in proxy.requests)


def test_the_second_job_reads_no_file(bucket: Any, tmp_path: Path) -> None:
    with proxied(bucket.endpoint) as proxy:
        config = bucket.behind(proxy.endpoint)
        folder, found = Job(tmp_path / "models", config).fetch(bucket.uri("a")) or pytest.fail("not cached")
        assert (found, reads(proxy, "unet/weights")) == ("Filled", 1)
        assert sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()) == NAMES
        assert Job(tmp_path / "models", config).fetch(bucket.uri("a/")) == (folder, "Hit")
        assert reads(proxy, "unet/weights") == reads(proxy, "model_index.json") == 1


def test_four_jobs_at_once_read_it_once(bucket: Any, tmp_path: Path) -> None:
    with proxied(bucket.endpoint) as proxy, ThreadPoolExecutor(4) as pool:
        jobs = [Job(tmp_path, bucket.behind(proxy.endpoint)) for _ in range(4)]
        found = list(pool.map(lambda job: job.fetch(bucket.uri("a")), jobs))
        assert sorted(each[1] for each in found if each) == ["Filled", "Hit", "Hit", "Hit"]
        assert reads(proxy, "unet/weights") == 1


def test_a_model_that_changes_is_another_entry(bucket: Any, tmp_path: Path) -> None:
    first = Job(tmp_path, bucket.config)
    before, _ = first.fetch(bucket.uri("a")) or pytest.fail("not cached")
    put(bucket, "a", b"z")
    after, found = Job(tmp_path, bucket.config).fetch(bucket.uri("a")) or pytest.fail("not cached")
    assert found == "Filled" and after != before
    assert (before / "unet/weights").read_bytes()[:1] == b"a"
    assert (after / "unet/weights").read_bytes()[:1] == b"z"


def test_what_is_cut_off_is_not_taken_for_whole(bucket: Any, tmp_path: Path) -> None:
    with proxied(bucket.endpoint) as proxy:
        proxy.faults.append(Fault("unet/weights", answer=(503, "SlowDown"), times=10))
        with pytest.raises(StorageUnavailableError):
            Job(tmp_path, bucket.behind(proxy.endpoint)).fetch(bucket.uri("a"))
    folder, found = Job(tmp_path, bucket.config).fetch(bucket.uri("a")) or pytest.fail("not cached")
    assert found == "Filled" and (folder / "unet/weights").stat().st_size == 50_000
    assert not list(tmp_path.glob("*.part"))


@pytest.mark.parametrize("damage", [lambda path: path.unlink(), lambda path: path.write_bytes(b"torn")])
def test_what_was_damaged_is_fetched_again(bucket: Any, tmp_path: Path, damage: Any) -> None:
    folder, _ = Job(tmp_path, bucket.config).fetch(bucket.uri("a")) or pytest.fail("not cached")
    damage(folder / "unet/weights")
    assert Job(tmp_path, bucket.config).fetch(bucket.uri("a")) == (folder, "Hit")
    assert (folder / "unet/weights").read_bytes() == b"a" * 50_000


def test_the_longest_unused_makes_room_and_none_that_is_in_use(bucket: Any, tmp_path: Path) -> None:
    two = 2 * SIZE + 100
    folders = {}
    for age, model in enumerate("ab"):
        done = Job(tmp_path, bucket.config, two)
        folders[model], _ = done.fetch(bucket.uri(model)) or pytest.fail("not cached")
        os.utime(folders[model], (age, age))
        done.cache.close()
    user = Job(tmp_path, bucket.config, two)
    assert user.fetch(bucket.uri("a")) == (folders["a"], "Hit")
    assert Job(tmp_path, bucket.config, two).fetch(bucket.uri("c"))
    assert folders["a"].is_dir() and not folders["b"].exists()
    late = Job(tmp_path, bucket.config, SIZE + 100)
    put(bucket, "d", b"d")
    late.cache.fetch(bucket.uri("d"), NAMES)
    assert folders["a"].is_dir()
    assert ["in use" in words or "are using" in words for words in late.warnings] == [True]


def test_a_job_that_waits_can_be_stopped(bucket: Any, tmp_path: Path) -> None:
    class StoppedHereError(Exception):
        pass

    def stop() -> None:
        raise StoppedHereError

    inside, go_on = threading.Event(), threading.Event()

    def slow(done: int, total: int) -> None:
        inside.set()
        go_on.wait(30)

    first = Job(tmp_path, bucket.config)
    filling = threading.Thread(target=lambda: first.cache.fetch(bucket.uri("a"), NAMES, slow))
    filling.start()
    assert inside.wait(30)
    storage = Storage(bucket.config)
    waiting = ModelCache(ModelCacheConfig(path=str(tmp_path), max_bytes=10**9), storage, warn=print, moved=stop)
    with pytest.raises(StoppedHereError):
        waiting.fetch(bucket.uri("a"), NAMES)
    go_on.set()
    filling.join(30)


def not_a_folder(root: Path) -> None:
    root.write_text("a file")


def read_only(root: Path) -> None:
    root.mkdir()
    root.chmod(0o500)


@pytest.mark.parametrize("spoil", [not_a_folder, read_only])
def test_a_place_that_cannot_be_used_is_said_once(bucket: Any, tmp_path: Path, spoil: Any) -> None:
    if spoil is read_only and os.geteuid() == 0:
        pytest.skip("root writes everywhere")
    spoil(tmp_path / "models")
    job = Job(tmp_path / "models", bucket.config)
    assert job.fetch(bucket.uri("a")) is None
    assert len(job.warnings) == 1 and str(tmp_path / "models") in job.warnings[0]


def test_a_model_larger_than_the_cache_is_not_kept(bucket: Any, tmp_path: Path) -> None:
    job = Job(tmp_path, bucket.config, max_bytes=100)
    assert job.fetch(bucket.uri("a")) is None
    assert "modelCache.maxSize" in job.warnings[0]
    assert not list(tmp_path.iterdir())


def test_a_full_disk(bucket: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import errno

    def full(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    job = Job(tmp_path, bucket.config)
    monkeypatch.setattr(os, "utime", full)
    assert job.fetch(bucket.uri("a")) is None
    assert len(job.warnings) == 1
    monkeypatch.undo()
    shutil.rmtree(tmp_path)
