"""Stands in for `kubooth_trainer.launcher`: emits the events of a scenario and ends as the real one would.

Called as `fake_launcher.py SCENARIO[:ARGUMENT] --config CONFIG.json --die-with-parent`.
"""

from __future__ import annotations

import fcntl
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

STOPS = {signal.SIGINT, signal.SIGTERM}
T0 = 1_790_000_000.0


def emit(kind: str, **fields: Any) -> None:
    print(json.dumps({"type": kind, **fields}), flush=True)


def log(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def stage(name: str, state: str, done: int = 0, total: int = 0, unit: str = "", note: str = "") -> None:
    ended = state in ("Succeeded", "Skipped", "Failed")
    start = None if state == "Pending" else T0
    emit(
        "stage", stage=name, state=state, done=done, total=total, unit=unit, start=start,
        end=T0 + 8 if ended else None, note=note,
    )  # fmt: skip


def step(number: int, total: int = 50) -> None:
    emit(
        "progress", step=number, total=total, loss=0.2 / number, instance_loss=0.1 / number, prior_loss=0.1,
        grad_norm=1.0, learning_rate=5e-6, samples_per_second=11.3, eta_seconds=(total - number) / 5,
        time=T0 + number,
    )  # fmt: skip


def checkpoint(number: int) -> None:
    emit("checkpoint", uri=f"file:///checkpoints/step-{number}", step=number, time=T0)


def plan() -> None:
    for name in ("Download", "Prior", "Prepare", "Train", "Evaluate", "Upload"):
        stage(name, "Pending")


def whole(name: str, total: int, unit: str) -> None:
    stage(name, "Running", 0, total, unit)
    stage(name, "Running", total // 2, total, unit)
    stage(name, "Succeeded", total, total, unit)


def until_training() -> None:
    plan()
    whole("Download", 5, "files")
    whole("Prior", 20, "images")
    whole("Prepare", 25, "images")
    emit("info", key="identifier", value="sks")
    stage("Train", "Running", 0, 50, "steps")


def finish(config: dict[str, Any]) -> None:
    whole("Evaluate", 8, "images")
    figures = [{"name": "Dino", "before": 0.15, "after": 0.84}, {"name": "Pres", "before": None, "after": None}]
    emit("quality", verdict=None, message="", figures=figures)
    whole("Upload", 12, "files")
    output = config["output"]["uri"].rstrip("/")
    emit(
        "result", model=output, report=f"{output}/report.html", manifest=f"{output}/manifest.json",
        identifier="sks", seconds=72.5, bytes=25_300_000,
    )  # fmt: skip


def success(config: dict[str, Any], _: str) -> int:
    until_training()
    for number in range(5, 51, 5):
        step(number)
        stage("Train", "Running", number, 50, "steps")
    stage("Train", "Succeeded", 50, 50, "steps")
    finish(config)
    return 0


def resumed(config: dict[str, Any], _: str) -> int:
    plan()
    stage("Download", "Skipped", note="5 files are there")
    stage("Prior", "Skipped", note="20 images are there")
    stage("Prepare", "Skipped")
    stage("Train", "Running", 30, 50, "steps", note="resumed at step 30")
    step(50)
    stage("Train", "Succeeded", 50, 50, "steps", note="resumed at step 30")
    finish(config)
    return 0


def failure(_: dict[str, Any], code: str) -> int:
    reason = {"2": "BadSubject", "70": "TrainerCrashed", "75": "StorageUnavailable"}[code]
    plan()
    log("library: a line before the end")
    stage("Download", "Running", 0, 5, "files")
    stage("Download", "Failed", 2, 5, "files")
    emit("failed", reason=reason, message="photos/3.jpg: cannot be decoded", exit_code=int(code))
    return int(code)


def crash(_: dict[str, Any], code: str) -> int:
    until_training()
    step(5)
    log("Traceback (most recent call last):")
    log("ZeroDivisionError: \x1b[31mdivision by zero\x1b[0m")
    if code == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    return int(code)


def warnings(config: dict[str, Any], _: str) -> int:
    plan()
    emit("warning", message="the identifier 'dog' is a common word: the model already has a meaning for it")
    return success(config, "")


def garbage(config: dict[str, Any], _: str) -> int:
    sys.stdout.buffer.write(b'\xff\xfe not text\n\n[1, 2]\n{"type": "future", "x": 1}\nloading 10%\r20%\n')
    sys.stdout.buffer.write(b"x" * (1 << 21) + b"\n")
    sys.stdout.flush()
    code = success(config, "")
    sys.stdout.write("a last line without an end")
    return code


def training(_: dict[str, Any], __: str) -> int:
    """Trains until asked to stop, then saves and says so, as the real one does."""
    signal.pthread_sigmask(signal.SIG_BLOCK, STOPS)
    until_training()
    step(5)
    step(10)
    caught = signal.Signals(signal.sigwait(STOPS))
    checkpoint(10)
    emit("failed", reason="Stopped", message=f"{caught.name} received", exit_code=128 + caught)
    return 128 + caught


def stubborn(config: dict[str, Any], _: str) -> int:
    """Never ends by itself, and has a worker in a session of its own, as torchrun's are; both hold locks."""
    signal.pthread_sigmask(signal.SIG_BLOCK, STOPS)
    workdir = Path(config["workdir"])
    hold(workdir / "launcher.alive")
    command = [sys.executable, __file__, "worker", "--config", sys.argv[sys.argv.index("--config") + 1]]
    with subprocess.Popen(command, stdout=subprocess.PIPE, start_new_session=True) as worker:
        assert worker.stdout is not None
        worker.stdout.readline()
        until_training()
        step(5)
        step(10)
        checkpoint(10)
        while True:
            signal.sigwait(STOPS)


def worker(config: dict[str, Any], _: str) -> int:
    hold(Path(config["workdir"]) / "worker.alive")
    print("holding", flush=True)
    signal.pause()
    return 0


def environment(config: dict[str, Any], _: str) -> int:
    for name in ("OMP_NUM_THREADS", "PYTHONSAFEPATH", "PYTHONUNBUFFERED"):
        emit("info", key=name, value=os.environ.get(name, ""))
    emit("info", key="arguments", value=" ".join(sys.argv[4:]))
    emit("info", key="leads its session", value=str(os.getsid(0) == os.getpid()))
    return success(config, "")


def hold(path: Path) -> None:
    """Keeps a lock until this process ends: how the tests see its end, without polling."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT)
    fcntl.flock(descriptor, fcntl.LOCK_EX)


SCENARIOS: dict[str, Callable[[dict[str, Any], str], int]] = {
    function.__name__: function
    for function in (
        success, resumed, failure, crash, warnings, garbage, training, stubborn, worker, environment,
    )
}  # fmt: skip


def main() -> None:
    name, _, argument = sys.argv[1].partition(":")
    config = json.loads(Path(sys.argv[sys.argv.index("--config") + 1]).read_text())
    log("library: a line on standard error")
    sys.exit(SCENARIOS[name](config, argument))


if __name__ == "__main__":
    main()
