"""Ctrl-C once and twice, SIGTERM and a closed terminal: real signals, through a pseudo terminal."""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any


def test_ctrl_c_saves_and_says_how_to_go_on(kubooth: Any) -> None:
    terminal = kubooth.on_terminal("training")
    terminal.wait_for("10/50")
    terminal.ctrl_c()
    terminal.wait_for("saving a checkpoint; press Ctrl-C again to stop at once")
    assert terminal.finish() == 130
    assert "Stopped; saved at step 10." in terminal.text
    assert "To go on from there: kubooth run job.yaml --workdir work" in terminal.text
    assert "error" not in terminal.text


def test_ctrl_c_twice_ends_everything(kubooth: Any, ended: Callable[[Path], bool]) -> None:
    terminal = kubooth.on_terminal("stubborn")
    terminal.wait_for("10/50")
    terminal.ctrl_c()
    terminal.wait_for("press Ctrl-C again")
    terminal.ctrl_c()
    assert terminal.finish() == 130
    assert "Stopped at once. The last checkpoint is of step 10." in terminal.text
    assert ended(kubooth.workdir / "launcher.alive")
    assert ended(kubooth.workdir / "worker.alive")  # in a session of its own


def test_sigterm_saves_and_exits_143(kubooth: Any) -> None:
    terminal = kubooth.on_terminal("training")
    terminal.wait_for("10/50")
    terminal.signal(signal.SIGTERM)
    terminal.wait_for("SIGTERM received: saving a checkpoint")
    assert terminal.finish() == 143
    assert "Stopped; saved at step 10." in terminal.text


def test_a_second_sigterm_does_not_cut_the_saving_short(kubooth: Any, ended: Callable[[Path], bool]) -> None:
    terminal = kubooth.on_terminal("stubborn")
    terminal.wait_for("10/50")
    terminal.signal(signal.SIGTERM)
    terminal.wait_for("SIGTERM received")
    terminal.signal(signal.SIGTERM)
    terminal.signal(signal.SIGINT)  # this one means it
    assert terminal.finish() == 143
    assert ended(kubooth.workdir / "worker.alive")


def test_sigterm_without_a_terminal(kubooth: Any) -> None:
    process = kubooth.start("training", "--json")
    assert process.stdout is not None
    for line in process.stdout:
        if '"step": 10' in line:
            process.send_signal(signal.SIGTERM)
            break
    rest, words = process.communicate(timeout=120)
    assert process.returncode == 143
    assert '"reason": "Stopped"' in rest.splitlines()[-1]
    assert "SIGTERM received: saving a checkpoint, then stopping" in words
    assert "Stopped; saved at step 10." in words


def test_a_closed_terminal_counts_as_sigterm(kubooth: Any) -> None:
    terminal = kubooth.on_terminal("training")
    terminal.wait_for("10/50")
    terminal.signal(signal.SIGHUP)
    assert terminal.finish() == 143
    assert "Stopped; saved at step 10." in terminal.text
