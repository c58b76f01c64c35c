"""Makes snapshots of the training state whole in storage, beside the training. On rank 0 alone."""

from __future__ import annotations

import json
import shutil
import threading
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import torch

from kubooth_trainer.checkpoint_claim import require_claim
from kubooth_trainer.checkpoint_layout import (
    DIGEST,
    FORMAT_VERSION,
    MANIFEST,
    copy_folder,
    drop_copies,
    folder_of,
    manifest_digest,
    whole_checkpoints,
    write_tensors,
)
from kubooth_trainer.claim import Claim
from kubooth_trainer.config import CheckpointConfig
from kubooth_trainer.engine import Sharding
from kubooth_trainer.errors import OutputExistsError, StoppedError, StorageDeniedError, StorageUnavailableError
from kubooth_trainer.outcome import telling_of_writing
from kubooth_trainer.progress import transfer
from kubooth_trainer.storage import PreconditionFailedError, Upload

PATIENCE = 300.0  # seconds for which storage is asked again that has taken no file since it was unavailable
PAUSE = 5.0  # seconds between


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """The state after `step` steps, in memory: kind ("weights", ...) -> name, mostly a parameter's -> CPU tensor."""

    step: int
    tensors: dict[str, dict[str, torch.Tensor]]
    history: list[dict[str, Any]]
    sharding: Sharding | None  # that the state is tied to
    is_read_next: bool  # by what follows, or the next start: this machine keeps its copy of it


@dataclass(frozen=True)
class Saved:
    """A checkpoint that is whole."""

    uri: str
    step: int
    time: float  # Unix seconds
    trouble: str | None = None  # storage's last failure, where it took the checkpoint only when asked again


