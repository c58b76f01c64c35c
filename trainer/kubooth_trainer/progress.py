"""Progress as a seam: the trainer tells one `Reporter`, which keeps the whole state and hands events to sinks.

Only rank 0 holds sinks. A sink that fails is dropped with a warning: it never stops training. The terminal and
`--json` read the JSON lines that `JsonLines` writes to standard output; everything else goes to standard error.
On every rank the reporter also knows when work has moved, and tells who asked: a heartbeat, a watchdog.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, Protocol, TextIO

from kubooth_trainer.config import STAGES, StageName

StageState = Literal["Pending", "Running", "Succeeded", "Skipped", "Failed"]


@dataclass(frozen=True, kw_only=True)
class StageEvent:
    """A stage changed state or moved on. Times are Unix seconds."""

    stage: StageName
    state: StageState
    done: int
    total: int
    unit: str  # "files", "images", "steps"
    start: float | None
    end: float | None
    note: str = ""  # for example "resumed at step 300"
    type: str = "stage"


@dataclass(frozen=True, kw_only=True)
class ProgressEvent:
    """Training moved on. Losses are means over the steps since the last event."""

    step: int
    total: int
    loss: float
    instance_loss: float
    prior_loss: float | None
    grad_norm: float | None
    learning_rate: float
    samples_per_second: float  # instance and class images together
    eta_seconds: float
    time: float
    type: str = "progress"


@dataclass(frozen=True, kw_only=True)
class CheckpointEvent:
    """A checkpoint is whole."""

    uri: str
    step: int
    time: float
    type: str = "checkpoint"


@dataclass(frozen=True, kw_only=True)
class ResumedEvent:
    """Training goes on from this checkpoint. `time` is when it was whole."""

    uri: str
    step: int
    time: float
    type: str = "resumed"


@dataclass(frozen=True, kw_only=True)
class PriorEvent:
    """Where the class images came from."""

    source: Literal["Hit", "Partial", "Generated", "Provided"]  # all kept, some kept, none, the user's own
    images: int
    cache_key: str | None
    seconds_saved: float = 0.0  # what this job's devices would have taken for the images from the cache
    type: str = "prior"


@dataclass(frozen=True, kw_only=True)
class WarningEvent:
    """Something a person should know; training goes on."""

    message: str
    type: str = "warning"


@dataclass(frozen=True, kw_only=True)
class InfoEvent:
    """A resolved fact worth showing: the identifier, the class noun, the precision, the number of ranks."""

    key: str
    value: str
    type: str = "info"


@dataclass(frozen=True, kw_only=True)
class FigureShown:
    """One figure of a result, rounded, as the status and the terminal show it. `name` as in `evaluation.metrics`."""

    name: str
    before: float | None
    after: float | None


@dataclass(frozen=True, kw_only=True)
class QualityEvent:
    """What was measured of the result, and what the gate says. `report`: URI of the page of a rejected result."""

    verdict: str | None  # Accepted, Rejected, NotMeasured; None without a gate
    message: str
    figures: list[FigureShown]
    report: str = ""
    type: str = "quality"


@dataclass(frozen=True, kw_only=True)
class ResultEvent:
    """The output stands."""

    model: str  # URI of the model (folder or single file)
    report: str  # URI of report.html
    manifest: str
    identifier: str
    seconds: float
    bytes: int
    class_name: str = ""  # what was trained with where the job says Auto
    output: str = ""  # URI of the folder that holds them all
    manifest_digest: str = ""  # SHA-256 (hex) of manifest.json
    type: str = "result"


@dataclass(frozen=True, kw_only=True)
class FailedEvent:
    """The run ended without a result."""

    reason: str
    message: str
    exit_code: int
    type: str = "failed"


Event = (
    StageEvent
    | ProgressEvent
    | CheckpointEvent
    | ResumedEvent
    | PriorEvent
    | WarningEvent
    | InfoEvent
    | QualityEvent
    | ResultEvent
    | FailedEvent
)

EVENT_TYPES: dict[str, type[Any]] = {
    "stage": StageEvent,
    "progress": ProgressEvent,
    "checkpoint": CheckpointEvent,
    "resumed": ResumedEvent,
    "prior": PriorEvent,
    "warning": WarningEvent,
    "info": InfoEvent,
    "quality": QualityEvent,
    "result": ResultEvent,
    "failed": FailedEvent,
}


def event_to_json(event: Event) -> str:
    """One line of JSON."""
    return json.dumps(asdict(event), allow_nan=False)


def event_from_json(line: str) -> Event | None:
    """The event on a line of output, or None where the line is not one of ours (or of a newer version)."""
    try:
        raw = json.loads(line)
        if raw["type"] == "quality":
            raw["figures"] = [FigureShown(**figure) for figure in raw["figures"]]
        return EVENT_TYPES[raw["type"]](**raw)  # type: ignore[no-any-return]
    except (ValueError, KeyError, TypeError):
        return None


class Sink(Protocol):
    """Where events go. `emit` may raise: the reporter then drops the sink and says so once."""

    def emit(self, event: Event) -> None: ...


class JsonLines:
    """Writes one event per line to a stream, flushed."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def emit(self, event: Event) -> None:
        self._stream.write(event_to_json(event) + "\n")
        self._stream.flush()


