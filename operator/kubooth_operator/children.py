"""Which children of a job are missing or differ, and which are left over. Pure; called by `attempts`.

A child differs where what we want is not contained in what is there: fields that others add are theirs. Of a batch
Job only the outside is compared: its template cannot change any more, and a queue may have added to it. The same goes
for its ConfigMap; but until there is a batch Job, another version's is replaced, so that both are of one version.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from kubooth_operator import names, render
from kubooth_operator.plan import Deletion, Manifest, Observed, Ref, Settings

SELECTORS = frozenset({"selector", "podSelector"})


@dataclass(frozen=True, kw_only=True)
class Difference:
    """What it takes to bring the children of an attempt to what they should be."""

    apply: tuple[Manifest, ...]
    delete: tuple[Deletion, ...]
    taken: tuple[Ref, ...]  # needed, and occupied by objects that are not ours


def compare(observed: Observed, job: render.Accepted, attempt: int, settings: Settings) -> Difference:
    """The children of an attempt against those there are. The batch Job is made last, when its neighbours stand."""
    there = {ref_of(child): child for child in observed.children}
    apply: list[Manifest] = []
    if not job.is_whole:
        return Difference(apply=(), delete=(), taken=())
    delete = [deletion(child) for child in observed.children if is_left_over(child, attempt)]
    taken: list[Ref] = []
    is_complete = True
    has_pods = find_job(observed.children, attempt) is not None
    for wanted in render.children(job, attempt, settings):
        ref = ref_of(wanted)
        found = there.get(ref)
        if found is None and ref in observed.taken:
            taken.append(ref)
            is_complete = False
        elif found is None and (wanted["kind"] != "Job" or is_complete):
            apply.append(wanted)
            is_complete = False
        elif found is None:
            continue
        elif wanted["kind"] == "RoleBinding" and found.get("roleRef") != wanted["roleRef"]:
            delete.append(deletion(found))  # a reference to a role cannot be changed
        elif wanted["kind"] == "Job":
            outside = without_template(wanted)
            apply.extend([] if contains(found, outside) else [outside])
        elif wanted["kind"] == "ConfigMap" and not has_pods and not contains(found, {"data": wanted["data"]}):
            delete.append(deletion(found))  # of an earlier version, or spec: it cannot be changed
            is_complete = False
        elif wanted["kind"] == "ConfigMap":
            outside = {name: value for name, value in wanted.items() if name not in {"data", "immutable"}}
            apply.extend([] if contains(found, outside) else [outside])
        elif not contains(found, wanted):
            apply.append(wanted)
    return Difference(apply=tuple(apply), delete=tuple(delete), taken=tuple(taken))


def find_job(children: Sequence[Manifest], attempt: int) -> Manifest | None:
    """The batch Job of an attempt."""
    return next((child for child in children if child["kind"] == "Job" and attempt_of(child) == attempt), None)


def attempt_of(child: Manifest) -> int | None:
    """The attempt that a child belongs to; None for one of the whole job."""
    label = child["metadata"].get("labels", {}).get(names.LABEL_ATTEMPT, "")
    return int(label) if label.isdecimal() else None


def is_left_over(child: Manifest, attempt: int) -> bool:
    """Whether a child belongs to an attempt before this one."""
    number = attempt_of(child)
    return number is not None and number < attempt and "deletionTimestamp" not in child["metadata"]


def ref_of(manifest: Manifest) -> Ref:
    """The name of an object."""
    metadata = manifest["metadata"]
    return Ref(
        api_version=manifest["apiVersion"],
        kind=manifest["kind"],
        namespace=metadata.get("namespace", ""),
        name=metadata["name"],
    )


def deletion(manifest: Manifest, *, grace_seconds: int | None = None) -> Deletion:
    """The deletion of an object as it was seen."""
    return Deletion(ref=ref_of(manifest), uid=manifest["metadata"]["uid"], grace_seconds=grace_seconds)


def without_template(batch_job: Manifest) -> Manifest:
    """A batch Job as it can still be changed."""
    spec = {name: value for name, value in batch_job["spec"].items() if name not in {"template", "podFailurePolicy"}}
    return {**batch_job, "spec": spec}


def contains(there: Any, wanted: Any) -> bool:
    """Whether all that is wanted is there: of a map its keys, of a list every entry in its place.

    A selector must be the same, since one more label in it selects something else. Owner references of ours may stand
    anywhere among those of others.
    """
    if isinstance(wanted, dict):
        if not isinstance(there, dict):
            return False
        for key, value in wanted.items():
            if key == "ownerReferences":
                if not all(any(contains(each, owner) for each in there.get(key, ())) for owner in value):
                    return False
            elif key not in there or not (there[key] == value if key in SELECTORS else contains(there[key], value)):
                return False
        return True
    if isinstance(wanted, list):
        return isinstance(there, list) and len(there) == len(wanted) and all(map(contains, there, wanted))
    return bool(there == wanted)
