"""The process above torchrun, PID 1 of a pod: signals, time limits, exit codes, the last word. Torchrun is a stub."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from trainer.tiny_job import config_dict

from kubooth_trainer import launcher
from kubooth_trainer.progress import Event, FailedEvent, InfoEvent, event_from_json
from kubooth_trainer.termination import MAX_BYTES, Termination, read_termination

SECONDS = 60.0  # a bound, not an expectation
STUB = Path(__file__).with_name("stub_torchrun.py")


@dataclass
class Ended:
    code: int
    events: list[Event]
    log: str
    word: Termination
    seconds: float

    @property
    def failure(self) -> FailedEvent:
        (event,) = [event for event in self.events if isinstance(event, FailedEvent)]
        return event


@dataclass
class Running:
    process: subprocess.Popen[str]
    log: Path
    termination_log: Path
    began: float

    def until(self, *words: str) -> None:
        """Reads events until each of the words was said."""
        assert self.process.stdout is not None
        missing = set(words)
        while missing:
            line = self.process.stdout.readline()
            assert line, f"ended before {missing}: {self.log.read_text()}"
            event = event_from_json(line)
            assert isinstance(event, InfoEvent)
            missing.discard(f"{event.key} {event.value}")

    def finish(self) -> Ended:
        assert self.process.stdout is not None
        out, _ = self.process.communicate(timeout=SECONDS)
        events = [event_from_json(line) for line in out.splitlines()]
        assert None not in events
        text = self.termination_log.read_text()
        assert len(text.encode()) <= MAX_BYTES
        word = read_termination(text)
        assert word is not None
        assert word.exit_code == self.process.returncode
        return Ended(
            self.process.returncode,
            [event for event in events if event],
            self.log.read_text(),
            word,
            time.monotonic() - self.began,
        )


Start = Callable[..., Running]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Starts the launcher with one stub rank for each word of the scenario."""
    package = tmp_path / "stub" / "torch" / "distributed"
    package.mkdir(parents=True)
    (package.parent / "__init__.py").touch()
    (package / "__init__.py").touch()
    shutil.copy(STUB, package / "run.py")
    running: list[Running] = []

    def begin(*words: str, arguments: tuple[str, ...] = (), before: tuple[str, ...] = (), **overrides: Any) -> Running:
        config = config_dict(tmp_path / "model", tmp_path / "photos", tmp_path, **overrides)
        config["parallelism"]["devices_per_node"] = len(words)
        path = tmp_path / "config.json"
        path.write_text(json.dumps(config))
        log, termination_log = tmp_path / "log.txt", tmp_path / "termination-log"
        with log.open("w") as stderr:
            process = subprocess.Popen(
                [*before, sys.executable, "-m", "kubooth_trainer.launcher", "--config", str(path),
                 "--termination-log", str(termination_log), *arguments],
                stdout=subprocess.PIPE,
                stderr=stderr,
                text=True,
                env={**os.environ, "PYTHONPATH": str(tmp_path / "stub"), "SCENARIO": "|".join(words)},
            )  # fmt: skip
        running.append(Running(process, log, termination_log, time.monotonic()))
        return running[-1]

    yield begin
    for each in running:
        if each.process.poll() is None:
            each.process.kill()
        each.process.wait(timeout=SECONDS)
        assert each.process.stdout is not None
        each.process.stdout.close()


def test_work_that_is_done(start: Start) -> None:
    ended = start("ends well", "ends well").finish()
    assert ended.code == 0
    assert ended.word == Termination(reason="Completed", message="", exit_code=0, summary={"identifier": "sks"})
    assert [type(event) for event in ended.events] == [InfoEvent]


def test_events_pass_at_once(start: Start) -> None:
    run = start("saves")
    run.until("rank 0 is up")
    assert run.process.poll() is None
    run.process.send_signal(signal.SIGTERM)
    run.finish()


