"""Everything a storage can do wrong, and the one sentence a person reads."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from bed.proxy import Fault, proxied
from bed.s3 import GUEST_ACCESS_KEY, GUEST_SECRET_KEY, SECRET_KEY

from kubooth_trainer.config import StorageConfig
from kubooth_trainer.errors import (
    ConfigError,
    DiskFullError,
    KuboothError,
    StorageDeniedError,
    StorageUnavailableError,
)
from kubooth_trainer.storage import Patience, Storage, Upload

HASTY = Patience(attempts=4, retry_seconds=30, connect_seconds=30, read_seconds=30)


def every_operation(storage: Storage, uri: str, folder: Path) -> dict[str, Callable[[], object]]:
    """Each public way to reach `uri`, which is a folder or a file as the operation needs."""
    (folder / "local").write_bytes(b"x")
    inside = storage.join(uri, "file")
    return {
        "list": lambda: storage.list(uri),
        "exists": lambda: storage.exists(inside),
        "read": lambda: storage.read_bytes(inside),
        "write": lambda: storage.write_bytes(inside, b"x"),
        "write if absent": lambda: storage.write_bytes(inside, b"x", if_absent=True),
        "download": lambda: storage.download(inside, folder / "back"),
        "fetch_tree": lambda: storage.fetch_tree(uri, folder / "tree"),
        "upload": lambda: storage.upload(folder / "local", inside),
        "upload_tree": lambda: storage.upload_tree(folder, uri, names=["local"]),
        "sha256": lambda: storage.sha256(inside),
        "delete": lambda: storage.delete([inside]),
        "delete_tree": lambda: storage.delete_tree(uri),
    }


def failures(operations: dict[str, Callable[[], object]], expected: type[KuboothError]) -> dict[str, str]:
    """The message of each operation; all must fail as `expected`, without a secret."""
    messages = {}
    for name, operation in operations.items():
        with pytest.raises(KuboothError) as failure:
            operation()
        assert failure.type is expected, f"{name}: {failure.value!r}"
        messages[name] = str(failure.value)
    for message in messages.values():
        assert SECRET_KEY not in message
        assert GUEST_SECRET_KEY not in message
        assert "\n" not in message
    return messages


def test_missing_bucket(s3, tmp_path: Path) -> None:
    operations = every_operation(Storage(s3.config), "s3://no-such-bucket/x", tmp_path)
    assert operations.pop("exists")() is False  # a HEAD request does not say what is missing
    for name, message in failures(operations, StorageDeniedError).items():
        assert "there is no such bucket" in message, name
        assert "s3://no-such-bucket/x" in message


def test_missing_key(s3, tmp_path: Path) -> None:
    storage = Storage(s3.config)
    for operation in (
        lambda: storage.read_bytes(s3.uri("none")),
        lambda: storage.download(s3.uri("none"), tmp_path / "x"),
        lambda: storage.sha256(s3.uri("none")),
    ):
        with pytest.raises(StorageDeniedError, match=r"there is no such (bucket or )?object: check the URI") as failure:
            operation()
        assert s3.uri("none") in str(failure.value)
    assert list(tmp_path.iterdir()) == []


def test_access_denied(s3, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A user whom the server knows, without rights on the bucket."""
    s3.put("x/file", b"private")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", GUEST_ACCESS_KEY)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", GUEST_SECRET_KEY)
    for name, message in failures(
        every_operation(Storage(s3.config), s3.uri("x"), tmp_path), StorageDeniedError
    ).items():
        assert "access denied: the S3 credentials have no right to" in message, name
        assert s3.uri("x") in message, name
    assert s3.keys() == ["x/file"]


@pytest.mark.parametrize(
    ("key", "secret"), [("bed-owner", "wrong"), ("nobody", SECRET_KEY)], ids=["wrong secret", "unknown key"]
)
def test_bad_credentials(s3, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, key: str, secret: str) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", key)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", secret)
    operations = every_operation(Storage(s3.config), s3.uri("x"), tmp_path)
    for name, message in failures(operations, StorageDeniedError).items():
        assert "does not accept the S3 credentials" in message, name
        assert "AWS_ACCESS_KEY_ID" in message


