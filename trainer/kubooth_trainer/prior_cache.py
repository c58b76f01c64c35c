"""The prior cache from a job's side: class images that other jobs have made, and those that others will find.

Used by rank 0 alone, from `prior`. The cache is an accelerator: whatever goes wrong with it becomes one warning and
the job goes on without it. Nothing in it is trusted without its digest, and nothing depends on a claim: claims only
keep two jobs from making the same batch at the same time. An image is written whole, and only where there is none.
"""

from __future__ import annotations

import json
import threading
import time
import uuid
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from kubooth_trainer.config import StorageConfig
from kubooth_trainer.errors import KuboothError
from kubooth_trainer.prior_claims import Lease, OthersClaims
from kubooth_trainer.prior_entry import (
    ABOUT,
    MOST_BYTES,
    NAME,
    ClassImage,
    EntryError,
    claim_name,
    image_name,
    pack,
    unpack,
)
from kubooth_trainer.storage import Entry, Patience, PreconditionFailedError, Storage, join

AT_ONCE = 8  # requests
TOUCH_SECONDS = 3600.0  # how old `prior.json` may get while the prior is in use
BRIEF = Patience(attempts=3, retry_seconds=5, connect_seconds=3, read_seconds=15)


def open_storage(config: StorageConfig) -> Storage:
    """Storage that gives up soon: making the images is always possible."""
    return Storage(config, BRIEF)


