"""One training process, started by torchrun: `python -m kubooth_trainer.main --config CONFIG.json`.

Joins the other ranks, runs the job, and turns whatever happens into an exit code and an outcome file. Standard output
belongs to rank 0's events alone: whatever libraries print there goes to standard error instead.
"""

from __future__ import annotations

import argparse
import logging
import os
import signal
import sys
import traceback
import warnings
from pathlib import Path
from typing import TextIO

from kubooth_trainer import __version__
from kubooth_trainer.config import TrainConfig, load_config
from kubooth_trainer.errors import ExitCode, KuboothError
from kubooth_trainer.launcher import die_with_parent
from kubooth_trainer.outcome import failure_of, write_outcome
from kubooth_trainer.progress import JsonLines, Reporter


def main() -> None:
    """Never returns: ends the process with a documented exit code."""
    parser = argparse.ArgumentParser(prog="python -m kubooth_trainer.main", description=__doc__.partition("\n")[0])
    parser.add_argument("--config", required=True, type=Path, help="the training configuration (JSON)")
    parser.add_argument("--version", action="version", version=f"kubooth-trainer {__version__}")
    options = parser.parse_args()
    rank = int(os.environ.get("RANK", "0"))
    die_with_parent(signal.SIGKILL)
    write_outcome(rank)
    reporter = Reporter(sinks=[JsonLines(_claim_standard_output())] if rank == 0 else [])
    try:
        _run(load_config(options.config), reporter, rank)
    except BaseException as error:  # noqa: BLE001 - the one place where every failure becomes an exit code
        code, reason, message = failure_of(error)
        if not isinstance(error, KuboothError):
            traceback.print_exc()
        print(f"rank {rank}: {reason}: {message}", file=sys.stderr, flush=True)
        write_outcome(rank, exit_code=code, reason=reason, message=message)
        _leave(code)
    write_outcome(rank, exit_code=ExitCode.OK)
    _leave(ExitCode.OK)


def _run(config: TrainConfig, reporter: Reporter, rank: int) -> None:
    _quiet_libraries()
    from kubooth_trainer.stopping import STALL_SECONDS, StopFlag, Watchdog

    stop = StopFlag()
    stop.install()

    def on_stall(message: str) -> None:
        write_outcome(rank, exit_code=ExitCode.RETRY, reason="Stalled", message=f"rank {rank}: {message}")

    watchdog = Watchdog(STALL_SECONDS, on_stall)
    watchdog.start()
    from kubooth_trainer.distributed import join
    from kubooth_trainer.job import run_job

    run_job(config, join(), reporter, stop, watchdog)


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


def _leave(code: int) -> None:
    """Ends at once: tearing down a process group whose peer is gone may hang."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
    main()