@pytest.mark.parametrize("name", ["AWS_ACCESS_KEY_ID", "AWS_SESSION_TOKEN"])
def test_credentials_with_a_line_break(s3, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """As a Secret has them that was made of a file."""
    monkeypatch.setenv(name, f"{os.environ.get(name, 'token')}\n")
    operations = every_operation(Storage(s3.config), s3.uri("x"), tmp_path)
    for operation, message in failures(operations, StorageDeniedError).items():
        assert "hold a character that cannot be sent, such as a line break at the end" in message, operation


@pytest.mark.parametrize(
    ("status", "code", "words"),
    [
        (400, "ExpiredToken", "does not accept the S3 credentials any longer (ExpiredToken)"),
        (400, "TokenRefreshRequired", "does not accept the S3 credentials any longer (TokenRefreshRequired)"),
        (403, "RequestTimeTooSkewed", "this machine's clock is off"),
    ],
)
def test_what_another_start_or_node_mends(s3, tmp_path: Path, status: int, code: str, words: str) -> None:
    with proxied(s3.endpoint) as proxy:
        proxy.faults.append(Fault(answer=(status, code), times=1000))
        operations = every_operation(Storage(s3.behind(proxy.endpoint), HASTY), s3.uri("x"), tmp_path)
        for name, message in failures(operations, StorageUnavailableError).items():
            assert words in message, name
            assert "the same job goes on once" in message, name


def test_credentials_that_cannot_be_fetched_yet(s3, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An agent that hands them out to pods and does not run yet."""
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    with socket.socket() as taken:  # bound, never listening
        taken.bind(("127.0.0.1", 0))
        agent = f"http://127.0.0.1:{taken.getsockname()[1]}/v1/credentials"
        monkeypatch.setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", agent)
        with pytest.raises(StorageUnavailableError, match=r"could not be fetched .* goes on once they can be had"):
            Storage(s3.config).list(s3.uri("x"))


def test_a_profile_that_is_not_there(s3, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_PROFILE", "nobody")
    with pytest.raises(StorageDeniedError, match=r"no usable S3 credentials were found: .* AWS_PROFILE"):
        Storage(s3.config).list(s3.uri("x"))


def test_no_credentials(s3, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    monkeypatch.setenv("HOME", str(tmp_path))
    for message in failures(every_operation(Storage(s3.config), s3.uri("x"), tmp_path), StorageDeniedError).values():
        assert "no usable S3 credentials were found: set AWS_ACCESS_KEY_ID" in message


def test_invalid_bucket_name(s3) -> None:
    with pytest.raises(ConfigError, match="s3://b!d/x: is not a valid S3 location"):
        Storage(s3.config).list("s3://b!d/x")


@pytest.mark.parametrize("endpoint", ["127.0.0.1:9000", "not a url", "http://user:hunter2@[::1"])
def test_invalid_endpoint(s3_credentials: None, endpoint: str) -> None:
    with pytest.raises(ConfigError, match=r"storage.endpoint: .* is not a URL") as failure:
        Storage(StorageConfig(endpoint=endpoint, region=None)).list("s3://bucket/x")
    assert "hunter2" not in str(failure.value)


def test_closed_port(s3_credentials: None, tmp_path: Path) -> None:
    with socket.socket() as taken:  # bound, never listening: nobody else can open it
        taken.bind(("127.0.0.1", 0))
        endpoint = f"http://user:hunter2@127.0.0.1:{taken.getsockname()[1]}"
        storage = Storage(StorageConfig(endpoint=endpoint, region=None), HASTY)
        operations = every_operation(storage, "s3://bucket/x", tmp_path)
        for message in failures(operations, StorageUnavailableError).values():
            assert "s3://bucket/x" in message
            assert "cannot be reached" in message
            assert "storage.endpoint" in message
            assert "hunter2" not in message


def test_server_that_never_answers_is_given_up_in_time(s3) -> None:
    with proxied(s3.endpoint) as proxy:
        proxy.faults.append(Fault(silent=True, times=1000))
        patience = Patience(attempts=1000, retry_seconds=1, connect_seconds=1, read_seconds=0.1)
        start = time.monotonic()
        with pytest.raises(StorageUnavailableError, match="cannot be reached"):
            Storage(s3.behind(proxy.endpoint), patience).list(s3.uri("x"))
        assert time.monotonic() - start < 60
        assert len(proxy.requests) > 1


@pytest.mark.parametrize(
    ("status", "code"), [(503, "SlowDown"), (503, "ServiceUnavailable"), (500, "InternalError"), (502, "")]
)
def test_server_errors_are_retried_then_said(s3, status: int, code: str) -> None:
    s3.put("x", b"data")
    with proxied(s3.endpoint) as proxy:
        proxy.faults.append(Fault(answer=(status, code), times=2))
        assert Storage(s3.behind(proxy.endpoint), HASTY).read_bytes(s3.uri("x")) == b"data"
        assert len(proxy.requests) == 3
        proxy.faults.append(Fault(answer=(status, code), times=1000))
        with pytest.raises(StorageUnavailableError, match="also after retries") as failure:
            Storage(s3.behind(proxy.endpoint), HASTY).read_bytes(s3.uri("x"))
        assert s3.uri("x") in str(failure.value)
        assert len(proxy.requests) > 4


@pytest.mark.parametrize("size", [1000, 20_000_000], ids=["one request", "in parts"])
def test_upload_survives_server_errors(s3, tmp_path: Path, size: int) -> None:
    data = os.urandom(size)
    (tmp_path / "file").write_bytes(data)
    with proxied(s3.endpoint) as proxy:
        proxy.faults.append(Fault("PUT", answer=(503, "ServiceUnavailable"), times=2))
        Storage(s3.behind(proxy.endpoint)).upload(tmp_path / "file", s3.uri("x"))
    assert s3.get("x") == data


def test_all_requests_at_once_have_the_patience_of_one(s3, tmp_path: Path) -> None:
    """botocore's standard mode would allow a client 35 retries in all."""
    names = [f"file-{number}" for number in range(16)]
    for name in names:
        (tmp_path / name).write_text(name)
    with proxied(s3.endpoint) as proxy:
        proxy.faults.append(Fault("PUT", answer=(503, "ServiceUnavailable"), times=60))
        storage = Storage(s3.behind(proxy.endpoint))
        storage.upload_all([Upload(path=tmp_path / name, uri=s3.uri(name)) for name in names])
        assert len(proxy.requests) == 60 + len(names)
    assert sorted(s3.keys()) == sorted(names)


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("SlowDownWrite", StorageUnavailableError), ("InternalError", StorageUnavailableError),
        ("AccessDenied", StorageDeniedError),
    ],
)  # fmt: skip
def test_files_that_are_not_deleted(
    s3, monkeypatch: pytest.MonkeyPatch, code: str, expected: type[KuboothError]
) -> None:
    """The answer says 200 and, for a file, only a code."""
    storage = Storage(s3.config)
    backend, _ = storage._at(s3.uri("x"))
    answer = {"Errors": [{"Key": "x", "Code": code}]}
    monkeypatch.setattr(backend._client, "delete_objects", lambda **_: answer)
    with pytest.raises(expected, match=s3.uri("x")):
        storage.delete([s3.uri("x")])


