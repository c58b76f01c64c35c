"""The process above torchrun: `python -m kubooth_trainer.launcher --config CONFIG.json`; PID 1 of a trainer pod.

torchrun hides its workers' exit codes and kills them 30 seconds after a SIGTERM. The launcher passes SIGTERM to the
workers themselves, which save and leave in their own time; maps the first failed rank to the documented exit code;
and never exits 0 after a SIGTERM unless the work is done. Standard output carries rank 0's events and, at the end
of a failed run, one `failed` event from here; standard error carries the logs of all ranks. In a pod its last word,
however it ends, is the termination message.
"""

from __future__ import annotations

import signal

if __name__ == "__main__":  # until there is a handler: as PID 1 the kernel would drop them
    signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGTERM, signal.SIGINT))

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
import traceback
from pathlib import Path
from typing import Any

from kubooth_trainer import __version__
from kubooth_trainer.config import TrainConfig, load_config
from kubooth_trainer.errors import ExitCode, KuboothError
from kubooth_trainer.log_tail import LogTail
from kubooth_trainer.outcome import RUN_FOLDER_VARIABLE, SUMMARY, Outcome, is_writing, read_outcomes
from kubooth_trainer.processes import (
    DUMP_SIGNAL,
    die_with_parent,
    free_port,
    is_alive,
    kill_group,
    oom_kills,
    reap_orphans,
    send,
)
from kubooth_trainer.progress import FailedEvent, InfoEvent, event_to_json
from kubooth_trainer.termination import Termination
from kubooth_trainer.verdict import Seen, judge

POLL_SECONDS = 0.1
PEER_GRACE_SECONDS = 5.0  # for the other ranks of a failed one, which may hang in a collective
WRITING_GRACE_SECONDS = 25.0  # where rank 0 writes a checkpoint meanwhile; torchrun itself kills after 30
RESERVE_SECONDS = 10.0  # of the grace period, for stacks and the last word
LOG_SECONDS = 2.0  # to wait for the end of the log
TORCHRUN_SLACK_SECONDS = 60  # torchrun's own deadline comes after ours, which can say what happened
WORKER_MODULE = "kubooth_trainer.main"


def main(arguments: list[str] | None = None) -> int:
    """Runs the ranks of this node; returns the exit code."""
    options = _parse(arguments)
    if options.die_with_parent:
        die_with_parent(signal.SIGTERM)
    launch: _Launch | None = None
    try:
        launch = _Launch(load_config(options.config), options)
        if options.node_rank:  # else a log that stays empty looks like a pod that does nothing
            told = InfoEvent(key="node", value=f"{options.node_rank}, which works in step with node 0 and its log")
            print(event_to_json(told), flush=True)
        failure = launch.run()
    except KuboothError as error:
        failure = FailedEvent(reason=error.reason, message=str(error), exit_code=error.exit_code)
    except Exception as error:  # noqa: BLE001 - whatever it is, the last word must be said
        traceback.print_exc()
        failure = FailedEvent(
            reason="TrainerCrashed", message=f"the launcher failed: {error!r}", exit_code=ExitCode.CRASHED
        )
    if failure:
        print(event_to_json(failure), flush=True)
    if options.termination_log is not None:
        _write(options.termination_log, _last_word(failure, launch))
    return failure.exit_code if failure else ExitCode.OK


def _parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m kubooth_trainer.launcher", description=__doc__.partition("\n")[0])
    parser.add_argument("--version", action="version", version=f"kubooth-trainer {__version__}")
    parser.add_argument("--config", required=True, type=Path, help="the training configuration (JSON)")
    parser.add_argument(
        "--node-rank", type=int, default=int(os.environ.get("JOB_COMPLETION_INDEX", "0")), help="index of this node"
    )
    parser.add_argument("--master-address", default="127.0.0.1", help="host name of node 0")
    parser.add_argument("--master-port", type=int, default=0, help="port on node 0 (0: a free one; single node only)")
    parser.add_argument("--die-with-parent", action="store_true", help="stop when the parent process is gone")
    parser.add_argument("--grace-seconds", type=float, help="time between SIGTERM and SIGKILL (default: no limit)")
    parser.add_argument("--status", action="store_true", help="rank 0 writes the status of its job (Kubernetes)")
    parser.add_argument("--termination-log", type=Path, help="file for the last word, as JSON (Kubernetes)")
    return parser.parse_args(arguments)


