"""Runs the launcher as a child process: its events, its log, the signals sent down, and how it ended.

Knows nothing of presentation: what happens is told to a `Listener`. One loop in one thread waits for the
child's output, for signals and for a tick; signals arrive through a wake-up descriptor, so that no handler
does any work.
"""

from __future__ import annotations

import os
import selectors
import signal
import socket
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, BinaryIO, Protocol

from kubooth_cli.processes import descendants
from kubooth_trainer.progress import Event, event_from_json

TICK_SECONDS = 0.2
LONGEST_LINE = 1 << 20  # bytes; a longer one is no event and goes to the log in pieces

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Listener(Protocol):
    """Who is told what happens. Called from the loop, in order; must not block."""

    def event(self, event: Event, line: str) -> None:
        """The trainer said something; `line` is the text it came as."""

    def stopping(self, cause: signal.Signals) -> None:
        """A first request to stop was passed on; the trainer now saves its state."""

    def tick(self) -> None:
        """Time passed: a few times a second."""


@dataclass(frozen=True)
class Ended:
    """How the launcher ended."""

    returncode: int  # as subprocess gives it: negative for a signal
    stopped_by: signal.Signals | None  # the first signal that asked for an end
    at_once: bool  # the second Ctrl-C: everything was killed


@dataclass
class Supervisor:
    """One launcher process and what it started. `run` may be called once."""

    command: Sequence[str]
    environment: Mapping[str, str]
    log: BinaryIO  # append mode: takes standard error, and what is no event on standard output
    listener: Listener
    inherited: Sequence[int] = ()  # descriptors that stay open in the launcher
    _buffer: bytearray = field(default_factory=bytearray)

    def run(self) -> Ended:
        """Starts the launcher and returns when it and its process group have ended. Main thread only."""
        with _signals() as wakeup, selectors.DefaultSelector() as selector:
            process = subprocess.Popen(
                self.command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=self.log,
                env=dict(self.environment),
                pass_fds=self.inherited,
                start_new_session=True,  # the terminal's Ctrl-C reaches only us; we pass it on
            )
            assert process.stdout is not None
            try:
                return self._attend(process, process.stdout, wakeup, selector)
            finally:
                if process.poll() is None:
                    _kill(process)
                process.stdout.close()

    def _attend(
        self,
        process: subprocess.Popen[bytes],
        output: IO[bytes],
        wakeup: socket.socket,
        selector: selectors.BaseSelector,
    ) -> Ended:
        os.set_blocking(output.fileno(), False)
        selector.register(output, selectors.EVENT_READ)
        selector.register(wakeup, selectors.EVENT_READ)
        stopped_by: signal.Signals | None = None
        at_once = False
        reading = True
        while process.poll() is None:
            selector.select(TICK_SECONDS)
            if reading and not self._read(output):
                selector.unregister(output)
                reading = False
            for caught in _pending(wakeup):
                if stopped_by is None:
                    stopped_by = caught
                    with suppress(ProcessLookupError):
                        process.send_signal(signal.SIGINT if caught is signal.SIGINT else signal.SIGTERM)
                    self.listener.stopping(caught)
                elif caught is signal.SIGINT and not at_once:
                    at_once = True
                    _kill(process)
            self.listener.tick()
        self._read(output)
        self._line(bytes(self._buffer))
        _kill_group(process.pid)
        return Ended(returncode=process.returncode, stopped_by=stopped_by, at_once=at_once)

    def _read(self, output: IO[bytes]) -> bool:
        """Takes in what is there; False at the end of the stream."""
        while True:
            try:
                chunk = os.read(output.fileno(), 1 << 16)
            except BlockingIOError:
                return True
            if not chunk:
                return False
            self._buffer += chunk
            *lines, rest = self._buffer.split(b"\n")
            for line in lines:
                self._line(bytes(line))
            self._buffer = rest
            if len(rest) > LONGEST_LINE:
                self.log.write(bytes(rest))
                self._buffer = bytearray()

    def _line(self, raw: bytes) -> None:
        text = raw.decode(errors="replace").strip()
        if not text:
            return
        event = event_from_json(text)
        if event is None:
            self.log.write(raw + b"\n")
        else:
            self.listener.event(event, text)


@contextmanager
def _signals() -> Iterator[socket.socket]:
    """Sends the numbers of stop signals and of SIGCHLD into a socket instead of acting on them.

    A signal that was ignored when we started (`nohup`, a shell's background job) stays ignored.
    """
    reader, writer = socket.socketpair()
    reader.setblocking(False)
    writer.setblocking(False)
    before = {
        number: signal.getsignal(number)
        for number in (*STOP_SIGNALS, signal.SIGCHLD)
        if signal.getsignal(number) is not signal.SIG_IGN or number is signal.SIGCHLD
    }
    previous = signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)
    for number in before:
        signal.signal(number, lambda _number, _frame: None)
    try:
        yield reader
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(previous)
        reader.close()
        writer.close()


def _pending(wakeup: socket.socket) -> list[signal.Signals]:
    """The stop signals that arrived since the last look."""
    try:
        numbers = wakeup.recv(4096)
    except BlockingIOError:
        return []
    return [signal.Signals(number) for number in numbers if number in STOP_SIGNALS]


def _kill(process: subprocess.Popen[bytes]) -> None:
    """Kills the launcher and all below it: torchrun puts every worker in a session of its own."""
    doomed = descendants(process.pid)
    _kill_group(process.pid)
    for pid in doomed:
        with suppress(ProcessLookupError, PermissionError):
            os.kill(pid, signal.SIGKILL)
    process.wait()


def _kill_group(pid: int) -> None:
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)


def log_lines(path: Path, since: int, count: int) -> list[str]:
    """The last `count` lines that the log holds after offset `since`, control characters taken out."""
    with path.open("rb") as file:
        end = file.seek(0, os.SEEK_END)
        file.seek(max(since, end - (64 << 10)))
        text = file.read().decode(errors="replace")
    lines = ["".join(ch for ch in line if ch.isprintable()).rstrip() for line in text.splitlines()]
    return [line for line in lines if line][-count:]
