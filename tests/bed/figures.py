"""Metrics of an operator that has seen everything once, for tests of what is made of them."""

from __future__ import annotations

from typing import Any

from kubooth_operator.metrics import Metrics

Manifest = dict[str, Any]


def job(name: str, **status: Any) -> Manifest:
    metadata = {"name": name, "namespace": "team", "uid": name, "creationTimestamp": "2026-11-01T10:00:00Z"}
    return {"metadata": metadata, "status": status}


def training(name: str) -> Manifest:
    words = {"step": 1, "total": 2, "loss": 0.5, "samplesPerSecond": 8.0, "etaSeconds": 3}
    return job(name, phase="Running", reason="Running", progress={**words, "updatedAt": "2026-11-01T10:00:00Z"})


def filled(jobs: list[Manifest], *, is_working: bool = True) -> Metrics:
    """One that has seen everything once."""
    made = Metrics("1.2.3")
    made.read_from(jobs=jobs, queue_depth=lambda: 3, is_working=lambda: is_working)
    made.request_has_ended("PATCH", 409, 0.1)
    made.request_has_ended("GET", 0, 15)
    made.look_has_ended(0.2, error="Conflict")
    begun = {"attempts": 1, "attempt": {"number": 1}}
    ready = {**begun, "attempt": {"number": 1, "readyTime": "2026-11-01T10:00:05Z"}}
    made.batch_job_was_created(job("a", **begun))
    made.status_was_written(job("a", **begun), job("a", **ready))
    failed = {"attempts": 1, "attempt": {"outcome": "Retry"}, "failure": {"reason": "PeerLost"}}
    made.status_was_written(job("a", **failed), job("a", attempts=2, attempt={"number": 2}))
    stage = {"name": "Train", "state": "Succeeded", "start": "2026-11-01T10:00:00Z", "end": "2026-11-01T10:01:00Z"}
    end = {"phase": "Succeeded", "reason": "Succeeded", "stages": [stage], "prior": {"source": "Hit"}}
    made.status_was_written(job("b", phase="Running"), job("b", phase="Failed", reason="BadSubject"))
    held = {"deviceSeconds": 8, "runtimeSnapshot": {"name": "default"}}
    made.status_was_written(job("a", phase="Running"), job("a", **end, **held))
    return made