class CheckpointWriter:
    """One snapshot at a time. Not for several threads: training calls it, its own thread writes.

    While storage is unavailable the snapshot is kept and offered again, for `PATIENCE` seconds: training goes on
    meanwhile, and needs no restart because of a bucket that was away for a while.
    """

    def __init__(
        self, claim: Claim, config: CheckpointConfig, *, identity: str, precision: str, scratch: Path,
        moved: Callable[[], None],
    ) -> None:  # fmt: skip
        """`moved` is told of work on this rank, from the writing thread."""
        self._claim = claim
        self._storage = claim.storage
        self._config = config
        self._identity = identity
        self._precision = precision
        self._scratch = scratch
        self._moved = moved
        self.kept_step: int | None = None  # of a checkpoint that stays although it is not among the newest
        self._own: dict[tuple[int, int], bool] = {}  # (step, attempt) of a checkpoint: whether it is of this identity
        self._thread: threading.Thread | None = None
        self._hurry = threading.Event()
        self._trouble: str | None = None
        self._away_since: float | None = None
        self._error: BaseException | None = None
        self._saved: SimpleQueue[Saved] = SimpleQueue()

    def start(self, snapshot: Snapshot) -> None:
        """Begins to write; what was begun before must have been waited for."""
        assert self._thread is None
        self._hurry.clear()
        self._trouble = None
        self._away_since = None
        self._thread = threading.Thread(target=self._run, args=(snapshot,), name="checkpoint")
        self._thread.start()

    def wait(self, *, seconds: float | None = None) -> bool:
        """Until nothing is being written, or so long; whether nothing is. Raises what went wrong, once."""
        if self._thread is not None:
            self._thread.join(seconds)
            if self._thread.is_alive():
                return False
            self._thread = None
        self.raise_error()
        return True

    def hurry(self) -> None:
        """What storage does not take now is not offered again."""
        self._hurry.set()

    def raise_error(self) -> None:
        """Raises what went wrong, once."""
        error, self._error = self._error, None
        if error is not None:
            try:
                raise error
            finally:
                del error  # which would hold on to itself by its traceback

    def take_saved(self) -> list[Saved]:
        """What has become whole since the last call."""
        return [self._saved.get() for _ in range(self._saved.qsize())]

    def _run(self, snapshot: Snapshot) -> None:
        try:
            with telling_of_writing():
                self._saved.put(self._write(snapshot))
        except BaseException as error:  # noqa: BLE001 - for `raise_error`, in the thread that trains
            traceback.clear_frames(error.__traceback__)
            self._error = error
        finally:
            del snapshot  # which the traceback of an error would hold on to

    def _write(self, snapshot: Snapshot) -> Saved:
        step = snapshot.step
        uri = self._storage.join(self._config.uri, folder_of(self._claim.identity.attempt, step))
        if self._storage.local_path(uri) is not None:
            require_claim(self._claim)  # before a folder is emptied: a successor may have written this one
        folder = self._storage.local_path(uri) or self._scratch / f"step-{step:06d}"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        try:
            saved = self._make_whole(uri, folder, snapshot)
        except BaseException:
            if self._storage.local_path(uri) is None:
                shutil.rmtree(folder, ignore_errors=True)
            raise
        if self._storage.local_path(uri) is None:
            self._put_away(folder, snapshot)
        self._own[step, self._claim.identity.attempt] = True
        with suppress(StorageUnavailableError):  # the next one drops them
            self._drop_old(step)
        return replace(saved, trouble=self._trouble)

    def _make_whole(self, uri: str, folder: Path, snapshot: Snapshot) -> Saved:
        files = []
        try:
            for kind, tensors in snapshot.tensors.items():
                files.append(write_tensors(folder / f"{kind}.safetensors", tensors))
                self._moved()
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)  # of no use, and a full disk needs the room
            raise
        saved = Saved(uri=uri, step=snapshot.step, time=time.time())
        manifest: dict[str, Any] = {
            "format": FORMAT_VERSION,
            "step": snapshot.step,
            "identity": self._identity,
            "config": self._claim.identity.digest,
            "precision": self._precision,
            "attempt": self._claim.identity.attempt,
            "time": saved.time,
            "history": snapshot.history,
            "files": files,
            **({"sharding": asdict(snapshot.sharding)} if snapshot.sharding else {}),
        }
        content = json.dumps({**manifest, DIGEST: manifest_digest(manifest)}, indent=1).encode()
        self._until_taken(uri, folder, files, content)
        return saved

    def _until_taken(self, uri: str, folder: Path, files: list[dict[str, Any]], manifest: bytes) -> None:
        """Publishes, and again what is missing while storage is unavailable."""
        sent: set[str] = set()
        while True:
            try:
                return self._publish(uri, folder, files, manifest, sent)
            except StorageUnavailableError as error:
                now = time.monotonic()
                self._away_since = self._away_since or now
                if now - self._away_since >= PATIENCE or self._hurry.wait(PAUSE):
                    raise
                self._trouble = str(error)
            self._moved()  # for so long that is no standstill

    def _put_away(self, folder: Path, snapshot: Snapshot) -> None:
        """The copy on this machine, once storage has it."""
        if not snapshot.is_read_next:
            shutil.rmtree(folder, ignore_errors=True)
            return
        drop_copies(self._scratch)
        folder.rename(copy_folder(self._scratch, snapshot.step))

    def _publish(self, uri: str, folder: Path, files: list[dict[str, Any]], manifest: bytes, sent: set[str]) -> None:
        """Makes it whole, sending what is not among `sent` yet. It may be repeated at any point."""
        location = self._storage.join(uri, MANIFEST)
        require_claim(self._claim)  # before a file is overwritten that a successor may have written
        # An earlier start of this attempt may have been here: what it left does not count from now on.
        before = self._storage.read_versioned(location)[1] if self._storage.exists(location) else None
        if self._storage.local_path(uri) is None:
            for name in [entry["name"] for entry in files if entry["name"] not in sent]:
                upload = Upload(path=folder / name, uri=self._storage.join(uri, name))
                self._storage.upload_all([upload], on_progress=transfer(self._moved))
                sent.add(name)
                self._away_since = None
        require_claim(self._claim)
        try:
            self._storage.write_bytes(location, manifest, if_absent=before is None, if_version=before)
        except PreconditionFailedError as error:
            require_claim(self._claim)
            # No successor's: a request of ours was taken for lost, and came after all.
            if not (self._storage.exists(location) and self._storage.read_bytes(location) == manifest):
                raise StorageUnavailableError(f"{location}: changed while it was written") from error
        try:
            require_claim(self._claim)
        except (StoppedError, OutputExistsError):  # overtaken between the two requests
            self._storage.delete([location])
            raise

    def _drop_old(self, newest: int) -> None:
        """All but so many up to step `newest`. Those of this identity only: what another left may be newer by its
        steps, and is of no use here; nor is what is newer than training, which has found it damaged."""
        found = [each for each in whole_checkpoints(self._storage, self._config.uri) if self._is_own(*each)]
        for step, attempt in [each for each in found if each[0] <= newest][self._config.keep :]:
            if step == self.kept_step:
                continue
            uri = self._storage.join(self._config.uri, folder_of(attempt, step))
            require_claim(self._claim)
            self._storage.delete([self._storage.join(uri, MANIFEST)])
            self._storage.delete_tree(uri)

    def _is_own(self, step: int, attempt: int) -> bool:
        if (step, attempt) not in self._own:
            location = self._storage.join(self._config.uri, f"{folder_of(attempt, step)}/{MANIFEST}")
            try:
                identity = json.loads(self._storage.read_bytes(location))["identity"]
            except (ValueError, KeyError, TypeError, StorageDeniedError):  # unreadable, or gone since it was listed
                identity = None
            self._own[step, attempt] = identity == self._identity
        return self._own[step, attempt]
