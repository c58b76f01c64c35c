"""Events: what a person should hear of a change of status. Pure; called by `draft`, and by `cluster` for their form.

They follow from the old and the new status alone and go out after the new one was written, so each change is told
once however often a pass is repeated.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime

from kubooth_operator.kinds import EVENT, JOB
from kubooth_operator.names import OPERATOR_MANAGER
from kubooth_operator.plan import Announcement, Manifest

MAX_NOTE = 1024  # bytes
_CALM = frozenset({"Starting", "PodsNotReady", "ContainerCreating", "Queued", "AttemptEnded", "Finished", "Suspended"})


def announcements(old: Manifest, new: Manifest) -> Iterator[Announcement]:
    """One for each change that matters to a person, in the order in which things happened."""
    if _moved(old, new, "Accepted"):
        accepted = _condition(new, "Accepted")
        yield _say("Normal" if accepted["status"] == "True" else "Warning", accepted["reason"], accepted["message"])
    if _ended(old, new):
        failure = new.get("failure", {})
        yield _say("Warning", failure.get("reason", "AttemptEnded"), failure.get("message", ""))
    if new.get("attempts", 0) > old.get("attempts", 0):
        number = new["attempts"]
        word = "Started" if number == 1 else "Resumed" if _was_suspended(old) else "Restarted"
        yield _say("Normal", word, f"attempt {number} was started")
    if _moved(old, new, "PodsReady"):
        ready = _condition(new, "PodsReady")
        if ready["status"] == "True":
            yield _say("Normal", ready["reason"], ready["message"])
        elif ready["reason"] not in _CALM:
            yield _say("Warning", ready["reason"], ready["message"])
    suspended = _condition(new, "Suspended")
    if _moved(old, new, "Suspended") and suspended["status"] == "True":
        yield _say("Normal", suspended["reason"], suspended["message"])
    quality = _condition(new, "QualityAccepted")
    if _moved(old, new, "QualityAccepted") and quality["status"] != "True":
        yield _say("Warning", f"Quality{quality['reason']}", quality["message"])
    if new.get("phase") != old.get("phase") and new.get("phase") in {"Succeeded", "Failed"}:
        succeeded = new["phase"] == "Succeeded"
        yield _say("Normal" if succeeded else "Warning", new["phase"], new.get("message", ""))


def event_of(announcement: Announcement, job: Manifest, *, instance: str, tail: str, now: datetime) -> Manifest:
    """The Event on a job. `instance` names the operator's process; `tail` tells Events of one job apart."""
    metadata = job["metadata"]
    regarding = {name: metadata[name] for name in ("namespace", "name", "uid")}
    return {
        "apiVersion": EVENT.api_version,
        "kind": EVENT.kind,
        "metadata": {"name": f"{metadata['name']}.{tail}", "namespace": metadata["namespace"]},
        "eventTime": now.isoformat(timespec="microseconds"),
        "reportingController": OPERATOR_MANAGER,
        "reportingInstance": instance,
        "action": "Reconcile",
        "type": announcement.type,
        "reason": announcement.reason,
        "note": announcement.message.encode()[:MAX_NOTE].decode(errors="ignore"),
        "regarding": {"apiVersion": JOB.api_version, "kind": JOB.kind, **regarding},
    }


def _say(type_: str, reason: str, message: str) -> Announcement:
    return Announcement(type="Normal" if type_ == "Normal" else "Warning", reason=reason, message=message)


def _condition(status: Manifest, type_: str) -> Manifest:
    return next((each for each in status.get("conditions", ()) if each["type"] == type_), {})


def _moved(old: Manifest, new: Manifest, type_: str) -> bool:
    """Whether status or reason of a condition changed. Its message may change with every look at the pods."""
    before, after = _condition(old, type_), _condition(new, type_)
    return bool(after) and any(before.get(name) != after.get(name) for name in ("status", "reason"))


def _ended(old: Manifest, new: Manifest) -> bool:
    """Whether an attempt failed that another one follows; the end of the job is told by its phase."""
    before, after = old.get("failure", {}), new.get("failure", {})
    another = any(before.get(name) != after.get(name) for name in ("reason", "message", "pod"))
    counted = new.get("restarts", 0) > old.get("restarts", 0)
    return bool(after) and (another or counted) and new.get("phase") not in {"Succeeded", "Failed"}


def _was_suspended(status: Manifest) -> bool:
    return bool(_condition(status, "Suspended").get("status") == "True")
