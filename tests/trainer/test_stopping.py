"""The watchdog ends a rank when nothing moves, and only then."""

from __future__ import annotations

import subprocess
import sys
import time

import pytest

from kubooth_trainer.progress import Reporter, transfer

SECONDS = 60.0  # a bound, not an expectation
WATCHED = """
import sys, threading, time
from kubooth_trainer.stopping import Watchdog
watchdog = Watchdog(0.5, lambda message: print(message, flush=True))
watchdog.listeners.append(lambda: print("beat", flush=True))
watchdog.start()
for line in sys.stdin:
    getattr(watchdog, line.strip())()
threading.Event().wait()
"""


def test_it_ends_the_process_with_its_stacks_when_nothing_moves() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", WATCHED],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdin is not None
        began = time.monotonic()
        try:
            while time.monotonic() - began < 2.5:  # much longer than its patience, and other ranks count as well
                for act in ("beat", "heard"):
                    print(act, file=process.stdin, flush=True)
                time.sleep(0.1)
        except BrokenPipeError:
            pytest.fail("it gave up while work moved")
        out, err = process.communicate(timeout=SECONDS)
    assert process.returncode == 75
    *beats, last = out.splitlines()
    assert set(beats) == {"beat"}
    assert last.startswith("no progress for ")
    assert "most recent call first" in err and "in wait" in err


def test_transfers_move_when_bytes_do() -> None:
    reporter, moves = Reporter(), []
    reporter.on_move.append(lambda: moves.append(1))
    on_progress = transfer(reporter.moved)
    for done in (0, 0, 10, 10, 10, 20):
        on_progress(done, 100)
    assert len(moves) == 2
