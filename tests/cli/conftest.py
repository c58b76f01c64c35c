"""The `kubooth` command as a real process, with pipes or on a terminal, above a launcher that plays a scenario."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import pty
import re
import selectors
import signal
import struct
import subprocess
import sys
import termios
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import pytest

HERE = Path(__file__).parent
JOB = """\
apiVersion: kubooth.io/v1alpha1
kind: PersonalizationJob
metadata: {name: rex}
spec:
  subject: {className: dog, images: "file:photos/"}
  model: {uri: "file:base model/"}
  output: {uri: "file:out/"}
"""
ESCAPE = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
LONG = 120.0  # seconds after which a test gives up; nothing waits this long when all is well


@dataclass
class Terminal:
    """A command on a pseudo terminal. Reading is by what appears, never by time."""

    process: subprocess.Popen[bytes]
    master: int
    seen: str = ""

    def wait_for(self, text: str) -> str:
        """Reads until `text` appears beyond what was read before; returns everything up to here."""
        start = len(self.seen)
        while text not in self.seen[start:]:
            if not self._read():
                pytest.fail(f"the command ended before {text!r} appeared:\n{self.seen}")
        return self.seen

    def finish(self) -> int:
        """Reads to the end; the exit code."""
        while self._read():
            pass
        return self.process.wait(LONG)

    def ctrl_c(self) -> None:
        os.write(self.master, b"\x03")

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    @property
    def text(self) -> str:
        """What was written, without escape codes."""
        return ESCAPE.sub("", self.seen).replace("\r", "")

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait(LONG)
        with suppress(OSError):
            os.close(self.master)

    def _read(self) -> bool:
        with selectors.DefaultSelector() as selector:
            selector.register(self.master, selectors.EVENT_READ)
            if not selector.select(LONG):
                pytest.fail(f"nothing more came:\n{self.seen}")
        try:
            chunk = os.read(self.master, 1 << 16)
        except OSError as error:
            if error.errno == errno.EIO:  # how Linux says that the other side is closed
                return False
            raise
        self.seen += chunk.decode(errors="replace")
        return bool(chunk)


@dataclass
class Kubooth:
    """Starts `kubooth ARGUMENTS` in a folder that holds `job.yaml`."""

    folder: Path
    environment: dict[str, str] = field(default_factory=dict)
    opened: list[Terminal] = field(default_factory=list)

    @property
    def workdir(self) -> Path:
        return self.folder / "work"

    @property
    def log(self) -> str:
        return (self.workdir / "trainer.log").read_text(errors="replace")

    def run(self, scenario: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        """`kubooth run job.yaml --workdir work ARGUMENTS` with pipes, to its end."""
        return subprocess.run(
            self.command(scenario, *arguments),
            cwd=self.folder, env=self.environment, capture_output=True, text=True, timeout=LONG, check=False,
        )  # fmt: skip

    def call(self, scenario: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        """`kubooth ARGUMENTS` with pipes, to its end."""
        launcher = json.dumps([sys.executable, str(HERE / "fake_launcher.py"), scenario])
        return subprocess.run(
            [sys.executable, "-W", "error", str(HERE / "drive.py"), launcher, "--", *arguments],
            cwd=self.folder, env=self.environment, capture_output=True, text=True, timeout=LONG, check=False,
        )  # fmt: skip

    def start(self, scenario: str, *arguments: str) -> subprocess.Popen[str]:
        """The same, started."""
        return subprocess.Popen(
            self.command(scenario, *arguments),
            cwd=self.folder, env=self.environment, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip

    def on_terminal(self, scenario: str, *arguments: str, columns: int = 120, rows: int = 40) -> Terminal:
        """The same on a terminal of its own, which is its controlling one."""
        master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
        process = subprocess.Popen(
            self.command(scenario, *arguments, options=("--ctty",)),
            cwd=self.folder, env=self.environment, stdin=slave, stdout=slave, stderr=slave,
            start_new_session=True,
        )  # fmt: skip
        os.close(slave)
        terminal = Terminal(process, master)
        self.opened.append(terminal)
        return terminal

    def command(self, scenario: str, *arguments: str, options: tuple[str, ...] = ()) -> list[str]:
        launcher = json.dumps([sys.executable, str(HERE / "fake_launcher.py"), scenario])
        run = ["run", "job.yaml", "--workdir", "work", *arguments]
        return [sys.executable, "-W", "error", str(HERE / "drive.py"), launcher, *options, "--", *run]


@pytest.fixture
def kubooth(tmp_path: Path) -> Iterator[Kubooth]:
    """The command in an empty folder with a job and its photos; CPU only; nothing of the user's settings."""
    folder = tmp_path / "a folder"
    (folder / "photos").mkdir(parents=True)
    (folder / "job.yaml").write_text(JOB)
    kept = {name: os.environ[name] for name in ("PATH", "LANG", "LC_ALL") if name in os.environ}
    environment = kept | {
        "HOME": str(tmp_path / "home"),
        "TERM": "xterm-256color",
        "PYTHONUTF8": "1",
        "CUDA_VISIBLE_DEVICES": "",
    }
    command = Kubooth(folder, environment)
    yield command
    for terminal in command.opened:
        terminal.close()


@pytest.fixture
def ended() -> Callable[[Path], bool]:
    """Waits until no process holds the lock on a file (by blocking on it): its holder has ended."""

    def wait(path: Path) -> bool:
        with path.open("r+") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
        return True

    return wait
