"""The plan of one pass while it is being made: the new status beside the old one, deletions, children, wake-ups.

Used by `reconcile`, `attempts`, `verdict` and `ending`. A draft starts from the status as it was read and ends as a
`Plan` that holds only what changed, so a pass that changes nothing writes nothing.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import Any

from kubooth_operator.announce import announcements
from kubooth_operator.plan import Clock, Deletion, Manifest, Plan
from kubooth_operator.workload import time_of

CONDITIONS = ("Accepted", "PodsReady", "Succeeded", "Failed", "Suspended", "QualityAccepted")
MAX_MESSAGE = 4096
SHORTEST_WAIT_SECONDS = 1.0


class Draft:
    """One pass. Its methods change the new status; `plan` compares it with the old one."""

    def __init__(self, job: Manifest, clock: Clock) -> None:
        self.old: Manifest = job.get("status") or {}
        self.status: Manifest = copy.deepcopy(self.old)
        self.generation: int = job["metadata"].get("generation", 0)
        self.now = clock.now.replace(microsecond=0)
        self._deletions: list[Deletion] = []
        self._children: list[Manifest] = []
        self._wakes: list[datetime] = []

    # What is remembered

    @property
    def has_finished(self) -> bool:
        """Whether the job has come to its end: it is never started again."""
        return self.status.get("phase") in {"Succeeded", "Failed"}

    @property
    def number(self) -> int:
        """The newest attempt; 0 before the first."""
        return int(self.status.get("attempts", 0))

    @property
    def attempt(self) -> dict[str, Any]:
        """What is remembered of the newest attempt."""
        attempt: dict[str, Any] = self.status.setdefault("attempt", {"number": self.number})
        return attempt

    def time(self, name: str) -> datetime | None:
        """A time that is remembered of the newest attempt, such as readyTime."""
        return time_of(self.attempt.get(name))

    def condition(self, type_: str) -> dict[str, Any] | None:
        """A condition of the new status."""
        return next((each for each in self.status.get("conditions", ()) if each["type"] == type_), None)

    def holds(self, type_: str) -> bool:
        """Whether a condition of the new status is true."""
        return (self.condition(type_) or {}).get("status") == "True"

    # What is decided

    def stand(self, phase: str, reason: str, message: str) -> None:
        """Where the job stands, and why."""
        self.status |= {"phase": phase, "reason": reason, "message": message[:MAX_MESSAGE]}

    def set_condition(self, type_: str, holds: bool | None, reason: str, message: str) -> None:
        """A condition, whose transition time moves only when its status does. `holds` None: Unknown."""
        state = "Unknown" if holds is None else "True" if holds else "False"
        before = self.condition(type_)
        moved = before is None or before["status"] != state
        condition = {
            "type": type_,
            "status": state,
            "reason": reason,
            "message": message[:MAX_MESSAGE],
            "lastTransitionTime": timestamp(self.now) if before is None or moved else before["lastTransitionTime"],
            "observedGeneration": self.generation,
        }
        others = [each for each in self.status.get("conditions", ()) if each["type"] != type_]
        order = {name: place for place, name in enumerate(CONDITIONS)}
        self.status["conditions"] = sorted([*others, condition], key=lambda each: order.get(each["type"], len(order)))

    def remember(self, **times: datetime | None) -> None:
        """Times of the newest attempt, written as readyTime=...; None forgets one."""
        for name, time in times.items():
            if time is None:
                self.attempt.pop(name, None)
            else:
                self.attempt[name] = timestamp(time)

    def forget(self, *names: str) -> None:
        """Takes fields out of the status."""
        for name in names:
            self.status.pop(name, None)

    def delete(self, deletions: Iterable[Deletion]) -> None:
        self._deletions += deletions

    def apply(self, children: Iterable[Manifest]) -> None:
        self._children += children

    def wake_at(self, time: datetime) -> None:
        """Asks for another pass at a time, if nothing happens before."""
        self._wakes.append(time)

    def wake_in(self, seconds: float) -> None:
        self.wake_at(self.now + timedelta(seconds=seconds))

    # What comes of it

    def plan(self) -> Plan:
        """The plan; an unchanged status is not written."""
        self.status["observedGeneration"] = self.generation
        patch = merge_patch(self.old, self.status)
        wait = min(self._wakes, default=None)
        return Plan(
            delete=tuple(self._deletions),
            apply=tuple(self._children),
            status=patch or None,
            announce=tuple(announcements(self.old, self.status)) if patch else (),
            requeue_after=max((wait - self.now).total_seconds(), SHORTEST_WAIT_SECONDS) if wait else None,
        )


def timestamp(time: datetime) -> str:
    """A time as Kubernetes writes it, in whole seconds of UTC."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ")


def merge_patch(old: Manifest, new: Manifest) -> Manifest:
    """The JSON merge patch (RFC 7386) that turns one into the other: null takes a field out, lists are replaced."""
    patch: Manifest = {name: None for name in old if name not in new}
    for name, value in new.items():
        before = old.get(name)
        if isinstance(value, dict) and isinstance(before, dict):
            inner = merge_patch(before, value)
            if inner:
                patch[name] = inner
        elif name not in old or before != value:
            patch[name] = value
    return patch
