"""The process above torchrun: `python -m kubooth_trainer.launcher --config CONFIG.json`; PID 1 of a trainer pod.

torchrun hides its workers' exit codes and kills them 30 seconds after a SIGTERM. The launcher passes SIGTERM to the
workers themselves, which save and leave in their own time; maps the first failed rank to the documented exit code;
and never exits 0 after a SIGTERM unless the work is done. Standard output carries rank 0's events and, at the end
of a failed run, one `failed` event from here; standard error carries the logs of all ranks.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from kubooth_trainer.config import TrainConfig, load_config
from kubooth_trainer.errors import ExitCode, KuboothError
from kubooth_trainer.outcome import RUN_FOLDER_VARIABLE, Outcome, read_outcomes
from kubooth_trainer.progress import FailedEvent, event_to_json

POLL_SECONDS = 0.1
PEER_GRACE_SECONDS = 5.0  # for the other ranks of a failed one, which may hang in a collective
PR_SET_PDEATHSIG = 1
WORKER_MODULE = "kubooth_trainer.main"


def main(arguments: list[str] | None = None) -> int:
    """Runs the ranks of this node; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m kubooth_trainer.launcher", description=__doc__.partition("\n")[0])
    parser.add_argument("--config", required=True, type=Path, help="the training configuration (JSON)")
    parser.add_argument(
        "--node-rank", type=int, default=int(os.environ.get("JOB_COMPLETION_INDEX", "0")), help="index of this node"
    )
    parser.add_argument("--master-address", default="127.0.0.1", help="host name of node 0")
    parser.add_argument("--master-port", type=int, default=0, help="port on node 0 (0: a free one; single node only)")
    parser.add_argument("--die-with-parent", action="store_true", help="stop when the parent process is gone")
    parser.add_argument("--termination-log", type=Path, help="file for the last word, as JSON (Kubernetes)")
    options = parser.parse_args(arguments)
    if options.die_with_parent:
        die_with_parent(signal.SIGTERM)
    try:
        config = load_config(options.config)
    except KuboothError as error:
        return _fail(FailedEvent(reason=error.reason, message=str(error), exit_code=error.exit_code), options)
    run_folder = Path(tempfile.mkdtemp(prefix="kubooth-run-"))
    try:
        failure = _Launch(config, options, run_folder).run()
    finally:
        shutil.rmtree(run_folder, ignore_errors=True)
    return _fail(failure, options) if failure else ExitCode.OK


class _Launch:
    def __init__(self, config: TrainConfig, options: argparse.Namespace, run_folder: Path) -> None:
        self._config = config
        self._options = options
        self._run_folder = run_folder
        self._signals = 0
        self._passed_on: set[int] = set()

    def run(self) -> FailedEvent | None:
        """Starts torchrun, minds the ranks, and says how it ended (None: well)."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._on_signal)
        torchrun = subprocess.Popen(
            self._command(),
            env=self._environment(),
            start_new_session=True,
            preexec_fn=lambda: die_with_parent(signal.SIGKILL),
        )
        failed_at: float | None = None
        while torchrun.poll() is None:
            time.sleep(POLL_SECONDS)
            outcomes = read_outcomes(self._run_folder)
            if self._signals == 1:
                self._pass_on(outcomes, torchrun)
            elif self._signals > 1:
                _kill_group(torchrun)
            if any(_has_failed(outcome) for outcome in outcomes):
                failed_at = failed_at or time.monotonic()
                if time.monotonic() - failed_at > PEER_GRACE_SECONDS:
                    _kill_group(torchrun)
        return self._verdict(torchrun.returncode, read_outcomes(self._run_folder))

    def _command(self) -> list[str]:
        parallelism = self._config.parallelism
        port = self._options.master_port or _free_port()
        return [
            sys.executable, "-m", "torch.distributed.run",
            "--nnodes", str(parallelism.nodes),
            "--node-rank", str(self._options.node_rank),
            "--nproc-per-node", str(parallelism.devices_per_node),
            "--master-addr", self._options.master_address,
            "--master-port", str(port),
            "--max-restarts", "0",
            "-m", WORKER_MODULE,
            "--config", str(self._options.config),
        ]  # fmt: skip

    def _environment(self) -> dict[str, str]:
        threads = max(1, len(os.sched_getaffinity(0)) // self._config.parallelism.devices_per_node)
        return {"OMP_NUM_THREADS": str(threads), **os.environ, RUN_FOLDER_VARIABLE: str(self._run_folder)}

    def _on_signal(self, *_: object) -> None:
        self._signals += 1

    def _pass_on(self, outcomes: list[Outcome], torchrun: subprocess.Popen[bytes]) -> None:
        """SIGTERM to each rank once; to torchrun itself where no rank is up yet."""
        if not outcomes and not self._passed_on:
            _signal(torchrun.pid, signal.SIGTERM)
        for outcome in outcomes:
            if outcome.exit_code is None and outcome.pid not in self._passed_on:
                self._passed_on.add(outcome.pid)
                _signal(outcome.pid, signal.SIGTERM)

    def _verdict(self, code: int, outcomes: list[Outcome]) -> FailedEvent | None:
        if code == 0:
            return None
        ended = [outcome for outcome in outcomes if outcome.exit_code]
        silent = [outcome for outcome in outcomes if outcome.exit_code is None]
        known = [outcome for outcome in ended if outcome.exit_code != ExitCode.CRASHED]
        if self._signals and not [outcome for outcome in known if outcome.reason != "Stopped"]:
            message = next((outcome.message for outcome in known), "stopped before the ranks could save")
            return FailedEvent(reason="Stopped", message=message, exit_code=ExitCode.TERMINATED)
        if known:
            return _failed(known[0])
        if silent:
            ranks = ", ".join(str(outcome.rank) for outcome in sorted(silent, key=lambda outcome: outcome.rank))
            return FailedEvent(
                reason="TrainerCrashed",
                message=f"the process of rank {ranks} was killed (by hand, or by the kernel for want of memory); "
                "training goes on from the last checkpoint when started again",
                exit_code=ExitCode.CRASHED,
            )
        if ended:
            return _failed(ended[0])
        return FailedEvent(
            reason="TrainerCrashed",
            message=f"the training processes did not start (torchrun exit code {code}); the log says why",
            exit_code=ExitCode.CRASHED,
        )


def die_with_parent(number: signal.Signals) -> None:
    """Asks the kernel to send this process `number` when its parent ends (Linux; elsewhere nothing happens)."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, int(number), 0, 0, 0)


def _has_failed(outcome: Outcome) -> bool:
    return bool(outcome.exit_code) or (outcome.exit_code is None and not _is_alive(outcome.pid))


def _failed(outcome: Outcome) -> FailedEvent:
    return FailedEvent(reason=outcome.reason, message=outcome.message, exit_code=outcome.exit_code or ExitCode.CRASHED)


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def _signal(pid: int, number: signal.Signals) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return


def _kill_group(process: subprocess.Popen[bytes]) -> None:
    """Ends torchrun at once; the ranks, in sessions of their own, have asked the kernel to end with it."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        return


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _fail(event: FailedEvent, options: argparse.Namespace) -> int:
    print(event_to_json(event), flush=True)
    if options.termination_log is not None:
        options.termination_log.write_text(
            json.dumps({"reason": event.reason, "message": event.message, "exitCode": event.exit_code})
        )
    return event.exit_code


if __name__ == "__main__":
    sys.exit(main())
