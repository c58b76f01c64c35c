"""The trainer's part of the status, once its attempt has ended: filled from the last word, and closed. Pure.

While an attempt runs, rank 0 owns stages, progress, checkpoint, identifier, className, prior, quality, output and
report. When it has ended nobody writes them any more: what the trainer could not send for want of an API server travels
in its termination message, and no stage may stay Running. Called by `attempts`, in every pass over an ended attempt, so
that a late write of a dying pod is mended too. A pod's words are not trusted: what does not fit the API is dropped.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import datetime
from typing import Any

from pydantic import ValidationError

from kubooth_operator.api.status import JobStatus, Outcome
from kubooth_operator.diagnose import Diagnosis
from kubooth_operator.plan import Manifest
from kubooth_operator.workload import Pod

TRAINER_FIELDS = (
    "stages", "progress", "checkpoint", "identifier", "className", "prior", "quality", "output", "report",
)  # fmt: skip
MAX_LOG_LINES = 50
MAX_LOG_LINE = 1024
MAX_MESSAGE = 4096
MAX_POD = 256


def hear(status: Manifest, pods: Sequence[Pod]) -> None:
    """Fills the trainer's fields from the last word of rank 0's pod, in place. Its pod may soon be gone."""
    leader = next((pod for pod in pods if pod.index == 0 and pod.termination is not None), None)
    if leader is not None and leader.termination is not None:
        status |= _fitting(leader.termination.summary or {})


def close(status: Manifest, pods: Sequence[Pod], *, outcome: Outcome, end_time: str) -> None:
    """Fills the trainer's fields and closes open stages, in place."""
    hear(status, pods)
    if "stages" in status:
        status["stages"] = [_closed(stage, outcome, end_time) for stage in status["stages"]]
    if "progress" in status:
        status["progress"] = {k: v for k, v in status["progress"].items() if k not in {"eta", "etaSeconds"}}


def failure_status(diagnosis: Diagnosis) -> Manifest:
    """`status.failure`, within the bounds of the API."""
    failure = {
        "reason": diagnosis.reason,
        "message": diagnosis.message[:MAX_MESSAGE],
        "pod": diagnosis.pod[:MAX_POD] if diagnosis.pod else None,
        "exitCode": diagnosis.exit_code,
        "log": [line[:MAX_LOG_LINE] for line in diagnosis.log[-MAX_LOG_LINES:]],
    }
    return {name: value for name, value in failure.items() if value not in (None, [])}


def held_seconds(pods: Sequence[Pod], *, nodes: int, ready: datetime | None, until: datetime) -> float:
    """How long an attempt held nodes, summed over nodes. A pod that is gone is taken to have run from `ready`."""
    held = [max(0.0, ((pod.end_time or until) - pod.start_time).total_seconds()) for pod in pods if pod.start_time]
    gone = nodes - len(held)
    if gone > 0 and ready is not None:
        held += [max(0.0, (until - ready).total_seconds())] * gone
    return sum(held)


def _closed(stage: Manifest, outcome: Outcome, end_time: str) -> Manifest:
    match stage.get("state"), outcome:
        case "Running", "Suspended":
            return {**{k: v for k, v in stage.items() if k != "end"}, "state": "Pending"}
        case "Running" | "Pending", "Succeeded":
            return {**stage, "state": "Succeeded", "end": stage.get("end", end_time)}
        case "Running", _:
            return {**stage, "state": "Failed", "end": stage.get("end", end_time)}
        case _:
            return stage


def _fitting(summary: dict[str, Any]) -> Manifest:
    """The fields of a summary that the API would take, each by itself."""
    fields: Manifest = {}
    for name in TRAINER_FIELDS:
        if summary.get(name) is None:
            continue
        try:
            part = JobStatus.model_validate_json(json.dumps({name: summary[name]}), by_alias=True, by_name=False)
        except (ValidationError, ValueError):
            continue
        fields |= part.model_dump(mode="json", by_alias=True, exclude_none=True)
    return fields