def test_conditional_write_whose_answer_was_lost_is_not_taken_for_a_rival(s3) -> None:
    with proxied(s3.endpoint) as proxy:
        storage = Storage(s3.behind(proxy.endpoint))
        proxy.faults.append(Fault("PUT", lose_answer=True))
        storage.write_bytes(s3.uri("claim"), b"mine", if_absent=True)
        assert len(proxy.requests) == 3  # the first, its retry, and a look at who won
    assert s3.get("claim") == b"mine"


def test_object_replaced_while_it_is_read(s3, tmp_path: Path) -> None:
    size = 20_000_000
    s3.put("x/weights", b"a" * size)
    with proxied(s3.endpoint) as proxy:
        proxy.faults.append(Fault("/x/weights HTTP", before=lambda: s3.put("x/weights", b"b" * (size + 1)) and None))
        proxy.faults[0].match = "GET /" + s3.bucket + "/x/weights"
        with pytest.raises(StorageUnavailableError):
            Storage(s3.behind(proxy.endpoint)).fetch_tree(s3.uri("x"), tmp_path / "work")
    assert list((tmp_path / "work").iterdir()) == []


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_full_disk_as_the_system_reports_it(s3, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    def full(descriptor: int) -> None:
        raise OSError(number, os.strerror(number))

    storage = Storage(s3.config)
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(DiskFullError, match="no room left") as failure:
        storage.write_bytes(f"{tmp_path.as_uri()}/out/file", b"x")
    assert str(tmp_path / "out") in str(failure.value)
    assert list((tmp_path / "out").iterdir()) == []


IN_A_SMALL_FILE_SYSTEM = """
import subprocess, sys
from pathlib import Path
from kubooth_trainer.config import StorageConfig
from kubooth_trainer.errors import DiskFullError
from kubooth_trainer.storage import Storage
endpoint, uri, folder = sys.argv[1:]
subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "none", folder], check=True)
storage = Storage(StorageConfig(endpoint=endpoint, region=None))
work = Path(folder, "work")
work.mkdir()
for name, act in {
    "fetch_tree": lambda: storage.fetch_tree(uri, work),
    "download": lambda: storage.download(uri + "/large", work / "large"),
    "write": lambda: storage.write_bytes(work.as_uri() + "/large", b"x" * 1_000_000),
}.items():
    try:
        act()
    except DiskFullError as error:
        assert folder in str(error) and "no room left" in str(error), error
    else:
        sys.exit(f"{name} did not fail")
    assert [path.name for path in work.iterdir()] in ([], ["small"]), list(work.iterdir())
"""


def test_full_disk_for_real(s3, tmp_path: Path) -> None:
    """In a mount namespace of its own, where even an ordinary user may mount a tiny file system."""
    unshare = [shutil.which("unshare") or "unshare", "--user", "--map-root-user", "--mount"]
    if shutil.which("unshare") is None or subprocess.run([*unshare, "true"], capture_output=True).returncode:
        pytest.skip("this machine allows no user namespaces")
    s3.put("x/small", b"1")
    s3.put("x/large", os.urandom(20_000_000))
    arguments = [sys.executable, "-W", "error", "-c", IN_A_SMALL_FILE_SYSTEM]
    done = subprocess.run(
        [*unshare, *arguments, s3.endpoint, s3.uri("x"), str(tmp_path)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


def test_local_failures(tmp_path: Path) -> None:
    storage = Storage(StorageConfig(endpoint=None, region=None))
    (tmp_path / "file").write_bytes(b"x")
    cases = {
        "missing": (lambda: storage.read_bytes(f"{tmp_path.as_uri()}/none"), "there is no such file"),
        "folder": (lambda: storage.read_bytes(tmp_path.as_uri()), "cannot be read or written"),
        "below a file": (lambda: storage.write_bytes(f"{tmp_path.as_uri()}/file/x", b""), "cannot be read or written"),
        "nothing to upload": (
            lambda: storage.upload_all([Upload(path=tmp_path / "none", uri=f"{tmp_path.as_uri()}/x")]),
            "there is no such file",
        ),
    }
    for name, (operation, words) in cases.items():
        with pytest.raises(StorageDeniedError, match=words) as failure:
            operation()
        assert str(tmp_path) in str(failure.value), name


@pytest.mark.parametrize("number", [errno.EACCES, errno.EPERM, errno.EROFS])
def test_local_access_denied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    """Raised by hand: the tests may run as root, whom no permission stops."""

    def denied(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(Path, "open", denied)
    storage = Storage(StorageConfig(endpoint=None, region=None))
    for operation in (
        lambda: storage.read_bytes(f"{tmp_path.as_uri()}/x"),
        lambda: storage.write_bytes(f"{tmp_path.as_uri()}/x", b""),
    ):
        with pytest.raises(StorageDeniedError, match="access denied") as failure:
            operation()
        assert f"{tmp_path.as_uri()}/x" in str(failure.value)


@pytest.mark.parametrize("operation", ["read", "sha256"])
def test_an_answer_that_breaks_off_is_asked_for_again(s3, operation: str) -> None:
    data = os.urandom(300_000)
    s3.put("x", data)
    with proxied(s3.endpoint) as proxy:
        storage = Storage(s3.behind(proxy.endpoint), HASTY)
        proxy.faults.append(Fault("GET", cut_after=100_000, times=2))
        if operation == "read":
            assert storage.read_bytes(s3.uri("x")) == data
        else:
            assert storage.sha256(s3.uri("x")) == hashlib.sha256(data).hexdigest()
        assert len(proxy.requests) == 3
        proxy.faults.append(Fault("GET", cut_after=100_000, times=1000))
        with pytest.raises(StorageUnavailableError, match="breaks off, also after retries"):
            storage.read_bytes(s3.uri("x"))