ENDINGS = [
    (("bad subject",), 2, "BadSubject"),
    (("bad subject", "loses its peer"), 2, "BadSubject"),
    (("loses its peer", "bad subject"), 2, "BadSubject"),
    (("crashes",), 70, "TrainerCrashed"),
    (("crashes", "loses its peer"), 70, "TrainerCrashed"),
    (("killed",), 70, "TrainerCrashed"),
    (("killed", "loses its peer"), 70, "TrainerCrashed"),
    (("killed", "is deaf"), 70, "TrainerCrashed"),
    (("storage", "is deaf"), 75, "StorageUnavailable"),
    (("loses its peer",), 75, "PeerLost"),
    (("loses its peer", "is deaf"), 75, "PeerLost"),
    (("is stopped elsewhere", "loses its peer"), 143, "Stopped"),
    (("no start",), 75, "PeerLost"),
]


@pytest.mark.parametrize(("words", "code", "reason"), ENDINGS, ids=lambda value: str(value))
def test_the_first_cause_decides(start: Start, words: tuple[str, ...], code: int, reason: str) -> None:
    ended = start(*words).finish()
    assert (ended.code, ended.failure.reason, ended.failure.exit_code) == (code, reason, code)
    assert (ended.word.reason, ended.word.message) == (reason, ended.failure.message)
    assert ended.seconds < 30
    if words != ("no start",):
        assert ended.word.summary == {"identifier": "sks"}
        assert "rank 0 has begun" in ended.word.log
        assert "============" not in "".join(ended.word.log)


def test_a_checkpoint_on_its_way_is_waited_for_where_another_rank_fails(start: Start) -> None:
    ended = start("writes", "crashes").finish()
    assert (ended.code, ended.failure.reason) == (70, "TrainerCrashed")
    assert ended.seconds > launcher.PEER_GRACE_SECONDS
    assert "rank 0 has written" in ended.log


def test_a_killed_rank_is_named(start: Start) -> None:
    assert "the process of rank 1 was killed" in start("is deaf", "killed").finish().word.message


def test_the_log_keeps_the_last_lines_of_the_ranks_and_not_torchruns(start: Start) -> None:
    ended = start("talks").finish()
    assert ended.word.log[-1] == "line 499"
    assert ended.word.log[0].startswith("line 4")
    assert "ChildFailedError" in ended.log
    assert "line 0\n" in ended.log


def test_a_config_that_cannot_be_read(start: Start) -> None:
    ended = start("ends well", config_version=7).finish()
    assert (ended.code, ended.word.reason) == (2, "ConfigError")
    assert "config version 7" in ended.word.message


def test_a_launcher_that_fails_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError("no more processes")

    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    monkeypatch.setattr(subprocess, "Popen", refuse)
    path, last_word = tmp_path / "config.json", tmp_path / "termination-log"
    path.write_text(json.dumps(config_dict(tmp_path, tmp_path, tmp_path)))
    try:
        code = launcher.main(["--config", str(path), "--termination-log", str(last_word)])
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    word = read_termination(last_word.read_text())
    assert word is not None
    assert (code, word.reason, word.exit_code) == (70, "TrainerCrashed", 70)
    assert "no more processes" in word.message
    assert json.loads(capsys.readouterr().out)["reason"] == "TrainerCrashed"


STOPS = [
    (("saves",), 143, "Stopped", "stopped on request at step 5"),
    (("saves", "saves"), 143, "Stopped", "stopped on request at step 5"),
    (("saves", "loses its peer while saving"), 143, "Stopped", "stopped on request at step 5"),
    (("loses its peer while saving",), 143, "Stopped", "stopped before the ranks could save"),
    (("cannot save",), 75, "StorageUnavailable", "s3://b: no"),
    (("ends well, later",), 0, "Completed", ""),
]


@pytest.mark.parametrize(("words", "code", "reason", "message"), STOPS, ids=lambda value: str(value))
def test_sigterm(start: Start, words: tuple[str, ...], code: int, reason: str, message: str) -> None:
    run = start(*words, arguments=("--grace-seconds", "60"))
    run.until(*(f"rank {rank} waits" for rank in range(len(words))))
    run.process.send_signal(signal.SIGTERM)
    ended = run.finish()
    assert (ended.code, ended.word.reason, ended.word.message) == (code, reason, message)
    assert ended.word.summary == {"identifier": "sks"}
    for rank in range(len(words)):
        assert ended.log.count(f"rank {rank} heard SIGTERM") >= 1


