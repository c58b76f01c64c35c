"""What lies in a prior cache, and what to clear away: for `kubooth cache ls` and `kubooth cache gc`.

Files that are none of the cache's are neither shown nor touched. A prior is cleared away as a whole, the one that was
not of use for longest first; a job that is reading it makes the images itself.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from kubooth_trainer.errors import KuboothError
from kubooth_trainer.prior_entry import ABOUT, NAME
from kubooth_trainer.storage import Entry, Storage, join


@dataclass
class Prior:
    """One prior in a cache."""

    scope: str  # folder below the cache's URI: "", "shared" or "namespaces/NAME"
    key: str
    entries: list[Entry] = field(default_factory=list)
    images: int = 0
    size: int = 0  # bytes of all files
    used: float = 0.0  # Unix seconds: when it was last written to, or known to be of use


def survey(storage: Storage, uri: str) -> list[Prior]:
    """All priors of a cache, the most recently used first. Raises the errors of `Storage`."""
    priors: dict[tuple[str, str], Prior] = {}
    for entry in storage.list(uri):
        found = NAME.fullmatch(entry.name)
        if found is not None:
            place = (found["scope"] or "", found["key"])
            prior = priors.setdefault(place, Prior(*place))
            prior.entries.append(entry)
            prior.images += found["index"] is not None
            prior.size += entry.size
            prior.used = max(prior.used, entry.modified)
    return sorted(priors.values(), key=lambda prior: prior.used, reverse=True)


def about(storage: Storage, uri: str, prior: Prior) -> dict[str, Any]:
    """What `prior.json` says of the key; empty where there is none that can be read."""
    folder = f"{prior.scope}/{prior.key}" if prior.scope else prior.key
    try:
        said = json.loads(storage.read_bytes(join(uri, f"{folder}/{ABOUT}")))
    except (KuboothError, ValueError):
        return {}
    return said if isinstance(said, dict) else {}


def surplus(
    priors: Sequence[Prior], *, now: float, max_age_seconds: float | None, max_bytes: int | None
) -> list[Prior]:
    """Those to clear away: not of use for longer than the age, and then the oldest until the rest fits. Pure."""
    kept = sorted(priors, key=lambda prior: prior.used, reverse=True)
    gone: list[Prior] = []
    while kept:
        oldest = kept[-1]
        too_old = max_age_seconds is not None and now - oldest.used > max_age_seconds
        too_much = max_bytes is not None and sum(prior.size for prior in kept) > max_bytes
        if not (too_old or too_much):
            break
        gone.append(kept.pop())
    return gone


def clear(storage: Storage, uri: str, priors: Sequence[Prior]) -> None:
    """Deletes their files, and what writers that were killed left on a local disk."""
    for prior in priors:
        storage.delete(entry.uri for entry in prior.entries)
    if storage.local_path(uri) is not None:
        storage.clear_unfinished(uri)
        for prior in priors:
            _remove_empty(storage, uri, prior)


def _remove_empty(storage: Storage, uri: str, prior: Prior) -> None:
    """S3 knows no folders; on a disk an empty one goes too."""
    folder = storage.local_path(uri)
    assert folder is not None
    folder = folder / prior.scope / prior.key
    if folder.is_dir() and not any(folder.iterdir()):
        folder.rmdir()
