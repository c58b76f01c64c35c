"""Stands in for `torch.distributed.run`: starts one process per rank that acts as SCENARIO says.

Ends as the real one does: with 1 whatever its workers ended with, after it has told the others to go and said at
length that one failed. A scenario is a word for each rank; `worker` below knows the words.
"""

from __future__ import annotations

import faulthandler
import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import NoReturn

from kubooth_trainer.outcome import SUMMARY, WRITING, write_outcome
from kubooth_trainer.processes import DUMP_SIGNAL, die_with_parent
from kubooth_trainer.progress import InfoEvent, event_to_json

NOISE = """E1122 21:00:00.000000 77 torch/distributed/elastic/multiprocessing/api.py:1010] failed (exitcode: 2) local_
Traceback (most recent call last):
  File "torch/distributed/run.py", line 1, in main
torch.distributed.elastic.multiprocessing.errors.ChildFailedError:
============================================================
kubooth_trainer.main FAILED
"""


def main() -> None:
    words = os.environ["SCENARIO"].split("|")
    arguments = sys.argv
    assert len(words) == int(arguments[arguments.index("--nproc-per-node") + 1])
    if words == ["no worker starts"]:
        signal.pause()
    if words == ["no start"]:
        print("torch.distributed.DistNetworkError: nothing to see", file=sys.stderr)
        sys.exit(1)
    (Path(os.environ["KUBOOTH_RUN_FOLDER"]) / SUMMARY).write_text(json.dumps({"identifier": "sks"}))  # as rank 0 would
    begun, telling = os.pipe()
    ranks = {start(rank, word, telling): rank for rank, word in enumerate(words)}
    signal.signal(signal.SIGTERM, lambda *_: end(list(ranks)))
    os.close(telling)
    for _ in words:  # no rank is ended by another's end before it has begun
        os.read(begun, 1)
    while ranks:
        pid, status = os.wait()
        if ranks.pop(pid, None) is not None and status:
            end(list(ranks))
    sys.exit(0)


def start(rank: int, word: str, telling: int) -> int:
    pid = os.fork()
    if pid == 0:
        os.setsid()
        die_with_parent(signal.SIGKILL)
        worker(rank, word, telling)
    return pid


def end(others: list[int]) -> NoReturn:
    for pid in others:
        os.kill(pid, signal.SIGTERM)
    for pid in others:
        os.waitpid(pid, 0)
    sys.stderr.write(NOISE)
    sys.stderr.flush()
    os._exit(1)


def worker(rank: int, word: str, telling: int) -> NoReturn:
    faulthandler.register(DUMP_SIGNAL, file=sys.stderr, all_threads=True)
    signal.signal(signal.SIGTERM, lambda *_: on_sigterm(rank, word))
    write_outcome(rank)
    if rank == 0:
        say(1, event_to_json(InfoEvent(key="rank 0", value="is up")))
    say(2, f"rank {rank} has begun")
    os.write(telling, b".")
    match word:
        case "ends well":
            leave(rank, 0)
        case "ends well, later":
            until_signal(rank)
        case "bad subject":
            leave(rank, 2, "BadSubject", "photos/3.jpg: cannot be decoded")
        case "storage":
            leave(rank, 75, "StorageUnavailable", "s3://b: no")
        case "crashes":
            leave(rank, 70, "TrainerCrashed", "ZeroDivisionError: division by zero")
        case "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        case "loses its peer":
            time.sleep(0.3)
            leave(rank, 75, "PeerLost", "the connection to a peer is gone")
        case "is stopped elsewhere":
            leave(rank, 143, "Stopped", "stopped on request at step 5")
        case "writes":
            (Path(os.environ["KUBOOTH_RUN_FOLDER"]) / WRITING).touch()
            until_signal(rank)
        case "talks":
            for number in range(500):
                say(2, f"line {number}")
            leave(rank, 70, "TrainerCrashed", "x")
        case "leaves orphans":
            for _ in range(3):
                if os.fork() == 0:  # a child whose child outlives it
                    if os.fork() == 0:
                        time.sleep(0.2)
                        os._exit(0)
                    os._exit(0)
                os.wait()
            until_signal(rank)
        case _:
            until_signal(rank)
    raise AssertionError(word)


def until_signal(rank: int) -> NoReturn:
    say(1, event_to_json(InfoEvent(key=f"rank {rank}", value="waits")))
    while True:
        signal.pause()


def on_sigterm(rank: int, word: str) -> None:
    say(2, f"rank {rank} heard SIGTERM")
    match word:
        case "hangs" | "is deaf":
            return
        case "writes":
            time.sleep(6)
            say(2, f"rank {rank} has written")
            leave(rank, 75, "PeerLost", "the connection to a peer is gone")
        case "ends well, later":
            leave(rank, 0)
        case "cannot save":
            leave(rank, 75, "StorageUnavailable", "s3://b: no")
        case "loses its peer while saving":
            leave(rank, 75, "PeerLost", "the connection to a peer is gone")
        case _:
            leave(rank, 143, "Stopped", "stopped on request at step 5")


def say(descriptor: int, line: str) -> None:
    """In one piece, whoever else writes there."""
    os.write(descriptor, f"{line}\n".encode())


def leave(rank: int, code: int, reason: str = "", message: str = "") -> NoReturn:
    write_outcome(rank, exit_code=code, reason=reason, message=message)
    sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
    main()
