"""Taking turns: both ends of the pipe between a benchmark and the trainings that it compares.

Each training runs in a process of its own and rests between its turns, so that one benchmark can interleave several
trainings: a machine that grows slower or faster meanwhile does so for all of them. A request and an answer are one
line of JSON each. Used by `step.py` (the asking end) and `worker.py` (the answering end); imports no torch by itself.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

WORKER = Path(__file__).with_name("worker.py")
MOST_COSTS = 8


@dataclass(frozen=True, kw_only=True)
class Turn:
    """What a training did in one turn."""

    seconds: list[float]  # of each step
    cpu_seconds: list[float]  # of each step, summed over the threads of the process
    losses: list[float]  # all that became known during the turn
    peak_mib: float  # the most memory that the process has held since it started
    costs: dict[str, float]  # operation -> share of CPU time, kernel -> of GPU time on one; only of a profiled turn


class Training:
    """The asking end: one training in a process of its own. Raises RuntimeError with its log where it fails."""

    def __init__(self, arguments: Sequence[str], *, environment: Mapping[str, str], log: Path) -> None:
        self._log = log
        with log.open("w") as stderr:
            self._process = subprocess.Popen(
                [sys.executable, str(WORKER), *arguments],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=stderr, text=True, env=dict(environment),
            )  # fmt: skip
        self.facts: dict[str, Any] = {}

    def wait_until_ready(self) -> None:
        """Returns when it stands before its first turn: all is loaded, nothing has been timed."""
        self.facts = self._answer()

    def take(self, steps: int, *, profiled: bool = False, trace: Path | None = None) -> Turn:
        """`trace`: where a profiled turn leaves its trace, for chrome://tracing or Perfetto."""
        assert self._process.stdin is not None
        request = {"steps": steps, "profiled": profiled, "trace": str(trace) if trace else None}
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        return Turn(**self._answer())

    def end(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            self._process.wait(timeout=30)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"a training ended too early; the end of its log:\n{self._log.read_text()[-3000:]}")
        answer: dict[str, Any] = json.loads(line)
        return answer


@dataclass
class Turns:
    """The answering end: a training calls `beat` after every step, and is held there until it is its turn."""

    requests: TextIO
    answers: TextIO
    facts: dict[str, Any] = field(default_factory=dict)  # sent once, with the first answer
    losses: list[float] = field(default_factory=list)
    _seconds: list[float] = field(default_factory=list)
    _cpu_seconds: list[float] = field(default_factory=list)
    _left: int | None = None
    _profiler: Any = None
    _trace: str | None = None
    _since: float = 0.0
    _cpu_since: float = 0.0

    def beat(self) -> None:
        """Ends the process when nobody asks any more."""
        if self._left == 1:
            _wait_for_gpu()  # what a turn began counts in it
        now, cpu_now = time.perf_counter(), time.process_time()
        if self._left is None:
            self._send(self.facts)
        else:
            self._seconds.append(now - self._since)
            self._cpu_seconds.append(cpu_now - self._cpu_since)
            self._left -= 1
        if not self._left:
            if self._left == 0:
                self._finish_turn()
            self._await_turn()
        self._since, self._cpu_since = time.perf_counter(), time.process_time()

    def _finish_turn(self) -> None:
        costs = _stop_profiler(self._profiler, self._trace) if self._profiler else {}
        times = {"seconds": self._seconds, "cpu_seconds": self._cpu_seconds}
        self._send({**times, "losses": self.losses, "peak_mib": peak_mib(), "costs": costs})
        self._seconds, self._cpu_seconds, self._profiler = [], [], None
        self.losses.clear()

    def _await_turn(self) -> None:
        line = self.requests.readline()
        if not line:
            os._exit(0)
        request = json.loads(line)
        self._left = request["steps"]
        if request["profiled"]:
            self._profiler, self._trace = _start_profiler(), request["trace"]

    def _send(self, answer: dict[str, Any]) -> None:
        self.answers.write(json.dumps(answer) + "\n")
        self.answers.flush()


def peak_mib() -> float:
    """The most resident memory that this process has held, in MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def _wait_for_gpu() -> None:
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        torch.cuda.synchronize()


def _start_profiler() -> Any:
    import torch
    from torch.profiler import ProfilerActivity, profile

    on_gpu = [ProfilerActivity.CUDA] if torch.cuda.is_available() else []
    started = profile(activities=[ProfilerActivity.CPU, *on_gpu])
    started.start()
    return started


def _stop_profiler(started: Any, trace: str | None) -> dict[str, float]:
    """The costliest kernels by their share of the GPU's time; without one operations, by the CPU time of their own."""
    started.stop()
    if trace:
        started.export_chrome_trace(trace)
    rows = started.key_averages()
    kernels = [row for row in rows if row.device_type.name == "CUDA" and not row.is_user_annotation]
    times = {row.key: row.self_device_time_total for row in kernels}
    times = times or {row.key: row.self_cpu_time_total for row in rows}
    total = sum(times.values())
    costliest = sorted(times, key=lambda name: -times[name])[:MOST_COSTS]
    return {name: round(times[name] / total, 4) for name in costliest}
