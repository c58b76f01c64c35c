"""A job's status as the events that a local run tells of, so that bars and lines show both in the same way."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from kubooth_cli.cluster.times import unix
from kubooth_trainer.progress import CheckpointEvent, Event, ProgressEvent, StageEvent

Manifest = dict[str, Any]


def events_of(status: Manifest) -> Iterator[Event]:
    """One event for each stage, for training and for the newest checkpoint, as the status has them."""
    for stage in status.get("stages") or ():
        yield StageEvent(
            stage=stage["name"],
            state=stage["state"],
            done=stage.get("done") or 0,
            total=stage.get("total") or 0,
            unit=stage.get("unit") or "",
            start=unix(stage.get("start")),
            end=unix(stage.get("end")),
            note=stage.get("note") or "",
        )
    progress = status.get("progress")
    if progress:
        loss = float(progress.get("loss") or 0.0)
        yield ProgressEvent(
            step=progress["step"],
            total=progress["total"],
            loss=loss,
            samples_per_second=float(progress.get("samplesPerSecond") or 0.0),
            eta_seconds=float(progress.get("etaSeconds") or 0.0),
            time=unix(progress.get("updatedAt")) or 0.0,
            # Not in a status, and shown by nobody:
            instance_loss=loss,
            prior_loss=None,
            grad_norm=None,
            learning_rate=0.0,
        )
    checkpoint = status.get("checkpoint")
    if checkpoint:
        time = unix(checkpoint.get("time")) or 0.0
        yield CheckpointEvent(uri=checkpoint["uri"], step=checkpoint["step"], time=time)
