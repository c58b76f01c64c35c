"""pytest plugin: the `kubooth` command, talking to a cluster of the tests.

def test_something(kubooth, bench): bench.create(job()); assert "rex" in kubooth("list")
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from bed.controlplane import ControlPlane
from bed.jobs import Bench
from click.testing import CliRunner

from kubooth_cli.main import CLUSTER, main

PROGRAM = Path(sys.executable).parent / "kubooth"


@dataclass(frozen=True)
class Done:
    """How a command ended."""

    returncode: int
    stdout: str
    stderr: str


@dataclass
class Kubooth:
    """Runs in `folder`, as whom `kubeconfig` is for, in `namespace`."""

    folder: Path
    kubeconfig: Path
    namespace: str
    extra: dict[str, str] = field(default_factory=dict)

    @property
    def environment(self) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if name in ("PATH", "LANG") or "AWS" in name}
        proxies = {name: os.environ[name] for name in ("NO_PROXY", "no_proxy") if name in os.environ}
        ours = {"HOME": str(self.folder), "KUBECONFIG": str(self.kubeconfig), "PYTHONUTF8": "1"}
        return {**kept, **proxies, **ours, **self.extra}

    def __call__(self, *arguments: str | Path, env: Mapping[str, str] | None = None) -> str:
        """Standard output of a command that ends well."""
        done = self.try_(*arguments, env=env)
        assert done.returncode == 0, f"{arguments}: {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    def try_(self, *arguments: str | Path, env: Mapping[str, str] | None = None) -> Done:
        """A command that may end in any way. Within this process: the Kubernetes client takes a second to import."""
        wanted: dict[str, str | None] = {name: None for name in os.environ if name.startswith(("KUBE", "COMP_"))}
        wanted |= {**self.environment, **(env or {})}
        with contextlib.chdir(self.folder):
            done = CliRunner(env=wanted).invoke(main, self.arguments(*arguments), prog_name="kubooth")
        if done.exception and not isinstance(done.exception, SystemExit):
            raise done.exception
        return Done(done.exit_code, done.stdout, done.stderr)

    def refuses(self, *arguments: str | Path) -> tuple[int, str]:
        """Exit code and the one sentence of a command that fails."""
        done = self.try_(*arguments)
        lines = done.stderr.splitlines()
        assert len(lines) == 1 and not done.stdout, done.stdout + done.stderr
        return done.returncode, lines[0]

    def start(self, *arguments: str | Path) -> subprocess.Popen[str]:
        """A command that goes on; both streams in one pipe. It hears Ctrl-C, also where the test run itself does not:
        a shell starts what it runs in the background with SIGINT ignored, and so do all that comes of it."""
        before = signal.signal(signal.SIGINT, signal.SIG_DFL)
        try:
            return subprocess.Popen(
                self.command(*arguments),
                cwd=self.folder,
                env=self.environment,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
        finally:
            signal.signal(signal.SIGINT, before)

    def command(self, *arguments: str | Path) -> list[str]:
        """What starts it as a process."""
        return [sys.executable, "-W", "error", str(PROGRAM), *self.arguments(*arguments)]

    def arguments(self, *arguments: str | Path) -> list[str]:
        namespace = ["-n", self.namespace] if arguments[0] in CLUSTER else []
        return [str(arguments[0]), *namespace, *map(str, arguments[1:])]


@pytest.fixture
def kubooth(api_server: ControlPlane, no_operator: None, bench: Bench, tmp_path: Path) -> Kubooth:
    """As admin, in the test's namespace; nobody but the test writes to its jobs."""
    return Kubooth(tmp_path, api_server.admin, bench.namespace)
