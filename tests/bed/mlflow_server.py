"""pytest plugin: a real MLflow server with users and passwords, for the tests of tracking.

It is installed once per user, from requirements/mlflow-server.txt into `${XDG_CACHE_HOME:-~/.cache}/kubooth/`, as it
drags in half a gigabyte of packages that nothing else needs. Runs and users are in SQLite.
"""

from __future__ import annotations

import base64
import fcntl
import hashlib
import json
import os
import shutil
import socket
import subprocess
import sys
import urllib.error
import urllib.request
import venv
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from bed.eventually import eventually

PINS = Path(__file__).parents[2] / "requirements" / "mlflow-server.txt"
USER, PASSWORD = "trainer", "a password of the tests"
_START_SECONDS = 240  # its first start compiles what was installed
_USERS = """[mlflow]
default_permission = READ
database_uri = sqlite:///{folder}/users.db
admin_username = {user}
auth_cache_ttl_seconds = 600
authorization_function = mlflow.server.auth:authenticate_request_basic_auth
"""


@dataclass(frozen=True)
class MlflowServer:
    """One that runs."""

    endpoint: str

    def call(self, path: str, **body: Any) -> Any:
        """Its REST API, below `/api/2.0/mlflow/`: a GET with no body, else a POST."""
        token = base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
        headers = {"Authorization": f"Basic {token}", "Content-Type": "application/json"}
        data = json.dumps(body).encode() if body else None
        request = urllib.request.Request(f"{self.endpoint}/api/2.0/mlflow/{path}", data, headers)
        with urllib.request.urlopen(request, timeout=60) as answer:
            return json.load(answer)


@pytest.fixture(scope="module")
def mlflow_server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[MlflowServer]:
    """A server that refuses whoever does not show USER and PASSWORD."""
    with request.config.pluginmanager.getplugin("capturemanager").global_and_fixture_disabled():
        python = installed()
    folder = tmp_path_factory.mktemp("mlflow")
    (folder / "users.ini").write_text(_USERS.format(folder=folder, user=USER))
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    options = [f"--backend-store-uri=sqlite:///{folder}/runs.db", f"--artifacts-destination={folder}/artifacts"]
    options += ["--host=127.0.0.1", f"--port={port}", "--workers=1", "--app-name=basic-auth"]
    own = {
        "MLFLOW_AUTH_CONFIG_PATH": str(folder / "users.ini"),
        "MLFLOW_AUTH_ADMIN_PASSWORD": PASSWORD,
        "MLFLOW_FLASK_SERVER_SECRET_KEY": "of the tests",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
    }
    log = folder / "log"
    # The server has children. They are a group of their own, which ends as a whole.
    with log.open("wb") as output:
        server = subprocess.Popen(
            [python, "-m", "mlflow", "server", *options],
            cwd=folder, env=os.environ | own, stdout=output, stderr=output, process_group=0,
        )  # fmt: skip
    running = MlflowServer(f"http://127.0.0.1:{port}")
    try:
        eventually(
            lambda: server.poll() is not None or _answers(running), "MLflow", seconds=_START_SECONDS, tell=log.read_text
        )
        assert server.poll() is None, log.read_text()
        yield running
    finally:
        os.killpg(server.pid, 9)
        server.wait()


def installed() -> Path:
    """The Python that has the server; whoever comes first installs it, and others wait."""
    digest = hashlib.sha256(f"{sys.version}{PINS.read_text()}".encode()).hexdigest()[:8]
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "kubooth")
    base.mkdir(parents=True, exist_ok=True)
    home = base / f"mlflow-server-{digest}"
    python = home / "bin" / "python"
    with home.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (home / "complete").exists():
            print("tests: installing the MLflow server (once per machine, 650 MB)", file=sys.stderr, flush=True)
            shutil.rmtree(home, ignore_errors=True)
            venv.create(home, with_pip=True)
            pinned = ["--quiet", "--require-hashes", "--no-deps", "--requirement", str(PINS)]
            uv = shutil.which("uv", path=f"{Path(sys.executable).parent}:{os.environ.get('PATH', '')}")
            installer = [uv, "pip", "install", "--python", str(python)] if uv else [str(python), "-m", "pip", "install"]
            done = subprocess.run([*installer, *pinned], capture_output=True, text=True)
            if done.returncode != 0:
                raise RuntimeError(f"the MLflow server could not be installed:\n{done.stderr[-4000:]}")
            (home / "complete").touch()
    return python


def _answers(server: MlflowServer) -> bool:
    try:
        with urllib.request.urlopen(f"{server.endpoint}/health", timeout=5) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError):
        return False
