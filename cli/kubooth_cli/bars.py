"""The live view of a run on a terminal: one row per stage, warnings above, redrawn a few times a second."""

from __future__ import annotations

import time
from collections.abc import Callable
from signal import Signals

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from kubooth_cli import format as fmt
from kubooth_cli.presenter import Run, stopping_text
from kubooth_cli.state import RunState, StageState
from kubooth_cli.wording import stage_parts, train_parts
from kubooth_trainer.progress import (
    Event,
    WarningEvent,
)
from kubooth_trainer.progress import (
    StageState as Phase,
)

MARKS: dict[Phase, tuple[str, str, str]] = {  # as drawn, where only ASCII is safe, style
    "Pending": ("·", ".", "dim"),
    "Running": ("▸", ">", "bold cyan"),
    "Succeeded": ("✓", "+", "green"),
    "Skipped": ("✓", "+", "dim green"),
    "Failed": ("✗", "x", "bold red"),
}
STOPPED = ("■", "#", "yellow")  # a stage that was at work when the run ended
NAME_WIDTH = 8
ECHO_WIDTH = 3  # kept free: the "^C" that a terminal writes at the cursor must not start a new line
LONGEST_BAR = 40
SHORTEST_BAR = 10
WHOLE_DETAIL = 52  # "640/800 80%  loss 0.0812  11.3 images/s  3m10s left"; the bar takes what is beyond
SHORTEST_DETAIL = 24  # a terminal too narrow for this beside the shortest bar gets no bars
ROWS = 9  # what the whole view takes; a lower terminal gets the current stage only


class Bars:
    """Draws with rich, without a refresh thread: `tick` redraws."""

    def __init__(self, console: Console, clock: Callable[[], float] = time.monotonic) -> None:
        self._console = console
        self._clock = clock
        self._state = RunState()
        self._began = clock()
        self._stopping = ""
        self._waiting = "starting the trainer"
        self._closing = False
        self._live = Live(
            get_renderable=self.render,
            console=console,
            auto_refresh=False,
            redirect_stdout=False,
            redirect_stderr=False,
            vertical_overflow="crop",
        )

    def begin(self, run: Run, state: RunState) -> None:
        self.open(run.title, run.config.job.name, f"working folder {run.workdir}", state)

    def open(self, title: str, name: str, place: str, state: RunState) -> None:
        """Starts to draw `state`, below a title that begins with a name, and a line that says where."""
        self._state = state
        self._began = self._clock()
        heading = Text(title)
        heading.stylize("bold", 0, len(name))
        self._console.print(heading)
        self._console.print(Text(place, style="dim"), soft_wrap=True)
        self._live.start(refresh=True)

    def show(self, state: RunState, waiting: str) -> None:
        """Draws another state from now on; `waiting` says what for, while no stage is at work."""
        self._state, self._waiting = state, waiting

    def event(self, event: Event, line: str, *, changed: bool) -> None:
        match event:
            case WarningEvent():
                self._above(Text.assemble(("warning: ", "bold yellow"), event.message))
            case _:
                pass  # drawn from the state at the next tick

    def log(self, line: str) -> None:
        self._above(Text(line, style="dim"))

    def stopping(self, cause: Signals) -> None:
        self._stopping = stopping_text(cause, self._state)
        self._live.refresh()

    def tick(self) -> None:
        self._live.refresh()

    def close(self) -> None:
        self._closing = True
        if self._live.is_started:
            self._live.stop()

    def render(self) -> RenderableType:
        """The view at this moment."""
        now = self._clock()
        low = self._console.height < ROWS and not self._closing
        running = self._state.running
        shown = [stage for stage in self._state.stages.values() if not low or stage.name == running]
        rows = [self._row(stage, now) for stage in shown]
        if self._state.infos and not low:
            facts = " · ".join(f"{fmt.words(key)} {value}" for key, value in self._state.infos.items())
            rows.insert(0, Text(facts, style="dim", no_wrap=True, overflow="ellipsis"))
        if self._stopping and not self._closing:
            rows.append(Text(self._stopping, style="bold yellow"))
        elif running is None and not self._closing and not any(stage.event for stage in shown):
            rows.append(Text(f"{self._waiting}, {fmt.duration(now - self._began)}", style="dim"))
        return Group(*rows)

    def _row(self, stage: StageState, now: float) -> RenderableType:
        phase: Phase = stage.event.state if stage.event else "Pending"
        mark, ascii_mark, style = STOPPED if phase == "Running" and self._closing else MARKS[phase]
        width = self._console.width - ECHO_WIDTH
        left = 2 + NAME_WIDTH + 2
        bar_width = max(SHORTEST_BAR, min(LONGEST_BAR, width - left - 2 - WHOLE_DETAIL))
        has_bar = width - left - 2 - bar_width >= SHORTEST_DETAIL
        detail_width = max(1, width - left - (bar_width + 2 if has_bar else 0))
        row = Table.grid(padding=0)
        row.add_column(width=2, no_wrap=True)
        row.add_column(width=NAME_WIDTH + 2, no_wrap=True)
        cells: list[RenderableType] = [
            Text(self._safe(mark, ascii_mark), style=style),
            Text(stage.name, style="bold" if phase == "Running" else ("dim" if phase == "Pending" else "")),
        ]
        if has_bar:
            row.add_column(width=bar_width + 2, no_wrap=True)
            cells.append(_bar(stage, phase, bar_width, now))
        row.add_column(width=detail_width, no_wrap=True, overflow="crop")
        detail = fmt.fitted(self._detail(stage, now), detail_width)
        cells.append(Text(detail, style="" if phase == "Running" else "dim"))
        row.add_row(*cells)
        return row

    def _detail(self, stage: StageState, now: float) -> list[str]:
        progress, checkpoint = self._state.progress, self._state.checkpoint
        if stage.name != "Train" or progress is None:
            return stage_parts(stage, now)
        return train_parts(stage, progress, checkpoint.step if checkpoint else None, now)

    def _safe(self, mark: str, ascii_mark: str) -> str:
        return mark if self._console.encoding.startswith("utf") else ascii_mark

    def _above(self, text: Text) -> None:
        self._console.print(text)


def _bar(stage: StageState, phase: Phase, width: int, now: float) -> ProgressBar:
    event = stage.event
    finished = phase in ("Succeeded", "Skipped")
    total = float(event.total) if event is not None and event.total > 0 else 1.0
    done = float(event.done) if event is not None and event.total > 0 else 0.0
    return ProgressBar(
        total=None if phase == "Running" and (event is None or event.total <= 0) else total,
        completed=total if finished else done,
        width=width,
        pulse=False,
        animation_time=now,
        style="bar.back",
        complete_style="red" if phase == "Failed" else ("dim green" if phase == "Skipped" else "cyan"),
        finished_style="dim green" if phase == "Skipped" else "green",
    )
