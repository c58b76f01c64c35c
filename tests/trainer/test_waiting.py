"""Ranks that wait for each other: long where a peer works, not for ever where it is silent; nodes that come late.

Real torchrun, real gloo; the work itself is a stand-in.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest
from trainer.tiny_job import RUN_SECONDS, config_dict

from kubooth_trainer.outcome import RUN_FOLDER_VARIABLE, Outcome, read_outcomes
from kubooth_trainer.progress import InfoEvent, event_from_json
from kubooth_trainer.termination import read_termination

STALL_SECONDS = 6.0
DRIVER = Path(__file__).with_name("waiting_ranks.py")
LATE = "node-0.rex"
WORKER = """
import os
from kubooth_trainer.outcome import write_outcome
from kubooth_trainer.progress import InfoEvent, event_to_json
rank = int(os.environ["RANK"])
write_outcome(rank)
print(event_to_json(InfoEvent(key=f"rank {rank}", value=os.environ["WORLD_SIZE"])), flush=True)
write_outcome(rank, exit_code=0)
"""
LAUNCHER = "import sys; from kubooth_trainer import launcher as l; l.WORKER_MODULE = 'stub_worker'; sys.exit(l.main())"
BIND = 'mount --bind "$1" /etc/hosts && mount --bind "$2" /etc/resolv.conf && shift 2 && exec "$@"'


def test_ranks_wait_for_one_that_works_and_not_for_one_that_is_silent(tmp_path: Path) -> None:
    run_folder = tmp_path / "run"
    run_folder.mkdir()
    log = tmp_path / "log.txt"
    with log.open("w") as stderr:
        process = subprocess.Popen(
            [
                sys.executable,
                "-m",
                "torch.distributed.run",
                "--standalone",
                "--nproc-per-node",
                "2",
                str(DRIVER),
                str(STALL_SECONDS),
            ],
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
            start_new_session=True,
            env={**os.environ, "OMP_NUM_THREADS": "1", RUN_FOLDER_VARIABLE: str(run_folder)},
        )
    assert process.stdout is not None
    try:
        told = (line for line in process.stdout if line.startswith("{"))  # libraries print there, too
        timeouts, slow = json.loads(next(told)), json.loads(next(told))
        stalled = outcome_of(run_folder, rank=0)
    finally:
        for outcome in read_outcomes(run_folder):
            with suppress(ProcessLookupError):
                os.kill(outcome.pid, signal.SIGKILL)
        process.wait(timeout=RUN_SECONDS)
        process.stdout.close()
    assert timeouts["world"] == timeouts["deepspeeds_clone"] == STALL_SECONDS + 60
    assert timeouts["waiting"] == 7 * 24 * 3600
    assert slow["waited"] > 2 * STALL_SECONDS
    assert (stalled.exit_code, stalled.reason) == (75, "Stalled")
    assert "no progress for" in stalled.message
    assert "in all_reduce" in log.read_text() and "waiting_ranks.py" in log.read_text()


def outcome_of(folder: Path, *, rank: int) -> Outcome:
    """How a rank ended, as soon as it has."""
    deadline = time.monotonic() + RUN_SECONDS
    while time.monotonic() < deadline:
        for outcome in read_outcomes(folder):
            if outcome.rank == rank and outcome.exit_code is not None:
                return outcome
        time.sleep(0.05)
    raise AssertionError("it did not end")


def test_a_name_that_resolves_late_and_a_late_node_0(tmp_path: Path) -> None:
    """Node 1 starts first, when the name of node 0 is not known yet; node 0 comes after its name."""
    isolated = ["unshare", "--user", "--map-root-user", "--mount"]
    if (
        shutil.which("unshare") is None
        or subprocess.run([*isolated, "true"], capture_output=True, check=False).returncode
    ):
        pytest.skip("no mount namespace can be made here")
    hosts, resolver = tmp_path / "hosts", tmp_path / "resolv.conf"
    hosts.write_text("127.0.0.1 localhost\n")
    resolver.write_text("nameserver 127.0.0.1\n")  # nobody answers there
    (tmp_path / "stub_worker.py").write_text(WORKER)
    config = tmp_path / "config.json"
    settings = config_dict(tmp_path, tmp_path, tmp_path, parallelism__nodes=2)
    config.write_text(json.dumps(settings))
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]

    def node(rank: int) -> subprocess.Popen[str]:
        with (tmp_path / f"log-{rank}.txt").open("w") as stderr:
            return subprocess.Popen(
                [*isolated, "sh", "-c", BIND, "sh", str(hosts), str(resolver), sys.executable, "-c", LAUNCHER,
                 "--config", str(config), "--node-rank", str(rank), "--master-address", LATE,
                 "--master-port", str(port), "--termination-log", str(tmp_path / f"last-word-{rank}")],
                stdout=subprocess.PIPE, stderr=stderr, text=True,
                env={**os.environ, "PYTHONPATH": str(tmp_path), "OMP_NUM_THREADS": "1"},
            )  # fmt: skip

    nodes = {1: node(1)}
    try:
        wait_for_line(tmp_path / "log-1.txt", LATE, nodes[1])  # torch says so when it tries again
        with hosts.open("a") as file:
            file.write(f"127.0.0.1 {LATE}\n")
        nodes[0] = node(0)
        for rank, process in nodes.items():
            out, _ = process.communicate(timeout=RUN_SECONDS)
            assert process.returncode == 0, (tmp_path / f"log-{rank}.txt").read_text()[-3000:]
            events = [event_from_json(line) for line in out.splitlines()]
            assert events[-1] == InfoEvent(key=f"rank {rank}", value="2")
            assert [event.key for event in events[:-1] if isinstance(event, InfoEvent)] == ["node"] * rank
            word = read_termination((tmp_path / f"last-word-{rank}").read_text())
            assert word is not None and word.reason == "Completed"
    finally:
        for process in nodes.values():
            if process.poll() is None:
                process.kill()
            process.wait(timeout=RUN_SECONDS)
            assert process.stdout is not None
            process.stdout.close()


def wait_for_line(log: Path, word: str, process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + RUN_SECONDS
    while word not in log.read_text():
        assert process.poll() is None, log.read_text()
        assert time.monotonic() < deadline
        time.sleep(0.05)
