"""What is known of a run so far: its events folded into one value, for presenters and for the summary."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import get_args

from kubooth_trainer.config import StageName
from kubooth_trainer.progress import (
    CheckpointEvent,
    Event,
    FailedEvent,
    InfoEvent,
    ProgressEvent,
    QualityEvent,
    ResultEvent,
    StageEvent,
    WarningEvent,
)


@dataclass
class StageState:
    """A stage's last event, and where and when this process saw it begin (for its speed)."""

    name: StageName
    event: StageEvent | None = None
    first_done: int = 0
    first_seen: float = 0.0  # monotonic seconds

    def speed(self, now: float) -> float | None:
        """Units per second since this process saw the stage begin; None before there is anything to tell."""
        elapsed = now - self.first_seen
        if self.event is None or self.event.state != "Running" or elapsed < 1.0:
            return None
        gained = self.event.done - self.first_done
        return gained / elapsed if gained > 0 else None


def _all_stages() -> dict[StageName, StageState]:
    names: tuple[StageName, ...] = get_args(StageName)
    return {name: StageState(name) for name in names}


@dataclass
class RunState:
    """The fold over a run's events. `apply` says whether a stage changed its state (not only its count)."""

    stages: dict[StageName, StageState] = field(default_factory=_all_stages)
    progress: ProgressEvent | None = None
    checkpoint: CheckpointEvent | None = None
    infos: dict[str, str] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    quality: QualityEvent | None = None
    result: ResultEvent | None = None
    failed: FailedEvent | None = None

    def apply(self, event: Event, now: float) -> bool:
        """Takes one event in. `now` is monotonic seconds. Returns whether a stage entered another state."""
        match event:
            case StageEvent():
                return self._stage(event, now)
            case ProgressEvent():
                self.progress = event
            case CheckpointEvent():
                self.checkpoint = event
            case InfoEvent():
                self.infos[event.key] = event.value
            case WarningEvent():
                self.warnings.append(event.message)
            case QualityEvent():
                self.quality = event
            case ResultEvent():
                self.result = event
            case FailedEvent():
                self.failed = event
        return False

    @property
    def running(self) -> StageName | None:
        """The stage at work, the last one if there are several."""
        at_work = [n for n, stage in self.stages.items() if stage.event and stage.event.state == "Running"]
        return at_work[-1] if at_work else None

    def _stage(self, event: StageEvent, now: float) -> bool:
        stage = self.stages.setdefault(event.stage, StageState(event.stage))
        before = stage.event.state if stage.event else None
        if event.state == "Running" and before != "Running":
            stage.first_done, stage.first_seen = event.done, now
        stage.event = event
        return event.state != before