def test_sigterm_while_the_launcher_itself_starts(start: Start, tmp_path: Path) -> None:
    """As PID 1 it would not get one for which it has no handler yet: it is held back until there is."""
    slow = tmp_path / "slow.json"
    os.mkfifo(slow)
    run = start("saves", arguments=("--config", str(slow)))
    time_is_up = time.monotonic() + SECONDS
    while not _blocks_sigterm(run.process.pid):
        assert time.monotonic() < time_is_up
        time.sleep(0.01)
    run.process.send_signal(signal.SIGTERM)
    slow.write_text((tmp_path / "config.json").read_text())
    ended = run.finish()
    assert (ended.code, ended.word.reason) == (143, "Stopped")


def _blocks_sigterm(pid: int) -> bool:
    fields = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    return bool(int(fields["SigBlk"], 16) >> (signal.SIGTERM - 1) & 1)


def test_sigterm_before_a_rank_is_up(start: Start) -> None:
    run = start("no worker starts")
    time_is_up = time.monotonic() + SECONDS
    while "torch" not in _command_lines_below(run.process.pid):
        assert time.monotonic() < time_is_up
        time.sleep(0.02)
    run.process.send_signal(signal.SIGTERM)
    ended = run.finish()
    assert (ended.code, ended.word.reason) == (143, "Stopped")


def _command_lines_below(pid: int) -> str:
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return " ".join(Path(f"/proc/{child}/cmdline").read_text() for child in children)


def test_in_a_pod_a_second_sigterm_changes_nothing(start: Start) -> None:
    run = start("hangs", arguments=("--grace-seconds", "8"))
    run.until("rank 0 waits")
    for _ in range(3):
        run.process.send_signal(signal.SIGTERM)
        time.sleep(0.2)
    ended = run.finish()
    assert ended.log.count("rank 0 heard SIGTERM") == 1
    assert ended.seconds > 5


def test_on_one_machine_a_second_signal_ends_it(start: Start) -> None:
    run = start("hangs")
    run.until("rank 0 waits")
    run.process.send_signal(signal.SIGINT)
    time.sleep(0.3)
    run.process.send_signal(signal.SIGINT)
    ended = run.finish()
    assert (ended.code, ended.word.reason) == (143, "Stopped")


def test_shortly_before_the_end_of_the_grace_period_the_last_word_is_said(start: Start) -> None:
    """With the stacks of those that have not left, before SIGKILL would come."""
    run = start("hangs", "saves", "hangs", arguments=("--grace-seconds", "6"))
    run.until("rank 0 waits", "rank 1 waits", "rank 2 waits")
    run.process.send_signal(signal.SIGTERM)
    sent = time.monotonic()
    ended = run.finish()
    assert 3 < time.monotonic() - sent < 6
    assert (ended.code, ended.word.reason) == (143, "Stopped")
    assert ended.log.count("in until_signal") == 2
    assert ended.log.count("most recent call first") == 2


def test_ranks_that_do_not_find_each_other(start: Start) -> None:
    ended = start("no worker starts", deadlines__rendezvous_seconds=1).finish()
    assert (ended.code, ended.word.reason) == (75, "RendezvousTimeout")
    assert "within 1 seconds" in ended.word.message


def test_pid_1_buries_the_dead(start: Start) -> None:
    if shutil.which("unshare") is None:
        pytest.skip("needs unshare")
    isolated = ("unshare", "--user", "--map-root-user", "--pid", "--fork", "--mount-proc", "--kill-child")
    if subprocess.run([*isolated, "true"], capture_output=True, check=False).returncode:
        pytest.skip("no PID namespace can be made here")
    run = start("leaves orphans", before=isolated, arguments=("--grace-seconds", "60"))
    run.until("rank 0 waits")
    (first,) = Path(f"/proc/{run.process.pid}/task/{run.process.pid}/children").read_text().split()
    deadline = time.monotonic() + SECONDS

    def below() -> list[str]:
        return Path(f"/proc/{first}/task/{first}/children").read_text().split()

    while len(below()) != 1:  # torchrun alone: neither orphans nor zombies
        assert time.monotonic() < deadline, below()
        time.sleep(0.05)
    os.kill(int(first), signal.SIGTERM)
    ended = run.finish()
    assert (ended.code, ended.word.reason) == (143, "Stopped")