class _Launch:
    """The starts of torchrun: one, unless memory was short. Once `run` has returned, `log` has the last lines of all
    ranks, `summary` rank 0's."""

    def __init__(self, config: TrainConfig, options: argparse.Namespace) -> None:
        self._config = config
        self._options = options
        self._signals = 0
        self._stopped_at: float | None = None  # Unix seconds
        self._stopped_on: float | None = None  # the same by the clock that nobody sets
        self._begin()
        self.log: tuple[str, ...] = ()
        self.summary: dict[str, Any] | None = None
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._on_signal)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, (signal.SIGTERM, signal.SIGINT))

    def run(self) -> FailedEvent | None:
        """Starts torchrun, minds the ranks, and says how it ended (None: well).

        Starts anew where a rank has noted how a new start gets by with less memory. With ranks on other nodes, which
        have to start anew too, that is for the next attempt.
        """
        while True:
            self._begin()
            with tempfile.TemporaryDirectory(prefix="kubooth-run-", ignore_cleanup_errors=True) as folder:
                failure = self._run(Path(folder))
            if not self._again or self._signals or self._config.parallelism.nodes > 1:
                return failure

    def _begin(self) -> None:
        """Forgets an earlier start."""
        self._passed_on: set[int] = set()
        self._died: dict[int, float] = {}
        self._gave_up = ""
        self._again = False

    def _run(self, folder: Path) -> FailedEvent | None:
        killed_before = oom_kills()
        reading, writing = os.pipe()
        torchrun = subprocess.Popen(
            self._command(folder),
            env=self._environment(folder),
            stderr=writing,
            start_new_session=True,
            preexec_fn=lambda: die_with_parent(signal.SIGKILL),
        )
        os.close(writing)
        tail = LogTail(reading, 2)
        self._mind(torchrun, folder)
        outcomes = read_outcomes(folder)
        self._again = any(outcome.again for outcome in outcomes)
        for outcome in outcomes:
            if outcome.exit_code is None and not self._gave_up:
                self._died.setdefault(outcome.rank, time.time())
        self.log = tail.finish(LOG_SECONDS)
        self.summary = _read_summary(folder)
        return judge(
            Seen(
                torchrun_code=torchrun.returncode,
                outcomes=outcomes,
                died=self._died,
                stopped_at=self._stopped_at,
                grace_seconds=self._options.grace_seconds if self._gave_up == "grace" else None,
                rendezvous_seconds=self._config.deadlines.rendezvous_seconds if self._gave_up == "rendezvous" else None,
                oom_kills=oom_kills() - killed_before,
                log=self.log,
            )
        )

    def _mind(self, torchrun: subprocess.Popen[bytes], folder: Path) -> None:
        """Until torchrun has ended: passes signals on, and ends it when that is overdue."""
        began = time.monotonic()
        failed_at: float | None = None
        while torchrun.poll() is None:
            time.sleep(POLL_SECONDS)
            if os.getpid() == 1:
                reap_orphans(torchrun.pid)
            outcomes = read_outcomes(folder)
            if self._signals:
                self._pass_on(outcomes, torchrun)
            if any(_has_failed(outcome) for outcome in outcomes):
                failed_at = failed_at or time.monotonic()
            if self._gave_up:
                continue
            for outcome in outcomes:
                if outcome.exit_code is None and not is_alive(outcome.pid):
                    self._died.setdefault(outcome.rank, time.time())
            if self._signals > 1 and self._options.grace_seconds is None:
                self._give_up("the second signal", torchrun)
            elif failed_at is not None and time.monotonic() - failed_at > self._patience(outcomes, folder):
                self._give_up("a failed rank", torchrun)
            elif self._is_grace_over():
                _dump_stacks(outcomes)
                self._give_up("grace", torchrun)
            elif not outcomes and time.monotonic() - began > self._config.deadlines.rendezvous_seconds:
                self._give_up("rendezvous", torchrun)

    def _patience(self, outcomes: list[Outcome], folder: Path) -> float:
        """Seconds for the others of a failed rank."""
        writes = 0 not in self._died and is_writing(folder, outcomes)
        return WRITING_GRACE_SECONDS if writes else PEER_GRACE_SECONDS

    def _give_up(self, why: str, torchrun: subprocess.Popen[bytes]) -> None:
        self._gave_up = why
        kill_group(torchrun)

    def _command(self, folder: Path) -> list[str]:
        parallelism = self._config.parallelism
        port = self._options.master_port or free_port()
        return [
            sys.executable, "-m", "torch.distributed.run",
            "--nnodes", str(parallelism.nodes),
            "--node-rank", str(self._options.node_rank),
            "--nproc-per-node", str(parallelism.devices_per_node),
            "--master-addr", self._options.master_address,
            "--master-port", str(port),
            "--rdzv-conf", f"timeout={self._config.deadlines.rendezvous_seconds + TORCHRUN_SLACK_SECONDS}",
            "--max-restarts", "0",
            "--log-dir", str(folder / "torchrun"),
            "-m", WORKER_MODULE,
            "--config", str(self._options.config),
            *(["--status"] if self._options.status else []),
        ]  # fmt: skip

    def _environment(self, folder: Path) -> dict[str, str]:
        threads = max(1, len(os.sched_getaffinity(0)) // self._config.parallelism.devices_per_node)
        return {"OMP_NUM_THREADS": str(threads), **os.environ, RUN_FOLDER_VARIABLE: str(folder)}

    def _on_signal(self, *_: object) -> None:
        self._signals += 1
        self._stopped_at = self._stopped_at or time.time()
        self._stopped_on = self._stopped_on or time.monotonic()

    def _pass_on(self, outcomes: list[Outcome], torchrun: subprocess.Popen[bytes]) -> None:
        """SIGTERM to each rank once; to torchrun itself where no rank is up yet."""
        if not outcomes and not self._passed_on:
            send(torchrun.pid, signal.SIGTERM)
        for outcome in outcomes:
            if outcome.exit_code is None and outcome.pid not in self._passed_on:
                self._passed_on.add(outcome.pid)
                send(outcome.pid, signal.SIGTERM)

    def _is_grace_over(self) -> bool:
        """Time to say the last word, before SIGKILL comes."""
        grace: float | None = self._options.grace_seconds
        if self._stopped_on is None or grace is None:
            return False
        return time.monotonic() - self._stopped_on > grace - min(RESERVE_SECONDS, grace / 4)


def _has_failed(outcome: Outcome) -> bool:
    return bool(outcome.exit_code) or (outcome.exit_code is None and not is_alive(outcome.pid))


def _dump_stacks(outcomes: list[Outcome]) -> None:
    """Of the ranks that have not left, one after the other, so that the dumps do not mix."""
    for outcome in outcomes:
        if outcome.exit_code is None:
            send(outcome.pid, DUMP_SIGNAL)
            time.sleep(2 * POLL_SECONDS)


def _read_summary(folder: Path) -> dict[str, Any] | None:
    """Rank 0's part of the status, where rank 0 ran here and came so far."""
    try:
        summary: dict[str, Any] = json.loads((folder / SUMMARY).read_text())
    except (OSError, ValueError):
        return None
    return summary


def _last_word(failure: FailedEvent | None, launch: _Launch | None) -> str:
    summary = launch.summary if launch else None
    if failure is None:
        return Termination(reason="Completed", message="", exit_code=ExitCode.OK, summary=summary).to_text()
    return Termination(
        reason=failure.reason,
        message=failure.message,
        exit_code=failure.exit_code,
        summary=summary,
        log=launch.log if launch else (),
    ).to_text()


def _write(path: Path, text: str) -> None:
    try:
        path.write_text(text, encoding="utf-8")  # in place: in a pod the file is a mount
    except OSError as error:
        print(f"{path}: the last word cannot be written: {error}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
