"""Makes snapshots of the training state whole in storage, beside the training. On rank 0 alone."""

from __future__ import annotations

import json
import shutil
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import torch

from kubooth_trainer.checkpoint_claim import require_claim
from kubooth_trainer.checkpoint_layout import (
    FORMAT_VERSION,
    MANIFEST,
    folder_of,
    whole_checkpoints,
    write_tensors,
)
from kubooth_trainer.claim import Claim
from kubooth_trainer.config import CheckpointConfig
from kubooth_trainer.engine import Sharding
from kubooth_trainer.errors import StoppedError
from kubooth_trainer.progress import transfer
from kubooth_trainer.storage import PreconditionFailedError, Upload


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """The state after `step` steps, in memory: kind ("weights", ...) -> name, mostly a parameter's -> CPU tensor."""

    step: int
    tensors: dict[str, dict[str, torch.Tensor]]
    history: list[dict[str, Any]]
    sharding: Sharding | None  # that the state is tied to


@dataclass(frozen=True)
class Saved:
    """A checkpoint that is whole."""

    uri: str
    step: int
    time: float  # Unix seconds


class CheckpointWriter:
    """One snapshot at a time. Not for several threads: training calls it, its own thread writes."""

    def __init__(
        self, claim: Claim, config: CheckpointConfig, *, identity: str, scratch: Path, moved: Callable[[], None]
    ) -> None:
        """`moved` is told of work on this rank, from the writing thread."""
        self._claim = claim
        self._storage = claim.storage
        self._config = config
        self._identity = identity
        self._scratch = scratch
        self._moved = moved
        self.kept_step: int | None = None  # of a checkpoint that stays although it is not among the newest
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None
        self._saved: SimpleQueue[Saved] = SimpleQueue()

    def start(self, snapshot: Snapshot) -> None:
        """Begins to write; what was begun before must have been waited for."""
        assert self._thread is None
        self._thread = threading.Thread(target=self._run, args=(snapshot,), name="checkpoint")
        self._thread.start()

    def wait(self) -> None:
        """Until nothing is being written. Raises what went wrong, once."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        self.raise_error()

    def raise_error(self) -> None:
        """Raises what went wrong, once."""
        error, self._error = self._error, None
        if error is not None:
            raise error

    def take_saved(self) -> list[Saved]:
        """What has become whole since the last call."""
        return [self._saved.get() for _ in range(self._saved.qsize())]

    def _run(self, snapshot: Snapshot) -> None:
        try:
            self._saved.put(self._write(snapshot))
        except BaseException as error:  # noqa: BLE001 - for `raise_error`, in the thread that trains
            self._error = error

    def _write(self, snapshot: Snapshot) -> Saved:
        step = snapshot.step
        uri = self._storage.join(self._config.uri, folder_of(self._claim.identity.attempt, step))
        folder = self._storage.local_path(uri) or self._scratch / f"step-{step:06d}"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        files = []
        for kind, tensors in snapshot.tensors.items():
            files.append(write_tensors(folder / f"{kind}.safetensors", tensors))
            self._moved()
        saved = Saved(uri=uri, step=step, time=time.time())
        manifest = {
            "format": FORMAT_VERSION,
            "step": step,
            "identity": self._identity,
            "attempt": self._claim.identity.attempt,
            "time": saved.time,
            "history": snapshot.history,
            "files": files,
            **({"sharding": asdict(snapshot.sharding)} if snapshot.sharding else {}),
        }
        self._publish(folder, uri, files, json.dumps(manifest, indent=1).encode())
        self._drop_old()
        return saved

    def _publish(self, folder: Path, uri: str, files: list[dict[str, Any]], manifest: bytes) -> None:
        location = self._storage.join(uri, MANIFEST)
        # An earlier start of this attempt may have been here: what it left does not count from now on.
        before = self._storage.read_versioned(location)[1] if self._storage.exists(location) else None
        if self._storage.local_path(uri) is None:
            uploads = [
                Upload(path=folder / entry["name"], uri=self._storage.join(uri, entry["name"])) for entry in files
            ]
            self._storage.upload_all(uploads, on_progress=transfer(self._moved))
        require_claim(self._claim)
        try:
            self._storage.write_bytes(location, manifest, if_absent=before is None, if_version=before)
        except PreconditionFailedError as error:
            raise StoppedError(f"superseded: another process writes to {uri}") from error
        try:
            require_claim(self._claim)
        except StoppedError:  # overtaken between the two requests
            self._storage.delete([location])
            raise
        if self._storage.local_path(uri) is None:
            shutil.rmtree(folder, ignore_errors=True)

    def _drop_old(self) -> None:
        for step, name in whole_checkpoints(self._storage, self._config.uri)[self._config.keep :]:
            if step == self.kept_step:
                continue
            uri = self._storage.join(self._config.uri, name)
            require_claim(self._claim)
            self._storage.delete([self._storage.join(uri, MANIFEST)])
            self._storage.delete_tree(uri)
