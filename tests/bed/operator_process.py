"""pytest plugin: the operator as a real process, under its own ServiceAccount's token.

    def test_something(operator, api_server, namespace): operator.kill(); ...; operator.start()

One process for the session; it runs when a test begins. What it asks of the API server is in `operator.proxy.calls`.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from bed.apiproxy import ApiProxy, api_proxy
from bed.controlplane import ControlPlane
from bed.eventually import eventually
from bed.installation import OPERATOR, SYSTEM_NAMESPACE
from bed.jobs import Bench, runtime
from bed.rest import JOBS, RUNTIMES, Rest

TRAINER_IMAGE = "registry.example/kubooth-trainer:test"
START_SECONDS = 120
_PORTS = 5  # that a start tries
QUIET_SECONDS = 2.0
_numbers = itertools.count(1)


class Operator:
    """A process that can be started, told to end, and killed. Without a proxy it asks the API server itself."""

    def __init__(self, plane: ControlPlane, proxy: ApiProxy | None, folder: Path, identity: str = "operator-0") -> None:
        self.plane = plane
        self.proxy: Any = proxy
        self.identity = identity
        self._log = folder / f"{identity}-{next(_numbers)}.log"
        self._log.touch()
        self._kubeconfig = folder / f"{identity}.kubeconfig"
        _write_kubeconfig(self._kubeconfig, plane, proxy.endpoint if proxy else plane.endpoint)
        self._process: subprocess.Popen[bytes] | None = None
        self._port = 0

    @property
    def log(self) -> str:
        return self._log.read_text(errors="replace")

    @property
    def pid(self) -> int:
        assert self._process
        return self._process.pid

    @property
    def is_running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def start(self, *, until: str = "working") -> None:
        """Starts the process and waits for that state, as /readyz tells it; "" waits for nothing."""
        for number in range(_PORTS):
            said = len(self.log)
            self._launch()
            try:
                if until:
                    self.wait_for_state(until)
                return
            except AssertionError:  # somebody else may have taken the port meanwhile
                if self.is_running or number + 1 == _PORTS or "address already in use" not in self.log[said:].lower():
                    raise

    def _launch(self) -> None:
        assert not self.is_running
        self._port = free_port()
        options = ["--trainer-image", TRAINER_IMAGE, "--lease-namespace", SYSTEM_NAMESPACE, "--verbose"]
        options += ["--identity", self.identity, "--health-port", str(self._port)]
        keep = ("PATH", "PYTHONPATH", "HOME", "LANG", "XDG_CACHE_HOME")
        env = {name: value for name, value in os.environ.items() if name in keep}
        # Where the tool is there, the kernel ends the process also when the test run is killed.
        tied = ["setpriv", "--pdeathsig", "KILL"] if shutil.which("setpriv") else []
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [*tied, sys.executable, "-m", "kubooth_operator.main", *options],
                env={**env, "KUBECONFIG": str(self._kubeconfig)},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )

    def wait_for_state(self, state: str) -> None:
        def is_there() -> bool:
            assert self.is_running, f"the operator ended with {self._process and self._process.returncode}:\n{self.log}"
            return self.probe("readyz") == (200, state)

        eventually(is_there, f"operator {state}", seconds=START_SECONDS, tell=lambda: self.log)

    def wait_for_rest(self, namespace: str) -> None:
        """Until it has written nothing there for some seconds: what others said of the pods has arrived too."""

        def is_at_rest() -> bool:
            return not self.proxy.writes(namespace, since=time.monotonic() - QUIET_SECONDS)

        eventually(is_at_rest, "rest", tell=lambda: self.proxy.writes(namespace))

    def probe(self, path: str) -> tuple[int, str]:
        """Status and state that a probe answers with."""
        status, text = self._ask(path)
        return status, text.partition(": ")[2].partition(";")[0]

    def metrics(self) -> str:
        """What it serves to Prometheus; nothing where it does not answer."""
        status, text = self._ask("metrics")
        return text if status == 200 else ""

    def _ask(self, path: str) -> tuple[int, str]:
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            with opener.open(f"http://127.0.0.1:{self._port}/{path}", timeout=5) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read().decode()
        except OSError:
            return 0, ""

    def kill(self) -> None:
        """By SIGKILL."""
        self.end_by(signal.SIGKILL)

    def stop(self, seconds: float = 30) -> int:
        """By SIGTERM; returns the exit code."""
        return self.end_by(signal.SIGTERM, seconds)

    def wait(self, seconds: float = 30) -> int:
        """Waits for its end, whatever causes it; returns the exit code."""
        assert self._process
        return self._process.wait(seconds)

    def restart(self) -> None:
        self.kill()
        self.start()

    def end_by(self, number: int, seconds: float = 30) -> int:
        """By a signal; returns the exit code."""
        assert self._process
        self._process.send_signal(number)
        return self._process.wait(seconds)


@pytest.fixture(scope="session")
def operator_process(api_server: ControlPlane, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Operator]:
    """The session's operator, not started yet."""
    folder = tmp_path_factory.mktemp("operator")
    with api_proxy(api_server.endpoint, api_server.ca) as proxy:
        operator = Operator(api_server, proxy, folder)
        yield operator
        if operator.is_running:
            operator.kill()


@pytest.fixture
def operator(operator_process: Operator) -> Iterator[Operator]:
    """The session's operator, at work."""
    if not operator_process.is_running:
        operator_process.start()
    yield operator_process
    operator_process.proxy.rules.clear()


@pytest.fixture
def no_operator(operator_process: Operator) -> None:
    """The session's operator is not at work: nobody but the test writes a status."""
    if operator_process.is_running:
        operator_process.stop()


@pytest.fixture
def standby(operator: Operator, tmp_path: Path) -> Iterator[Operator]:
    """A second one, not started."""
    second = Operator(operator.plane, operator.proxy, tmp_path, "operator-1")
    yield second
    if second.is_running:
        second.kill()


@pytest.fixture
def bench(rest: Rest, namespace: str) -> Iterator[Bench]:
    """The test's namespace, with a runtime `default` in the cluster."""
    if rest.find(f"{RUNTIMES}/default") is None:
        rest.post(RUNTIMES, runtime())
    made = {item["metadata"]["name"] for item in rest.items(RUNTIMES)}
    yield Bench(rest, namespace)
    for item in rest.items(JOBS.format(namespace)):
        rest.delete(f"{JOBS.format(namespace)}/{item['metadata']['name']}")
    for item in rest.items(RUNTIMES):
        if item["metadata"]["name"] not in made:
            rest.delete(f"{RUNTIMES}/{item['metadata']['name']}")


@pytest.fixture(scope="session")
def rest(api_server: ControlPlane) -> Iterator[Rest]:
    """The API server as admin."""
    client = Rest(api_server)
    yield client
    client.close()


def _write_kubeconfig(path: Path, plane: ControlPlane, endpoint: str) -> None:
    cluster = {"server": endpoint}
    if endpoint.startswith("https://"):
        cluster["certificate-authority"] = str(plane.ca)
    config: dict[str, Any] = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "bed", "cluster": cluster}],
        "users": [{"name": "bed", "user": {"token": plane.token(SYSTEM_NAMESPACE, OPERATOR)}}],
        "contexts": [{"name": "bed", "context": {"cluster": "bed", "user": "bed"}}],
        "current-context": "bed",
    }
    path.touch(mode=0o600)
    path.write_text(json.dumps(config))


def free_port() -> int:
    """One that is free at every address, as the operator takes it."""
    with contextlib.closing(socket.socket()) as probe:
        probe.bind(("", 0))
        port: int = probe.getsockname()[1]
        return port
