"""One training process, started by torchrun: `python -m kubooth_trainer.main --config CONFIG.json`.

Joins the other ranks, runs the job, and turns whatever happens into an exit code and an outcome file. Standard output
belongs to rank 0's events alone: whatever libraries print there goes to standard error instead.
"""

from __future__ import annotations

import argparse
import faulthandler
import gc
import logging
import os
import signal
import sys
import traceback
import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn, TextIO

from kubooth_trainer import __version__
from kubooth_trainer.company import without_company
from kubooth_trainer.config import TrainConfig, load_config
from kubooth_trainer.delivery import api_outlet, file_outlet
from kubooth_trainer.errors import (
    ExitCode,
    KuboothError,
    RendezvousTimeoutError,
    SmallerBatchError,
    StalledError,
    StoppedError,
)
from kubooth_trainer.outcome import SUMMARY, failure_of, run_folder, write_outcome
from kubooth_trainer.processes import DUMP_SIGNAL, die_with_parent
from kubooth_trainer.progress import JsonLines, Reporter
from kubooth_trainer.status import StatusSink
from kubooth_trainer.tracking import TrackingSink, Verdict, trackers

PULSE_SECONDS = 5.0


def main() -> None:
    """Never returns: ends the process with a documented exit code."""
    parser = argparse.ArgumentParser(prog="python -m kubooth_trainer.main", description=__doc__.partition("\n")[0])
    parser.add_argument("--config", required=True, type=Path, help="the training configuration (JSON)")
    parser.add_argument("--status", action="store_true", help="write the status of the job (in a pod)")
    parser.add_argument("--version", action="version", version=f"kubooth-trainer {__version__}")
    options = parser.parse_args()
    rank = int(os.environ.get("RANK", "0"))
    die_with_parent(signal.SIGKILL)
    faulthandler.register(DUMP_SIGNAL, file=sys.stderr, all_threads=True)
    write_outcome(rank)
    events = _claim_standard_output()
    reporter = Reporter(sinks=[JsonLines(events)] if rank == 0 else [])
    ending = _Ending(rank, reporter)
    try:
        config = load_config(options.config)
        if rank == 0:
            ending.sink = _status_sink(config, in_cluster=options.status)
            reporter.sinks.append(ending.sink)
            ending.tracking = [TrackingSink(each) for each in trackers(config)]
            reporter.sinks += ending.tracking
        _run(config, reporter, ending)
    except BaseException as error:  # noqa: BLE001 - the one place where every failure becomes an exit code
        code, reason, message = failure_of(error)
        if not isinstance(error, KuboothError):
            traceback.print_exc()
        ending.failed(code, reason, message, again=isinstance(error, SmallerBatchError))
    ending.succeeded()


@dataclass
class _Ending:
    """The last acts of a rank: said to the log, the launcher and the status, and then gone."""

    rank: int
    reporter: Reporter
    sink: StatusSink | None = None
    tracking: list[TrackingSink] = field(default_factory=list)

    def succeeded(self) -> NoReturn:
        self._flush("FINISHED")
        write_outcome(self.rank, exit_code=ExitCode.OK)
        _leave(ExitCode.OK)

    def failed(self, code: int, reason: str, message: str, *, again: bool = False) -> NoReturn:
        print(f"rank {self.rank}: {reason}: {message}", file=sys.stderr, flush=True)
        write_outcome(self.rank, exit_code=code, reason=reason, message=message, again=again)
        stopped = reason == StoppedError.reason
        if not stopped:
            self.reporter.fail()
        self._flush("KILLED" if stopped else "FAILED")
        _leave(code)

    def _flush(self, verdict: Verdict) -> None:
        if self.sink is not None:
            self.sink.close()
        for each in self.tracking:
            each.close(verdict)


def _run(config: TrainConfig, reporter: Reporter, ending: _Ending) -> None:
    _quiet_libraries()
    from kubooth_trainer.stopping import StopFlag, Watchdog

    stop = StopFlag()
    stop.install()
    deadlines, rank = config.deadlines, ending.rank

    def on_late(_: str) -> None:
        seconds = deadlines.rendezvous_seconds
        ending.failed(
            RendezvousTimeoutError.exit_code,
            RendezvousTimeoutError.reason,
            f"rank {rank} did not find its peers within {seconds} seconds (runPolicy.startupDeadlineSeconds)",
        )

    def on_stall(message: str) -> None:
        ending.failed(StalledError.exit_code, StalledError.reason, f"rank {rank}: {message}; the log has the stacks")

    joining = Watchdog(deadlines.rendezvous_seconds, on_late)
    joining.start()
    with without_company():
        from kubooth_trainer.distributed import Pulse, join
        from kubooth_trainer.job import run_job

    world = join(deadlines.stall_seconds)
    joining.stop()
    gc.freeze()  # the libraries stay: no collection looks at them again
    watchdog = Watchdog(deadlines.stall_seconds, on_stall)
    heartbeat = [ending.sink.moved] if ending.sink is not None else []
    reporter.on_move.append(watchdog.beat)
    watchdog.listeners += heartbeat
    if world.size > 1:

        def on_news() -> None:
            watchdog.heard()
            for listener in heartbeat:
                listener()

        watchdog.listeners.append(Pulse(min(PULSE_SECONDS, deadlines.stall_seconds / 5), on_news).moved)
    watchdog.start()
    run_job(config, world, reporter, stop, watchdog)


def _status_sink(config: TrainConfig, *, in_cluster: bool) -> StatusSink:
    """Rank 0's part of the status: to the launcher, and in a pod to the API server."""
    folder = run_folder()
    outlets = [] if folder is None else [file_outlet(folder / SUMMARY)]
    if in_cluster:
        outlets.append(api_outlet(config.job))
    return StatusSink(outlets, total_steps=config.training.steps)


def _claim_standard_output() -> TextIO:
    """The real standard output as a text stream; file descriptor 1 then means standard error."""
    stream = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    return stream


def _quiet_libraries() -> None:
    """Progress and warnings have one voice, the reporter; libraries speak only of errors."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("DIFFUSERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    warnings.filterwarnings("ignore", category=FutureWarning)
    logging.getLogger("DeepSpeed").setLevel(logging.WARNING)
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)


def _leave(code: int) -> NoReturn:
    """Ends at once: tearing down a process group whose peer is gone may hang."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
    main()
