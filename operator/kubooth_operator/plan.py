"""What one pass of the operator looks at, and what it decides to do: plain values.

`reconcile` takes an `Observed` and gives a `Plan`; the edge (`cluster`) fills the first from the API and carries the
second out, in the order delete, apply, status, announce. Nothing here does I/O, so a pass can be replayed in a test.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

Manifest = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Ref:
    """One object of the API server, by name."""

    api_version: str
    kind: str
    namespace: str
    name: str


@dataclass(frozen=True, kw_only=True)
class Observed:
    """The world as a pass sees it. Manifests are as the API server returns them."""

    job: Manifest  # the PersonalizationJob as read from the API
    runtime: Manifest | None  # the PersonalizationRuntime it names; None where there is none
    children: tuple[Manifest, ...]  # objects of the child kinds that carry the label of this job's UID
    pods: tuple[Manifest, ...]  # pods that carry it
    # What the last passes learned from the API server's refusals:
    taken: tuple[Ref, ...] = ()  # names of children that objects which are not ours occupy
    child_refusal: str = ""  # what it has against a child, such as a quota or a policy of the cluster
    pod_refusal: str = ""  # what it has against the pods of the newest attempt
    status_refused_at: datetime | None = None  # when the job's status could last not be written, for whatever reason


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What the operator's own installation decides."""

    trainer_image: str  # of the operator's own release


@dataclass(frozen=True, kw_only=True)
class Clock:
    """Time, as a value. Both are aware of their zone."""

    now: datetime
    reachable_since: datetime  # since when the API server has answered, and taken writes, without a break


@dataclass(frozen=True, kw_only=True)
class Deletion:
    """An object to delete, if it is still the one with this UID. `grace_seconds` 0 is by force; None its own."""

    ref: Ref
    uid: str
    grace_seconds: int | None = None
    propagation: Literal["Background", "Foreground"] = "Background"


@dataclass(frozen=True, kw_only=True)
class Announcement:
    """Becomes an Event on the job, once the status that it tells of was written."""

    type: Literal["Normal", "Warning"]
    reason: str
    message: str


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What to do. An empty one says that all is as it should be."""

    delete: tuple[Deletion, ...] = ()
    apply: tuple[Manifest, ...] = ()  # children that are missing or differ
    status: Manifest | None = None  # a merge patch for the job's status
    announce: tuple[Announcement, ...] = ()
    requeue_after: float | None = None  # seconds until time alone may change the answer

    @property
    def writes_nothing(self) -> bool:
        """Whether carrying it out writes nothing to the API server."""
        return not (self.delete or self.apply or self.status or self.announce)
