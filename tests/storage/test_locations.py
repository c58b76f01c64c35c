"""What a URI means."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from kubooth_trainer.config import StorageConfig
from kubooth_trainer.errors import ConfigError, StorageDeniedError
from kubooth_trainer.storage import Storage, join, normalized

LOCAL = Storage(StorageConfig(endpoint=None, region=None))


@pytest.mark.parametrize(
    ("uri", "meaning"),
    [
        pytest.param("s3://bucket/a/b", "s3://bucket/a/b", id="object or folder"),
        pytest.param("s3://bucket/a/b/", "s3://bucket/a/b", id="trailing slash"),
        pytest.param("s3://bucket", "s3://bucket/", id="whole bucket"),
        pytest.param("s3://bucket/a%20b", "s3://bucket/a%20b", id="keys are not decoded"),
        pytest.param("file:///a/b/", "file:///a/b", id="file"),
        pytest.param("file:/a/b", "file:///a/b", id="file with one slash"),
        pytest.param("file:///a b", "file:///a%20b", id="a space may be written as it is"),
        pytest.param("file:///a%20b", "file:///a%20b", id="or encoded"),
        pytest.param("file:///", "file:///", id="root"),
    ],
)
def test_meaning(uri: str, meaning: str) -> None:
    assert normalized(uri) == meaning


@pytest.mark.parametrize(
    ("uri", "words"),
    [
        pytest.param("https://host/a", "is not a storage location", id="another scheme"),
        pytest.param("/a/b", "is not a storage location", id="a path"),
        pytest.param("s3:bucket/a", "is not a storage location", id="s3 without slashes"),
        pytest.param("s3:///a", "names no bucket", id="no bucket"),
        pytest.param("file:a/b", "is not an absolute path", id="relative path"),
        pytest.param("file://host/a", "is not an absolute path", id="another host"),
        pytest.param("s3://bucket/a/../b", "must not hold", id="dots in a key"),
        pytest.param("file:///a/../b", "must not hold", id="dots in a path"),
        pytest.param("file:///a/%2e%2e/b", "must not hold", id="encoded dots"),
    ],
)
def test_refused(uri: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words) as failure:
        LOCAL.list(uri)
    assert uri in str(failure.value)


def test_local_path() -> None:
    assert LOCAL.local_path("s3://bucket/a") is None
    path = Path("/a folder/50% é")
    assert LOCAL.local_path(path.as_uri()) == path
    assert LOCAL.local_path(join(path.as_uri(), "x/100%.png")) == path / "x/100%.png"


def test_join() -> None:
    assert join("s3://bucket", "a/b") == "s3://bucket/a/b"
    assert join("s3://bucket/x/", "a") == "s3://bucket/x/a"
    for name in ("../a", "/a", "a/../b", "a//b", "a/", "", "a\\b"):
        with pytest.raises(StorageDeniedError, match="leads out of its folder"):
            join("s3://bucket/x", name)


def test_imports_neither_torch_nor_boto3_for_local_files(tmp_path: Path) -> None:
    code = f"""
import sys
from kubooth_trainer.config import StorageConfig
from kubooth_trainer.storage import Storage
import kubooth_trainer.publish
Storage(StorageConfig(endpoint="http://127.0.0.1:1", region=None)).write_bytes("{tmp_path.as_uri()}/a", b"x")
assert not {{"torch", "boto3", "botocore", "diffusers"}} & set(sys.modules)
"""
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
