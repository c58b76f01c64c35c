"""What the launcher keeps of a log: the ranks' own last words, stacks in one line each."""

from __future__ import annotations

import os
from collections.abc import Iterable

from kubooth_trainer.log_tail import LINES, Fold, LogTail

DUMP = """\
Current thread 0x00007f0000000001 (most recent call first):
  File "/x/kubooth_trainer/stopping.py", line 90 in dump_stacks
  File "/usr/lib/python3.11/threading.py", line 1045 in _bootstrap_inner

Thread 0x00007f0000000002 [pulse] (most recent call first):
  File "/x/kubooth_trainer/distributed.py", line 150 in _run

Thread 0x00007f0000000003 (most recent call first):
  File "/x/torch/distributed/distributed_c10d.py", line 2810 in all_reduce
  File "/x/torch/distributed/c10d_logger.py", line 81 in wrapper
  File "/x/kubooth_trainer/distributed.py", line 45 in any
  File "/x/some/library.py", line 3 in wrapped
  File "/x/kubooth_trainer/loop.py", line 120 in train
  File "/x/kubooth_trainer/job.py", line 270 in _train
  File "/x/kubooth_trainer/main.py", line 90 in _run
  File "<frozen runpy>", line 88 in _run_code
rank 1: Stalled: rank 1: no progress for 30 seconds
"""


def kept(lines: Iterable[str]) -> list[str]:
    fold = Fold()
    return [text for line in lines for text in fold.take(line)] + list(fold.end())


def test_stacks_become_one_line_for_the_main_thread() -> None:
    assert kept(DUMP.splitlines()) == [
        "stack: all_reduce (distributed_c10d.py:2810) < wrapper (c10d_logger.py:81) < any (distributed.py:45)"
        " < train (loop.py:120) < _train (job.py:270) < _run (main.py:90)",
        "rank 1: Stalled: rank 1: no progress for 30 seconds",
    ]


def test_a_traceback_is_kept_as_it_is() -> None:
    traceback = [
        "Traceback (most recent call last):",
        '  File "/x/kubooth_trainer/main.py", line 9, in main',
        "    _run()",
        "ZeroDivisionError: division by zero",
    ]
    assert kept(traceback) == traceback


def test_torchruns_own_words_are_not_kept() -> None:
    lines = [
        "W1122 21:00:00.1 77 torch/distributed/run.py:851] Setting OMP_NUM_THREADS",
        "rank 0: BadSubject: x",
        "E1122 21:00:00.1 77 torch/distributed/elastic/multiprocessing/api.py:1010] failed (exitcode: 2) local_rank: 0",
        "Traceback (most recent call last):",
        "ChildFailedError",
    ]
    assert kept(lines) == ["rank 0: BadSubject: x"]


def test_control_characters_and_bars_are_taken_out() -> None:
    reading, writing = os.pipe()
    sink = os.open(os.devnull, os.O_WRONLY)
    tail = LogTail(reading, sink)
    os.write(writing, b"\x1b[31mred\x1b[0m\n10%\r20%\r30%\n\xff\xfe\n\n")
    os.write(writing, b"".join(b"line %d\n" % number for number in range(100)) + b"no end")
    os.close(writing)
    lines = tail.finish(10)
    assert lines[-2:] == ("line 99", "no end")
    assert len(lines) == LINES
    os.close(reading)
    os.close(sink)


def test_everything_passes_unchanged_also_where_nobody_reads() -> None:
    reading, writing = os.pipe()
    out_reading, out_writing = os.pipe()
    tail = LogTail(reading, out_writing)
    os.write(writing, b"half a li")
    assert os.read(out_reading, 100) == b"half a li"
    os.close(out_reading)
    os.write(writing, b"ne\nanother\n")
    os.close(writing)
    assert tail.finish(10) == ("half a line", "another")
    os.close(reading)
    os.close(out_writing)
