"""Pods and batch Jobs as facts: what `diagnose`, `attempts`, `verdict` ask of manifests of the API server. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from kubooth_operator import names
from kubooth_operator.plan import Manifest
from kubooth_trainer.termination import Termination, read_termination

COMPLETION_INDEX = "batch.kubernetes.io/job-completion-index"


def time_of(text: str | None) -> datetime | None:
    """A time as the API server writes it."""
    return datetime.fromisoformat(text) if text else None


@dataclass(frozen=True)
class Pod:
    """A pod of a job."""

    manifest: Manifest

    @property
    def name(self) -> str:
        return str(self.manifest["metadata"]["name"])

    @property
    def attempt(self) -> int | None:
        label = self._labels.get(names.LABEL_ATTEMPT, "")
        return int(label) if label.isdecimal() else None

    @property
    def index(self) -> int | None:
        """Completion index, which is the node rank."""
        annotations = self.manifest["metadata"].get("annotations", {})
        text = self._labels.get(COMPLETION_INDEX) or annotations.get(COMPLETION_INDEX, "")
        return int(text) if text.isdecimal() else None

    @property
    def node(self) -> str | None:
        node: str | None = self.manifest.get("spec", {}).get("nodeName")
        return node

    @property
    def is_terminal(self) -> bool:
        """None of its processes runs any more."""
        return self._status.get("phase") in {"Succeeded", "Failed"}

    @property
    def has_succeeded(self) -> bool:
        return self._status.get("phase") == "Succeeded"

    @property
    def has_failed(self) -> bool:
        return self._status.get("phase") == "Failed"

    @property
    def is_ready(self) -> bool:
        ready = self.condition("Ready")
        return ready is not None and ready.get("status") == "True"

    @property
    def is_scheduled(self) -> bool:
        return self.node is not None

    @property
    def gone_by(self) -> datetime | None:
        """When a pod that is being deleted should be gone: the API server adds the grace to the deletion time."""
        return time_of(self.manifest["metadata"].get("deletionTimestamp"))

    @property
    def creation_time(self) -> datetime | None:
        """When it was made."""
        return time_of(self.manifest["metadata"].get("creationTimestamp"))

    @property
    def start_time(self) -> datetime | None:
        """Since when it holds its node's resources."""
        return time_of(self._status.get("startTime"))

    @property
    def end_time(self) -> datetime | None:
        """When its container ended."""
        return time_of(self.terminated.get("finishedAt"))

    @property
    def reason(self) -> str:
        """The kubelet's word for a pod that it ended or refused, such as Evicted."""
        return str(self._status.get("reason", ""))

    @property
    def message(self) -> str:
        return str(self._status.get("message", ""))

    @property
    def disruption(self) -> dict[str, Any] | None:
        """The condition that says the cluster took the pod away."""
        condition = self.condition("DisruptionTarget")
        return condition if condition is not None and condition.get("status") == "True" else None

    @property
    def terminated(self) -> dict[str, Any]:
        """How the trainer's container ended; empty where it has not."""
        return dict(self._state.get("terminated") or {})

    @property
    def waiting(self) -> dict[str, Any]:
        """Why the trainer's container does not run yet; empty where it does."""
        return dict(self._state.get("waiting") or {})

    @property
    def is_running(self) -> bool:
        return "running" in self._state

    @property
    def exit_code(self) -> int | None:
        code: int | None = self.terminated.get("exitCode")
        return code

    @property
    def termination(self) -> Termination | None:
        """The last word of its launcher."""
        return read_termination(self.terminated.get("message"))

    def condition(self, type_: str) -> dict[str, Any] | None:
        """A condition of the pod."""
        return next((each for each in self._status.get("conditions", ()) if each.get("type") == type_), None)

    @property
    def _labels(self) -> dict[str, str]:
        return dict(self.manifest["metadata"].get("labels", {}))

    @property
    def _status(self) -> dict[str, Any]:
        return dict(self.manifest.get("status", {}))

    @property
    def _state(self) -> dict[str, Any]:
        statuses = self._status.get("containerStatuses") or ()
        return next((each.get("state") or {} for each in statuses if each.get("name") == names.CONTAINER), {})


@dataclass(frozen=True)
class BatchJob:
    """The batch Job of an attempt."""

    manifest: Manifest

    @property
    def name(self) -> str:
        return str(self.manifest["metadata"]["name"])

    @property
    def is_being_deleted(self) -> bool:
        return "deletionTimestamp" in self.manifest["metadata"]

    def owns(self, pod: Pod) -> bool:
        """Whether it made the pod."""
        owners = pod.manifest["metadata"].get("ownerReferences") or ()
        return any(owner.get("uid") == self.manifest["metadata"]["uid"] for owner in owners)

    @property
    def finalizers(self) -> tuple[str, ...]:
        """What others want to do before it goes."""
        return tuple(self.manifest["metadata"].get("finalizers") or ())

    @property
    def is_held_back(self) -> bool:
        """A queue (Kueue) keeps it from starting, or stopped it: we never suspend a batch Job ourselves."""
        return self.manifest.get("spec", {}).get("suspend") is True

    @property
    def has_completed(self) -> bool:
        return self.condition("Complete") is not None

    @property
    def is_failing(self) -> bool:
        """It has failed, or will have once its pods have ended."""
        return self.condition("Failed") is not None or self.condition("FailureTarget") is not None

    @property
    def may_run(self) -> bool:
        """It could still make pods."""
        return not (self.has_completed or self.is_failing or self.is_being_deleted)

    @property
    def failure(self) -> dict[str, Any]:
        """The condition that says why it failed."""
        return self.condition("Failed") or self.condition("FailureTarget") or {}

    def condition(self, type_: str) -> dict[str, Any] | None:
        """A condition of the batch Job that is true."""
        conditions = self.manifest.get("status", {}).get("conditions", ())
        return next((each for each in conditions if each.get("type") == type_ and each.get("status") == "True"), None)
