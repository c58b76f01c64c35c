"""What the operator knows of the cluster: the newest version of each object that it has seen.

Watches and kopf's events fill it, and so do the answers to the operator's own writes, at once. Each tells the same
story at its own pace: what is older than what is known is passed over, also where that is a deletion.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

from kubooth_operator.defaults import DEFAULT
from kubooth_operator.kinds import CHILDREN, JOB, POD, RUNTIME, Kind, kind_of
from kubooth_operator.names import LABEL_JOB, LABEL_JOB_UID

Manifest = dict[str, Any]
_REMEMBERED_DELETIONS = 20_000


class Key(NamedTuple):
    """Names an object of one kind. Of cluster-scoped ones, the namespace is empty."""

    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}" if self.namespace else self.name


class Store:
    """Objects of one kind, and an index of them."""

    def __init__(self, index: Callable[[Manifest], str | None] = lambda _: None) -> None:
        self._index = index
        self._objects: dict[Key, Manifest] = {}
        self._by_index: dict[str, set[Key]] = {}
        self._deleted: OrderedDict[str, int] = OrderedDict()  # by UID: the version it went with

    def get(self, key: Key) -> Manifest | None:
        """The object of that name."""
        return self._objects.get(key)

    def indexed(self, value: str) -> list[Manifest]:
        """The objects that the index puts under `value`, by name."""
        return [self._objects[key] for key in sorted(self._by_index.get(value, ()))]

    def __iter__(self) -> Iterator[Manifest]:
        return iter(list(self._objects.values()))

    def __len__(self) -> int:
        return len(self._objects)

    def put(self, manifest: Manifest) -> bool:
        """Takes note of an object; False where that was known already, or something newer."""
        key, uid = key_of(manifest), uid_of(manifest)
        known = self._objects.get(key)
        newest = max(self._deleted.get(uid, 0), version_of(known) if known is not None else 0)
        if newest >= version_of(manifest):
            return False
        if known is not None:
            self._drop(key)
        self._objects[key] = _slim(manifest)
        if (value := self._index(manifest)) is not None:
            self._by_index.setdefault(value, set()).add(key)
        return True

    def remove(self, key: Key, uid: str, version: int | None = None) -> bool:
        """Takes note that an object is gone, or out of sight, with `version` (None: the one that is known); False where
        it was not known. Only a newer version brings it back: one whose label was lost and given back."""
        known = self._objects.get(key)
        is_known = known is not None and uid_of(known) == uid
        last = version_of(known) if known is not None and is_known else 0
        self._deleted[uid] = max(version or 0, last)
        while len(self._deleted) > _REMEMBERED_DELETIONS:
            self._deleted.popitem(last=False)
        if is_known:
            self._drop(key)
        return is_known

    def prune(self, present: Iterable[str], version: int) -> list[Manifest]:
        """Removes what a list of `version` no longer had; `present` are the UIDs it had. Returns what went."""
        uids = set(present)
        gone = [each for each in self if uid_of(each) not in uids and version_of(each) <= version]
        for each in gone:
            self.remove(key_of(each), uid_of(each), version)
        return gone

    def _drop(self, key: Key) -> None:
        old = self._objects.pop(key)
        value = self._index(old)
        if value is not None and (keys := self._by_index.get(value)) is not None:
            keys.discard(key)
            if not keys:
                del self._by_index[value]


class Cache:
    """All that is known. Children and pods are found by the UID of their job."""

    def __init__(self) -> None:
        self.jobs = Store(index=runtime_name)
        self.runtimes = Store()
        self.children = {kind: Store(index=job_uid) for kind in (*CHILDREN, POD)}
        self._stores = {JOB: self.jobs, RUNTIME: self.runtimes, **self.children}

    def children_of(self, uid: str) -> tuple[Manifest, ...]:
        """Children of the job with this UID, pods apart."""
        return tuple(child for kind in CHILDREN for child in self.children[kind].indexed(uid))

    def pods_of(self, uid: str) -> tuple[Manifest, ...]:
        """Pods of the job with this UID."""
        return tuple(self.children[POD].indexed(uid))

    def store_of(self, kind: Kind) -> Store:
        """Where objects of a kind are kept."""
        return self._stores[kind]

    def put(self, manifest: Manifest) -> bool:
        """Takes note of an object of any kind."""
        return self.store_of(kind_of(manifest["apiVersion"], manifest["kind"])).put(manifest)


def key_of(manifest: Manifest) -> Key:
    """Namespace and name."""
    metadata = manifest["metadata"]
    return Key(metadata.get("namespace", ""), metadata["name"])


def uid_of(manifest: Manifest) -> str:
    """UID: an object's identity through all its versions."""
    uid: str = manifest["metadata"]["uid"]
    return uid


def version_of(manifest: Manifest) -> int:
    """resourceVersion as a number: of two versions of one kind, the higher is the newer (promised since 1.35)."""
    return int(manifest["metadata"]["resourceVersion"])


def owner_of(child: Manifest) -> Manifest | None:
    """The owner reference to the job that controls a child. A label alone anyone can write."""
    owners = child["metadata"].get("ownerReferences") or ()
    return next((each for each in owners if each.get("controller") and each["kind"] == JOB.kind), None)


def job_uid(child: Manifest) -> str | None:
    """The UID of the job that a child belongs to. A pod belongs to a batch Job: it carries our UID as a label."""
    if child["kind"] == POD.kind:
        uid: str | None = (child["metadata"].get("labels") or {}).get(LABEL_JOB_UID)
        return uid
    owner = owner_of(child)
    return owner["uid"] if owner else None


def job_key(child: Manifest) -> Key | None:
    """The job that a child belongs to."""
    if child["kind"] == POD.kind:
        name = (child["metadata"].get("labels") or {}).get(LABEL_JOB)
    else:
        name = (owner_of(child) or {}).get("name")
    return Key(child["metadata"]["namespace"], name) if name else None


def runtime_name(job: Manifest) -> str:
    """The runtime that a job names; the schema has filled in the default."""
    name: str = ((job.get("spec") or {}).get("runtimeRef") or {}).get("name") or DEFAULT
    return name


def _slim(manifest: Manifest) -> Manifest:
    """Without managedFields, which nobody here reads and which are half of a small object."""
    metadata = {name: value for name, value in manifest["metadata"].items() if name != "managedFields"}
    return {**manifest, "metadata": metadata}