class PriorCache:
    """One prior (`key`) in the cache at `uri`."""

    def __init__(
        self, storage: Storage, uri: str, *, key: str, resolution: int, warn: Callable[[str], None],
        lease: Lease | None = None,
    ) -> None:  # fmt: skip
        """`warn` gets at most one sentence about reading and one about writing, and one about damaged images."""
        self._storage = storage
        self._uri = uri
        self._key = key
        self._resolution = resolution
        self._warn = warn
        self._lease = lease or Lease()
        self._owner = uuid.uuid4().hex
        self._reads = self._writes = True
        self._damaged: set[tuple[int, str]] = set()  # index and version
        self._listed: dict[str, Entry] = {}
        self._others = OthersClaims(self._lease)
        self._held: dict[int, int] = {}  # batch: times renewed
        self._lock = threading.Lock()  # of `_held`, and while claims are written or deleted
        self._telling = threading.Lock()  # of what is still untold, and whether the cache is in use
        self._untold: list[str] = []
        self._closing = threading.Event()
        self._pool = ThreadPoolExecutor(AT_ONCE, thread_name_prefix="prior-cache")
        self._storing: list[Future[None]] = []
        threading.Thread(target=self._renew, name="prior-claims", daemon=True).start()

    def look(self) -> None:
        """Sees what is there now."""
        self._tell()
        entries: list[Entry] = []
        if self._reads:
            try:
                entries = self._storage.list(join(self._uri, self._key))
            except KuboothError as error:
                self._stop_reading(error)
        self._tell()
        self._listed = {entry.name: entry for entry in entries}
        self._others.see(
            {
                int(name[6:11]): entry.version
                for name, entry in self._listed.items()
                if name.startswith("claim-") and NAME.fullmatch(f"{self._key}/{name}")
            }
        )

    def has(self, indices: Sequence[int]) -> bool:
        """Whether all these images were there at the last look."""
        return self._reads and all(self._entry(index) is not None for index in indices)

    def take(self, indices: Sequence[int], keep: Callable[[int, ClassImage], None], moved: Callable[[], None]) -> float:
        """Reads those of the images that are there, and hands each one to `keep`. Returns seconds they cost.

        Damaged ones are removed from the cache. `keep` and `moved` are called from this thread.
        """
        seconds = 0.0
        found = [(index, entry) for index in indices if (entry := self._entry(index)) is not None]
        for start in range(0, len(found), AT_ONCE):
            group = found[start : start + AT_ONCE]
            for (index, _), image in zip(group, self._pool.map(self._read, group), strict=True):
                if image is not None:
                    keep(index, image)
                    seconds += image.seconds
            moved()
        return seconds

    def claim(self, batch: int) -> bool:
        """Whether this job should make the batch; False while another one is at it."""
        if not (self._reads and self._writes):
            return True
        with self._lock:
            if batch in self._held:
                return True
            if self._others.binds(batch):
                return False
            version = self._others.version(batch)
            try:
                self._storage.write_bytes(
                    self._at(claim_name(batch)),
                    self._claim_text(0),
                    if_absent=version is None,
                    if_version=version,
                )
            except PreconditionFailedError:
                return False
            except KuboothError as error:
                self._stop_writing(error)
                return True
            self._others.forget(batch)
            self._held[batch] = 0
            return True

    def release(self, batch: int) -> None:
        """Gives a claim back."""
        with self._lock:
            if self._held.pop(batch, None) is not None and self._writes:
                try:
                    self._storage.delete([self._at(claim_name(batch))])
                except KuboothError as error:
                    self._stop_writing(error)

    def store(self, batch: int, images: dict[int, ClassImage]) -> None:
        """Writes the images of a batch in the background, then gives its claim back."""

        def write(index: int, image: ClassImage) -> None:
            if not self._writes:
                return
            try:
                data = pack(image, key=self._key, index=index)
                self._storage.write_bytes(self._at(image_name(index)), data, if_absent=True)
            except PreconditionFailedError:
                pass  # somebody else's, made of the same numbers
            except KuboothError as error:
                self._stop_writing(error)

        def store_all() -> None:
            for index, image in images.items():
                write(index, image)
            self.release(batch)

        self._storing = [future for future in self._storing if not future.done()]
        self._storing.append(self._pool.submit(store_all))

    def wait(self) -> None:
        """A pause before the next look, while others are at work."""
        self._closing.wait(self._lease.poll_seconds)

    def close(self, about: dict[str, Any] | None = None) -> None:
        """Ends: what was stored is there, claims are given back. `about` says in the cache what the key stands for."""
        try:
            for future in self._storing:
                future.result()
        finally:
            self._closing.set()
            for batch in list(self._held):
                self.release(batch)
            if about is not None:
                self._touch(about)
            self._pool.shutdown(wait=True)
        if self._damaged:
            self._untold.append(
                f"prior cache {self._uri}: {len(self._damaged)} damaged class images were dropped and made again"
            )
        self._tell()

    def _read(self, found: tuple[int, Entry]) -> ClassImage | None:
        index, entry = found
        if not self._reads:
            return None
        try:
            data = self._storage.read_bytes(entry.uri)
        except KuboothError as error:
            if self._is_gone(entry):
                return None
            self._stop_reading(error)
            return None
        try:
            return unpack(data, key=self._key, index=index, resolution=self._resolution)
        except EntryError:
            self._drop(index, entry)
            return None

    def _is_gone(self, entry: Entry) -> bool:
        """Whether somebody has cleared it away since the listing."""
        try:
            return not self._storage.exists(entry.uri)
        except KuboothError:
            return False

    def _drop(self, index: int, entry: Entry) -> None:
        """Removes a damaged image as it was listed, never a good one that took its place."""
        self._damaged.add((index, entry.version))
        try:
            self._storage.delete_version(entry.uri, entry.version)
        except PreconditionFailedError:
            pass
        except KuboothError as error:
            self._stop_writing(error)

    def _entry(self, index: int) -> Entry | None:
        entry = self._listed.get(image_name(index))
        usable = entry is not None and entry.size <= MOST_BYTES and (index, entry.version) not in self._damaged
        return entry if usable else None

    def _renew(self) -> None:
        while not self._closing.wait(self._lease.seconds / 4):
            with self._lock:
                for batch in self._held:
                    if self._writes:
                        self._held[batch] += 1
                        try:
                            text = self._claim_text(self._held[batch])
                            self._storage.write_bytes(self._at(claim_name(batch)), text)
                        except KuboothError as error:
                            self._stop_writing(error)

    def _claim_text(self, renewed: int) -> bytes:
        return json.dumps({"owner": self._owner, "renewed": renewed}).encode()

    def _touch(self, about: dict[str, Any]) -> None:
        entry = self._listed.get(ABOUT)
        if self._writes and (entry is None or time.time() - entry.modified > TOUCH_SECONDS):
            try:
                self._storage.write_bytes(self._at(ABOUT), json.dumps(about, indent=1).encode())
            except KuboothError:
                return  # a cache that is only read from is fine

    def _stop_reading(self, error: KuboothError) -> None:
        with self._telling:
            if self._reads:
                self._reads = self._writes = False
                self._untold.append(f"the prior cache is not used, class images are made for this job alone: {error}")

    def _stop_writing(self, error: KuboothError) -> None:
        with self._telling:
            if self._writes:
                self._writes = False
                self._untold.append(f"class images of this job are not kept in the prior cache: {error}")

    def _tell(self) -> None:
        """Says what threads have met, from the thread that owns this object."""
        with self._telling:
            sentences, self._untold = self._untold, []
        for sentence in sentences:
            self._warn(sentence)

    def _at(self, name: str) -> str:
        return join(self._uri, f"{self._key}/{name}")
