"""The live view and the plain lines, drawn to a string: widths, low terminals, how often something is said."""

from __future__ import annotations

import io
import re
import sys
from pathlib import Path
from signal import Signals
from typing import Any

import pytest
from rich.cells import cell_len
from rich.console import Console

from kubooth_cli.bars import Bars
from kubooth_cli.lines import Lines
from kubooth_cli.presenter import stopping_text
from kubooth_cli.state import RunState
from kubooth_trainer.progress import Event, StageEvent, event_from_json

ESCAPE = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


class Clock:
    """Seconds that pass when they are told to."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class FakeRun:
    """What presenters read of a run."""

    title = "rex (dog) on CPU, 2 ranks"
    workdir = Path("/cache/kubooth/runs/rex-0123456789")

    class config:  # noqa: N801
        class job:  # noqa: N801
            name = "rex"


def scripted(name: str, monkeypatch: pytest.MonkeyPatch) -> list[Event]:
    """The events of a scenario of the fake launcher."""
    import importlib.util

    spec = importlib.util.spec_from_file_location("fake_launcher", Path(__file__).parent / "fake_launcher.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    said = io.StringIO()
    monkeypatch.setattr(sys, "stdout", said)
    module.SCENARIOS[name]({"output": {"uri": "file:///out"}}, "")
    monkeypatch.undo()
    events = [event_from_json(line) for line in said.getvalue().splitlines()]
    return [event for event in events if event is not None]


def shown(console: Console) -> str:
    assert isinstance(console.file, io.StringIO)
    lines = ESCAPE.sub("", console.file.getvalue()).replace("\r", "\n").splitlines()
    return "\n".join(line.rstrip() for line in lines if line.strip())


def play(bars: Bars, events: list[Event], clock: Clock) -> None:
    state = RunState()
    run: Any = FakeRun()
    bars.begin(run, state)
    for event in events:
        clock.now += 1
        changed = state.apply(event, clock.now)
        bars.event(event, "", changed=changed)
        bars.tick()
    bars.close()


def terminal(columns: int, rows: int = 40) -> Console:
    return Console(
        file=io.StringIO(), force_terminal=True, width=columns, height=rows, highlight=False, legacy_windows=False
    )


@pytest.mark.parametrize("columns", [200, 110, 80, 60, 40, 24])
def test_no_row_is_wider_than_the_terminal(columns: int, monkeypatch: pytest.MonkeyPatch) -> None:
    console, clock = terminal(columns), Clock()
    play(Bars(console, clock), scripted("warnings", monkeypatch), clock)
    rows = [line for line in shown(console).splitlines() if not line.startswith("working folder")]
    assert max(cell_len(row) for row in rows) <= columns


def test_every_stage_has_its_row_and_training_its_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    console, clock = terminal(110), Clock()
    events = scripted("success", monkeypatch)
    play(Bars(console, clock), events, clock)
    text = shown(console)
    assert "25/50 50%  loss 0.0080  11.3 images/s  5s left" in text
    for name in ("Download", "Prior", "Prepare", "Train", "Evaluate", "Upload"):
        assert f"✓ {name}" in text
    assert "identifier sks" in text


def test_resumed_and_skipped_stages_say_so(monkeypatch: pytest.MonkeyPatch) -> None:
    console, clock = terminal(120), Clock()
    play(Bars(console, clock), scripted("resumed", monkeypatch), clock)
    last = shown(console).splitlines()[-6:]
    assert "20 images are there" in last[1]
    assert "skipped" in last[2]
    assert "resumed at step 30" in last[3]


def test_a_low_terminal_gets_the_stage_at_work_only(monkeypatch: pytest.MonkeyPatch) -> None:
    console, clock = terminal(80, rows=5), Clock()
    state, bars = RunState(), Bars(console, clock)
    for event in scripted("success", monkeypatch):
        state.apply(event, clock.now)
        if state.progress:
            break
    run: Any = FakeRun()
    bars.begin(run, state)
    live = shown(console).splitlines()[2:]
    assert [line.split()[1] for line in live if line.strip()] == ["Train"]


def test_plain_lines_are_few() -> None:
    out, clock, state = io.StringIO(), Clock(), RunState()
    lines = Lines(out, clock)
    run: Any = FakeRun()
    lines.begin(run, state)

    def say(text: str) -> None:
        event = event_from_json(text)
        assert event is not None
        lines.event(event, text, changed=state.apply(event, clock.now))

    stage = (
        '{{"type":"stage","stage":"Train","state":"Running","done":{0},"total":100,"unit":"steps",'
        '"start":1,"end":null}}'
    )
    step = (
        '{{"type":"progress","step":{0},"total":100,"loss":0.1,"instance_loss":0.1,"prior_loss":null,"grad_norm":1,'
        '"learning_rate":1e-6,"samples_per_second":2,"eta_seconds":{1},"time":1}}'
    )
    say(stage.format(0))
    for number in range(1, 101):  # one step a second
        clock.now += 1
        say(stage.format(number))
        say(step.format(number, 100 - number))
    training = [line for line in out.getvalue().splitlines() if line.startswith("Train: ")]
    assert training[:2] == [
        "Train: started (0/100 steps)",
        "Train: 10/100 10%  loss 0.1000  2.00 images/s  1m30s left",
    ]
    assert len(training) == 11


@pytest.mark.parametrize(
    ("stage", "cause", "text"),
    [
        ("Train", Signals.SIGINT, "saving a checkpoint; press Ctrl-C again to stop at once"),
        ("Prior", Signals.SIGINT, "keeping what is done; press Ctrl-C again to stop at once"),
        ("Train", Signals.SIGTERM, "SIGTERM received: saving a checkpoint, then stopping"),
        ("Evaluate", Signals.SIGHUP, "SIGHUP received: keeping what is done, then stopping"),
    ],
)
def test_a_request_to_stop_is_answered_by_what_happens_in_that_stage(stage: Any, cause: Signals, text: str) -> None:
    state = RunState()
    running = StageEvent(stage=stage, state="Running", done=1, total=5, unit="", start=1.0, end=None, note="")
    state.apply(running, 1.0)
    assert stopping_text(cause, state) == text