def transfer(moved: Callable[[], None]) -> Callable[[int, int], None]:
    """A callback (bytes done, in all) for storage, which calls it time and again: says `moved` when bytes have."""
    last = 0

    def on_progress(done: int, _: int) -> None:
        nonlocal last
        if done != last:
            last = done
            moved()

    return on_progress


@dataclass
class Reporter:
    """Keeps the state of all stages and passes events on. Without sinks (other ranks) it only keeps state."""

    sinks: list[Sink] = field(default_factory=list)
    stages: dict[StageName, StageEvent] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    history: list[ProgressEvent] = field(default_factory=list)
    on_move: list[Callable[[], None]] = field(default_factory=list)

    def plan(self, skipped: Sequence[StageName] = ()) -> None:
        """Announces every stage, so that a reader sees the whole way from the start."""
        for stage in STAGES:
            state: StageState = "Skipped" if stage in skipped else "Pending"
            self._stage(stage=stage, state=state, done=0, total=0, unit="", start=None, end=None)

    def begin(self, stage: StageName, *, total: int, unit: str, done: int = 0, note: str = "") -> None:
        """A stage that is at work already goes on: its time counts from its first beginning."""
        now = self.stages.get(stage)
        start = now.start if now and now.state == "Running" else time.time()
        self._stage(stage=stage, state="Running", done=done, total=total, unit=unit, start=start, end=None, note=note)

    def advance(self, stage: StageName, done: int) -> None:
        """`done` is the new count; the same as before says nothing."""
        now = self.stages[stage]
        if (now.done, now.state) == (done, "Running"):
            return
        self._stage(
            stage=stage, state="Running", done=done, total=now.total, unit=now.unit, start=now.start, end=None,
            note=now.note,
        )  # fmt: skip

    def end(
        self, stage: StageName, *, state: StageState = "Succeeded", note: str = "", done: int | None = None
    ) -> None:
        """`done`: where a stage that succeeded did not have to do all."""
        now = self.stages[stage]
        if done is None:
            done = now.total if state == "Succeeded" else now.done
        self._stage(
            stage=stage, state=state, done=done, total=now.total, unit=now.unit, start=now.start, end=time.time(),
            note=note or now.note,
        )  # fmt: skip

    def fail(self) -> None:
        """Closes the stages that were at work: the run has failed."""
        for event in [event for event in self.stages.values() if event.state == "Running"]:
            self.end(event.stage, state="Failed")

    def moved(self) -> None:
        """Work has moved on, in a way that no event tells: some bytes, a file, a part of a stage."""
        for listener in self.on_move:
            listener()

    def emit(self, event: Event) -> None:
        """Hands an event to every sink; a sink that raises is dropped, and said once."""
        if isinstance(event, ProgressEvent):
            self.history.append(event)
        if isinstance(event, WarningEvent):
            self.warnings.append(event.message)
        if isinstance(event, StageEvent | ProgressEvent | CheckpointEvent):
            self.moved()
        for sink in list(self.sinks):
            try:
                sink.emit(event)
            except Exception as error:  # noqa: BLE001 - whatever a sink raises, training goes on
                self.sinks.remove(sink)
                print(f"progress sink {type(sink).__name__} failed and is dropped: {error}", file=sys.stderr)

    def warn(self, message: str) -> None:
        self.emit(WarningEvent(message=message))

    def info(self, key: str, value: str) -> None:
        self.emit(InfoEvent(key=key, value=value))

    def _stage(self, **fields: Any) -> None:
        event = StageEvent(**fields)
        self.stages[event.stage] = event
        self.emit(event)
