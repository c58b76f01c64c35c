"""Base models and encoders kept near the pods, so that the next job on a node does not download them again.

Used by `acquire`, by the first rank of a node. An entry is a folder named after what its URI held (names, sizes,
versions): a model that changes there becomes another entry, and a job goes on reading what it began with. Who fills
an entry holds its lock alone, who uses it shares the lock until the process ends; what nobody uses makes room, the
longest unused first. The listing is made with the job's own credentials, so nobody reads here what he may not list.

The cache is an accelerator: where it cannot be used, one warning says so and the job downloads for itself.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Literal

from kubooth_trainer.config import ModelCacheConfig
from kubooth_trainer.errors import DiskFullError
from kubooth_trainer.storage import Entry, Progress, Storage

POLL_SECONDS = 0.2
_PART = ".part"

Found = Literal["Hit", "Filled"]


class ModelCache:
    """The cache in one folder of this node, or of a volume that several nodes share."""

    def __init__(
        self,
        config: ModelCacheConfig,
        storage: Storage,
        *,
        warn: Callable[[str], None],
        moved: Callable[[], None] = lambda: None,
    ) -> None:
        """`moved` is called again and again while another job fills what this one waits for; it may raise."""
        self._root = Path(config.path)
        self._max_bytes = config.max_bytes
        self._storage = storage
        self._warn = warn
        self._moved = moved
        self._held: list[int] = []  # descriptors of locks that are shared

    def fetch(self, uri: str, names: Collection[str], on_progress: Progress | None = None) -> tuple[Path, Found] | None:
        """The folder with the files `names` of `uri`; None, after a warning, where the cache cannot hold them.

        Raises a storage error where `uri` cannot be read.
        """
        entries = [entry for entry in self._storage.list(uri) if entry.name in names]
        size = sum(entry.size for entry in entries)
        if size > self._max_bytes:
            self._unused(f"{uri} has {size} bytes, more than modelCache.maxSize, {self._max_bytes}")
            return None
        folder = self._root / _key(uri, entries)
        try:
            self._root.mkdir(parents=True, exist_ok=True)
            while True:
                with self._locked(folder) as descriptor:
                    found = self._fill(uri, names, folder, size, on_progress)
                    if found is None:
                        self._unused(f"{self._root} is full of models that jobs are using")
                        return None
                    # From alone to shared is not one step: another job may have made room in between.
                    fcntl.flock(descriptor, fcntl.LOCK_SH)
                    if folder.is_dir():
                        self._held.append(os.dup(descriptor))
                        return folder, found
        except DiskFullError:
            shutil.rmtree(_part(folder), ignore_errors=True)
            self._unused(f"no room left in {self._root}")
        except OSError as error:
            self._unused(f"{error.filename or self._root}: {error.strerror or error}")
        return None

    def close(self) -> None:
        """Others may make room of what this job used."""
        while self._held:
            os.close(self._held.pop())

    def _unused(self, why: str) -> None:
        self._warn(f"the model cache is not used: {why}")

    @contextmanager
    def _locked(self, folder: Path) -> Iterator[int]:
        """A descriptor that holds the entry's lock: alone, or shared where the entry is whole and in use."""
        descriptor = _open_lock(folder)
        try:
            while not _try_lock(descriptor):
                if folder.is_dir():
                    fcntl.flock(descriptor, fcntl.LOCK_SH)
                    break
                self._moved()
                time.sleep(POLL_SECONDS)
            yield descriptor
        finally:
            os.close(descriptor)

    def _fill(
        self, uri: str, names: Collection[str], folder: Path, size: int, on_progress: Progress | None
    ) -> Found | None:
        """Makes the entry whole, marks it as used; None where there is no room for it."""
        found: Found = "Hit"
        if folder.is_dir():
            self._storage.fetch_tree(uri, folder, names=names, on_progress=on_progress)  # what was damaged, anew
        else:
            if not self._make_room(size, but=folder):
                return None
            self._storage.fetch_tree(uri, _part(folder), names=names, on_progress=on_progress)
            _part(folder).rename(folder)
            found = "Filled"
        os.utime(folder)
        return found

    def _make_room(self, size: int, *, but: Path) -> bool:
        """Removes the longest unused entries until `size` more bytes fit."""
        entries = sorted(self._entries(but), key=lambda entry: entry[1])
        used = sum(entry_size for _, _, entry_size in entries)
        for folder, _, entry_size in entries:
            if used + size <= self._max_bytes:
                break
            if self._remove(folder):
                used -= entry_size
        return used + size <= self._max_bytes

    def _entries(self, but: Path) -> Iterator[tuple[Path, float, int]]:
        """(folder, time of last use, bytes) of all entries, begun ones too."""
        for path in self._root.iterdir():
            if path in (but, _part(but)) or not path.is_dir():
                continue
            with suppress(OSError):  # gone meanwhile
                size = sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
                yield path, path.stat().st_mtime, size

    def _remove(self, folder: Path) -> bool:
        """Removes an entry that nobody uses or fills."""
        entry = folder.with_name(folder.name.removesuffix(_PART))
        descriptor = _open_lock(entry)
        try:
            if not _try_lock(descriptor):
                return False
            shutil.rmtree(folder)
            return True
        finally:
            os.close(descriptor)


def _key(uri: str, entries: list[Entry]) -> str:
    held = [uri.rstrip("/"), sorted((entry.name, entry.size, entry.version) for entry in entries)]
    return hashlib.sha256(json.dumps(held).encode()).hexdigest()[:32]


def _part(folder: Path) -> Path:
    return folder.with_name(folder.name + _PART)


def _open_lock(folder: Path) -> int:
    return os.open(folder.with_name(f"{folder.name}.lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)


def _try_lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
