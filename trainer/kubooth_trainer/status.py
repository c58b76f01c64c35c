"""The trainer's part of a job's status, kept whole and delivered without ever holding up training.

A sink of `progress`, made by `main` on rank 0. It folds events into the fields that the trainer owns (stages,
progress, checkpoint, identifier, className, prior, quality, output, report; names as in the CRD) and hands the newest
state to outlets: a file for the launcher, which puts it into the termination message, and on a cluster the job's
status, by server-side apply. A dead API server costs freshness and nothing else.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from kubooth_trainer.config import StageName
from kubooth_trainer.delivery import Outlet, Status
from kubooth_trainer.progress import (
    CheckpointEvent,
    Event,
    InfoEvent,
    PriorEvent,
    ProgressEvent,
    QualityEvent,
    ResultEvent,
    ResumedEvent,
    StageEvent,
)

FLUSH_SECONDS = 3.0  # less than the launcher leaves a failed rank


class StatusSink:
    """Folds events and offers the whole state to every outlet. Nothing here blocks."""

    def __init__(self, outlets: list[Outlet], *, total_steps: int, clock: Callable[[], float] = time.time) -> None:
        self._outlets = outlets
        self._clock = clock
        self._lock = threading.Lock()
        self._state = _State(total=total_steps, moved_at=clock())

    def emit(self, event: Event) -> None:
        with self._lock:
            ended = self._state.apply(event)
            status = self._state.status()
        for outlet in self._outlets:
            outlet.offer(status, now=ended)

    def moved(self) -> None:
        """The heartbeat: work has moved, here or on another rank. Any thread may call it."""
        with self._lock:
            self._state.moved_at = self._clock()
            status = self._state.status()
        for outlet in self._outlets:
            outlet.offer(status)

    def close(self, seconds: float = FLUSH_SECONDS) -> None:
        """Delivers the last state, as far as that is possible within `seconds`."""
        deadline = time.monotonic() + seconds
        for outlet in self._outlets:
            outlet.close()
        for outlet in self._outlets:
            outlet.wait(max(0.1, deadline - time.monotonic()))


@dataclass
class _State:
    total: int  # steps
    moved_at: float  # Unix seconds
    stages: dict[StageName, StageEvent] = field(default_factory=dict)
    step: int = 0
    progress: ProgressEvent | None = None
    checkpoint: CheckpointEvent | ResumedEvent | None = None
    identifier: str | None = None
    class_name: str | None = None
    prior: PriorEvent | None = None
    quality: QualityEvent | None = None
    result: ResultEvent | None = None

    def apply(self, event: Event) -> bool:
        """Takes one event in; True where a stage ended or the result stands."""
        match event:
            case StageEvent():
                before = self.stages.get(event.stage)
                self.stages[event.stage] = event
                if event.stage == "Train" and event.state in ("Running", "Succeeded", "Failed"):
                    self.step = event.done
                return event.end is not None and (before is None or before.state != event.state)
            case ProgressEvent():
                self.progress, self.step = event, event.step
            case CheckpointEvent() | ResumedEvent():
                self.checkpoint = event
            case InfoEvent() if event.key == "identifier":
                self.identifier = event.value[:64]
            case InfoEvent() if event.key == "className":
                self.class_name = event.value[:64]
            case PriorEvent():
                self.prior = event
            case QualityEvent():
                self.quality = event
                return True
            case ResultEvent():
                self.result = event
                self.identifier = event.identifier[:64]
                self.class_name = event.class_name[:64] or self.class_name
                return True
        return False

    def status(self) -> Status:
        """All that is known, in the names and types of the CRD; nothing stands for what is not known."""
        status: Status = {
            "stages": [_stage(event) for event in self.stages.values()],
            "progress": self._progress(),
            "identifier": self.identifier,
            "className": self.class_name,
        }
        if self.checkpoint is not None:
            saved = self.checkpoint
            status["checkpoint"] = {"uri": saved.uri, "step": saved.step, "time": _rfc3339(saved.time)}
        if self.prior is not None:
            status["prior"] = _known(
                cacheKey=self.prior.cache_key,
                source=self.prior.source,
                images=self.prior.images,
                secondsSaved=round(self.prior.seconds_saved, 1) if self.prior.seconds_saved else None,
            )
        if self.quality is not None:
            status["quality"] = _quality(self.quality)
            if self.quality.report:
                status["report"] = {"uri": self.quality.report}
        if self.result is not None:
            status["output"] = _known(
                uri=self.result.output or self.result.model,
                manifestDigest=self.result.manifest_digest or None,
                bytes=self.result.bytes,
            )
            status["report"] = {"uri": self.result.report}
        return _known(**status)

    def _progress(self) -> Status:
        step = self.total if self.result is not None else self.step
        share = 100 * step / self.total
        now = self.progress
        training = now is not None and self.stages.get("Train", _NO_STAGE).state == "Running"
        return _known(
            step=step,
            total=self.total,
            percent=round(share, 1),
            summary=f"{step}/{self.total} {int(share)}%",
            loss=float(f"{now.loss:.4g}") if now else None,
            samplesPerSecond=round(now.samples_per_second, 3) if now else None,
            etaSeconds=round(now.eta_seconds) if now and training else None,
            eta=duration(now.eta_seconds) if now and training else None,
            updatedAt=_rfc3339(self.moved_at),
        )


_NO_STAGE = StageEvent(stage="Train", state="Pending", done=0, total=0, unit="", start=None, end=None)


def _stage(event: StageEvent) -> Status:
    counted = bool(event.unit)
    return _known(
        name=event.stage,
        state=event.state,
        start=_rfc3339(event.start),
        end=_rfc3339(event.end),
        done=event.done if counted else None,
        total=event.total if counted else None,
        unit=event.unit or None,
        note=event.note[:1024] or None,
    )


def _quality(event: QualityEvent) -> Status:
    figures = [_known(name=each.name, before=each.before, after=each.after) for each in event.figures]
    return _known(verdict=event.verdict, message=event.message[:1024] or None, figures=figures or None)


def _known(**fields: Any) -> Status:
    return {name: value for name, value in fields.items() if value is not None}


def _rfc3339(seconds: float | None) -> str | None:
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def duration(seconds: float) -> str:
    """As in "45s", "3m10s", "2h05m", "1d03h"."""
    whole = max(0, round(seconds))
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02}s"
    if whole < 86_400:
        return f"{whole // 3600}h{whole % 3600 // 60:02}m"
    return f"{whole // 86_400}d{whole % 86_400 // 3600:02}h"
