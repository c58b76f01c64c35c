"""What jobs that are gone have left in a bucket, and clearing it away: for `kubooth leftovers`.

A job that comes to its end takes its work in progress away itself. One that is deleted before leaves checkpoints and,
where it was about to publish, an output without a manifest. Both carry a claim that names the job object, so that
whoever knows which objects there are can tell whose work nobody will go on with. Results are never touched.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from contextlib import suppress
from dataclasses import dataclass

from kubooth_trainer.checkpoint_claim import delete_checkpoints
from kubooth_trainer.claim import CLAIM, RESERVED, Claim, Identity
from kubooth_trainer.publish import MANIFEST
from kubooth_trainer.storage import Entry, PreconditionFailedError, Storage

CHECKPOINTS = f"{RESERVED}/checkpoints"


@dataclass(frozen=True, kw_only=True)
class Unfinished:
    """Work in progress below one output, or an output that is not whole."""

    uri: str  # of the output
    owner: Identity
    in_reserved: bool  # checkpoints and what lies beside them; else what was published so far
    entries: tuple[Entry, ...]  # without the claim

    @property
    def bytes(self) -> int:
        return sum(entry.size for entry in self.entries)

    @property
    def what(self) -> str:
        return "checkpoints" if self.in_reserved else "part of a result"


def survey(storage: Storage, uri: str) -> list[tuple[Unfinished, float]]:
    """All unfinished work below a location that says whose it is, and when it was last written to, in Unix seconds."""
    entries = {entry.name: entry for entry in storage.list(uri)}
    found = []
    for name, claim in entries.items():
        folder, _, file = f"/{name}".rpartition("/")
        folder = folder.removeprefix("/")
        in_reserved = f"/{folder}".endswith(f"/{CHECKPOINTS}")
        if file != CLAIM or (
            not in_reserved and (RESERVED in folder.split("/") or _inside(folder, MANIFEST) in entries)
        ):
            continue
        output = folder.removesuffix(CHECKPOINTS).rstrip("/") if in_reserved else folder
        place = storage.join(uri, output) if output else uri
        owner, _ = _claim(storage, place, in_reserved=in_reserved).read()
        if owner is None:
            continue
        prefix = _inside(output, f"{RESERVED}/" if in_reserved else "")
        own = [entries[each] for each in entries if each.startswith(prefix) and each != name]
        if not in_reserved:
            own = _without_other_outputs(own, prefix, entries)
        work = Unfinished(uri=place, owner=owner, in_reserved=in_reserved, entries=tuple(own))
        found.append((work, max(entry.modified for entry in (*own, claim))))
    return found


def leftovers(
    found: Iterable[tuple[Unfinished, float]],
    *,
    namespace: str | None,
    job_uids: Collection[str],
    before: float,
) -> list[Unfinished]:
    """Those whose job object is gone and that were last written to before that time. Pure.

    `namespace`: only of jobs there; None: of any. What `kubooth run` has left belongs to no object, and stays.
    """
    return [
        work
        for work, written in found
        if work.owner.uid is not None
        and work.owner.uid not in job_uids
        and namespace in (None, work.owner.namespace)
        and written < before
    ]


def clear(storage: Storage, work: Unfinished) -> bool:
    """Deletes it, the claim last. False where somebody has taken the place over since: then nothing is deleted."""
    claim = _claim(storage, work.uri, in_reserved=work.in_reserved)
    owner, version = claim.read()
    if owner != work.owner or version is None:
        return False
    if work.in_reserved:
        storage.clear_unfinished(storage.join(work.uri, RESERVED))
        storage.delete(entry.uri for entry in work.entries if f"/{CHECKPOINTS}/" not in entry.uri)
        delete_checkpoints(claim)
        return True
    storage.clear_unfinished(work.uri)
    try:
        for entry in work.entries:
            storage.delete_version(entry.uri, entry.version)
    except PreconditionFailedError:  # written meanwhile: by a successor, whose it is now
        return False
    with suppress(PreconditionFailedError):
        storage.delete_version(claim.location, version)
    return True


def _claim(storage: Storage, output: str, *, in_reserved: bool) -> Claim:
    nobody = Identity(name="", namespace="", uid=None, attempt=0, digest="")
    unread = Claim(storage=storage, uri=storage.join(output, CHECKPOINTS) if in_reserved else output, identity=nobody)
    return Claim(storage=storage, uri=unread.uri, identity=unread.read()[0] or nobody)


def _without_other_outputs(own: list[Entry], prefix: str, entries: Collection[str]) -> list[Entry]:
    """Without what is reserved, and without outputs of others that lie below this one."""
    others = tuple(
        f"{folder}/"
        for name in entries
        for folder, _, file in [name.rpartition("/")]
        if file in (CLAIM, MANIFEST) and len(folder) >= len(prefix) and folder
    )
    return [
        entry
        for entry in own
        if not entry.name.startswith(others) and RESERVED not in entry.name.removeprefix(prefix).split("/")
    ]


def _inside(folder: str, name: str) -> str:
    return f"{folder}/{name}" if folder else name
