"""The last lines of all ranks' logs, kept by the launcher while they pass through it.

Dumps of stacks are folded into one line for each rank, since a termination message holds only a few; what torchrun
says of itself after a failure, a page that hides the ranks' own last words, is passed on but not kept.
"""

from __future__ import annotations

import os
import re
import threading
from collections import deque
from collections.abc import Iterator
from pathlib import PurePath

LINES = 40
_FRAMES = 9  # of a folded stack

_THREAD = re.compile(r"(?:Current t|T)hread 0x[0-9a-f]+ .*\(most recent call first\):")
_FRAME = re.compile(r'  File "(?P<file>[^"]*)", line (?P<line>\d+)(?: in (?P<function>.*))?')
_TORCHRUN = re.compile(r"[EWI]\d{4} .*torch/distributed/(elastic|run)")
_TORCHRUN_FAILED = re.compile(r"E\d{4} .*torch/distributed/elastic.*failed \(exitcode")


class LogTail:
    """Copies a pipe to a descriptor, byte by byte as it comes, and keeps the last lines."""

    def __init__(self, source: int, sink: int) -> None:
        self._source = source
        self._sink = sink
        self._fold = Fold()
        self._lines: deque[str] = deque(maxlen=LINES)
        self._thread = threading.Thread(target=self._copy, name="log", daemon=True)
        self._thread.start()

    def finish(self, seconds: float) -> tuple[str, ...]:
        """The last lines, oldest first; waits for the end of the pipe, which an orphan may hold open."""
        self._thread.join(seconds)
        return tuple(self._lines)

    def _copy(self) -> None:
        rest = b""
        while chunk := os.read(self._source, 1 << 16):
            self._pass_on(chunk)
            *lines, rest = (rest + chunk).split(b"\n")
            for raw in lines:
                self._keep(raw)
            rest = rest[-(1 << 16) :]
        self._keep(rest)
        self._lines.extend(self._fold.end())

    def _keep(self, raw: bytes) -> None:
        text = raw.decode(errors="replace").rsplit("\r", 1)[-1]
        self._lines.extend(self._fold.take(text))

    def _pass_on(self, chunk: bytes) -> None:
        try:
            while chunk:
                chunk = chunk[os.write(self._sink, chunk) :]
        except OSError:
            return  # nobody reads the log: the ranks go on all the same


class Fold:
    """What to keep of a log, line by line: `take` and `end` give the lines that are settled."""

    def __init__(self) -> None:
        self._frames: list[re.Match[str]] | None = None  # of the stack that is being read
        self._torchrun_failed = False

    def take(self, line: str) -> Iterator[str]:
        frame = _FRAME.fullmatch(line)
        if self._frames is not None and frame:
            self._frames.append(frame)
            return
        yield from self.end()
        if _THREAD.match(line):
            self._frames = []
            return
        self._torchrun_failed = self._torchrun_failed or bool(_TORCHRUN_FAILED.match(line))
        text = "".join(character for character in line if character.isprintable()).rstrip()
        if text and not self._torchrun_failed and not _TORCHRUN.match(line):
            yield text

    def end(self) -> Iterator[str]:
        frames, self._frames = self._frames, None
        # Only a main thread has this file at the bottom: what the others wait for explains nothing.
        if frames and any(frame["file"].endswith("kubooth_trainer/main.py") for frame in frames):
            yield "stack: " + " < ".join(_short(frame) for frame in _telling(frames))


def _telling(frames: list[re.Match[str]]) -> list[re.Match[str]]:
    """Where it is, in whose code: the innermost frames, and after those only ours."""
    return [
        frame for number, frame in enumerate(frames) if number < 3 or "/kubooth_trainer/" in frame["file"]
    ][:_FRAMES]  # fmt: skip


def _short(frame: re.Match[str]) -> str:
    return f"{frame['function'] or '?'} ({PurePath(frame['file']).name}:{frame['line']})"
