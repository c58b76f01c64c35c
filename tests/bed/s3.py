"""pytest plugin: a real S3 server (versitygw) for the session, a bucket of its own for each test.

    def test_something(s3): storage = Storage(s3.config); s3.client.put_object(Bucket=s3.bucket, ...)

The credentials stand in the environment while a test with `s3` runs, and nothing else of the machine's AWS settings.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import boto3
import pytest
from bed import gobuild
from botocore.config import Config

from kubooth_trainer.config import StorageConfig

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

ACCESS_KEY = "bed-owner"
SECRET_KEY = "bed-owner-secret"
GUEST_ACCESS_KEY = "bed-guest"
GUEST_SECRET_KEY = "bed-guest-secret"
REGION = "us-east-1"
_START_SECONDS = 30
_numbers = itertools.count(1)


@dataclass(frozen=True)
class S3:
    """A server, seen by the owner of all buckets, with one empty bucket."""

    endpoint: str
    client: S3Client
    bucket: str

    @property
    def config(self) -> StorageConfig:
        return StorageConfig(endpoint=self.endpoint, region=REGION)

    def uri(self, key: str = "") -> str:
        return f"s3://{self.bucket}/{key}"

    def put(self, key: str, data: bytes) -> str:
        self.client.put_object(Bucket=self.bucket, Key=key, Body=data)
        return self.uri(key)

    def get(self, key: str) -> bytes:
        return self.client.get_object(Bucket=self.bucket, Key=key)["Body"].read()

    def keys(self, prefix: str = "") -> list[str]:
        pages = self.client.get_paginator("list_objects_v2").paginate(Bucket=self.bucket, Prefix=prefix)
        return [item["Key"] for page in pages for item in page.get("Contents", [])]

    def behind(self, endpoint: str) -> StorageConfig:
        """The same, reached through something that listens at `endpoint`."""
        return StorageConfig(endpoint=endpoint, region=REGION)


@pytest.fixture(scope="session")
def s3_server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The endpoint of a server with the owner and a guest who has no rights."""
    with request.config.pluginmanager.getplugin("capturemanager").global_and_fixture_disabled():
        gobuild.versitygw()
    with serving(tmp_path_factory.mktemp("s3")) as endpoint:
        yield endpoint


@contextlib.contextmanager
def serving(folder: Path, address: str = "127.0.0.1") -> Iterator[str]:
    """The endpoint of a server with both users, which keeps its data in `folder`."""
    binary = gobuild.versitygw()
    server, endpoint = _start(binary, folder, address)
    try:
        _add_guest(binary, endpoint)
        yield endpoint
    finally:
        server.kill()
        server.wait()


@pytest.fixture
def s3(s3_server: str, s3_credentials: None) -> Iterator[S3]:
    """A fresh bucket, with the owner's credentials in the environment."""
    client = boto3.Session().client(
        "s3", endpoint_url=s3_server, region_name=REGION, config=Config(s3={"addressing_style": "path"})
    )
    bucket = f"bed-{os.getpid()}-{next(_numbers)}"
    client.create_bucket(Bucket=bucket)
    yield S3(s3_server, client, bucket)
    client.close()


@pytest.fixture
def s3_credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    """The owner's credentials, and no other AWS or proxy setting."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    nowhere = os.devnull
    for name, value in {
        "AWS_ACCESS_KEY_ID": ACCESS_KEY,
        "AWS_SECRET_ACCESS_KEY": SECRET_KEY,
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_CONFIG_FILE": nowhere,
        "AWS_SHARED_CREDENTIALS_FILE": nowhere,
        "NO_PROXY": "127.0.0.1",
        "no_proxy": "127.0.0.1",
    }.items():
        monkeypatch.setenv(name, value)


def _start(binary: Path, folder: Path, address: str) -> tuple[subprocess.Popen[bytes], str]:
    for name in ("data", "meta", "iam"):
        (folder / name).mkdir(parents=True)
    options = ["--keep-alive", "--quiet", "--iam-dir", str(folder / "iam"), "--region", REGION]
    options += ["posix", "--sidecar", str(folder / "meta"), str(folder / "data")]
    env = {"PATH": os.environ.get("PATH", ""), "ROOT_ACCESS_KEY": ACCESS_KEY, "ROOT_SECRET_KEY": SECRET_KEY}
    # Where the tool is there, the kernel ends the server also when the test run is killed.
    tied = ["setpriv", "--pdeathsig", "KILL"] if shutil.which("setpriv") else []
    log = folder / "log"
    for _ in range(5):  # somebody may take the free port first
        port = _free_port(address)
        with log.open("ab") as output:
            server = subprocess.Popen(
                [*tied, binary, "--port", f"{address}:{port}", *options], env=env, stdout=output, stderr=output
            )
        if _answers(server, address, port):
            return server, f"http://{address}:{port}"
        server.kill()
        server.wait()
    raise RuntimeError(f"the S3 server does not start:\n{log.read_text()}")


def _answers(server: subprocess.Popen[bytes], address: str, port: int) -> bool:
    deadline = time.monotonic() + _START_SECONDS
    while time.monotonic() < deadline and server.poll() is None:
        try:
            socket.create_connection((address, port), timeout=1).close()
            return True
        except ConnectionRefusedError:
            time.sleep(0.02)
    return False


def _free_port(address: str) -> int:
    with socket.socket() as probe:
        probe.bind((address, 0))
        port: int = probe.getsockname()[1]
        return port


def _add_guest(binary: Path, endpoint: str) -> None:
    admin = ["admin", "--access", ACCESS_KEY, "--secret", SECRET_KEY, "--endpoint-url", endpoint]
    user = ["create-user", "--access", GUEST_ACCESS_KEY, "--secret", GUEST_SECRET_KEY, "--role", "user"]
    subprocess.run([binary, *admin, *user], check=True, capture_output=True)
