"""Training state in safetensors: whole or absent, free of pickle, of world size and of ZeRO stage.

Layout under the job's checkpoint URI:

    attempt-1/step-000100/weights.safetensors      fp32 master weights, by parameter name
                          exp_avg.safetensors      Adam's first moment
                          exp_avg_sq.safetensors   Adam's second moment
                          ema.safetensors          where an average is kept
                          checkpoint.json          written last: step, identity, size and SHA-256 of each file

A folder without `checkpoint.json` does not exist for us. Collected on all ranks, written by rank 0.

Beside the attempts lies a claim (`kubooth-job.json`), which an attempt takes when it starts. Before anything counts
or is deleted here, the claim must still be its own: an attempt that was cut off and replaced stops instead.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file

from kubooth_trainer.claim import CLAIM, RESERVED, Claim, Identity
from kubooth_trainer.config import CheckpointConfig
from kubooth_trainer.distributed import World
from kubooth_trainer.engine import MOMENTS, Ema, EngineState
from kubooth_trainer.errors import NumericalError, StoppedError, StorageDeniedError
from kubooth_trainer.progress import transfer
from kubooth_trainer.storage import PreconditionFailedError, Upload

FORMAT_VERSION = 1
MANIFEST = "checkpoint.json"


@dataclass(frozen=True)
class Checkpoint:
    """A whole checkpoint on this machine: a verified folder."""

    step: int
    folder: Path
    uri: str
    time: float  # Unix seconds, when it was whole
    history: list[dict[str, Any]]

    def tensors(self, kind: str) -> dict[str, torch.Tensor]:
        """All tensors of one kind ("weights", "exp_avg", "exp_avg_sq", "ema")."""
        with safe_open(self.folder / f"{kind}.safetensors", framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping

    @property
    def has_ema(self) -> bool:
        return (self.folder / "ema.safetensors").exists()

    def restore(self, state: EngineState, ema: Ema | None) -> None:
        """Puts the state into an engine of any world size and stage. Collective."""
        if ema is not None:
            self._with("ema", lambda read: ema.restore(read))
        files = {kind: safe_open(self.folder / f"{kind}.safetensors", framework="pt") for kind in ("weights", *MOMENTS)}
        with files["weights"] as weights, files["exp_avg"] as first, files["exp_avg_sq"] as second:
            opened = {"weights": weights, "exp_avg": first, "exp_avg_sq": second}
            state.restore(step=self.step, read=lambda kind, name: opened[kind].get_tensor(name))

    def _with(self, kind: str, use: Callable[[Callable[[str], torch.Tensor]], None]) -> None:
        with safe_open(self.folder / f"{kind}.safetensors", framework="pt") as file:
            use(file.get_tensor)


def claim_checkpoints(claim: Claim) -> None:
    """At the start of an attempt, on rank 0. Raises StoppedError where a later attempt of this job is at work."""

    def judge(owner: Identity | None) -> None:
        if owner is not None and not claim.identity.succeeds(owner):
            raise claim.superseded(owner)

    claim.take(judge)


def require_claim(claim: Claim) -> None:
    """Raises StoppedError where somebody else has taken over, or the checkpoints are no longer wanted."""
    owner, _ = claim.read()
    if owner is None:
        raise StoppedError(f"superseded: the checkpoints in {claim.uri} were deleted by somebody else")
    if owner != claim.identity:
        raise claim.superseded(owner)


def delete_checkpoints(claim: Claim) -> None:
    """Removes every checkpoint of the job: its result stands. A successor that has begun does it itself."""
    storage, uri = claim.storage, claim.uri
    owner, version = claim.read()
    if version is None or (owner is not None and not claim.identity.succeeds(owner)):
        return
    for name in sorted({entry.name.partition("/")[0] for entry in storage.list(uri)} - {CLAIM}):
        storage.delete_tree(storage.join(uri, name))
    with suppress(PreconditionFailedError):  # taken meanwhile
        storage.delete_version(claim.location, version)
    folder = storage.local_path(uri)
    if folder is not None:
        with suppress(OSError):  # S3 knows no empty folders
            folder.rmdir()
            if folder.parent.name == RESERVED:
                folder.parent.rmdir()


class Checkpoints:
    """The checkpoints of one job: save, find the newest whole one, keep the newest K."""

    def __init__(
        self, claim: Claim, config: CheckpointConfig, *, identity: str, scratch: Path, world: World,
        moved: Callable[[], None],
    ) -> None:  # fmt: skip
        """`identity` ties checkpoints to one config and its inputs: others are not resumed from. `moved` is told of
        work on this rank."""
        self._claim = claim
        self._storage = claim.storage
        self._config = config
        self._attempt = claim.identity.attempt
        self._identity = identity
        self._scratch = scratch
        self._world = world
        self._moved = moved

    def save(self, step: int, state: EngineState, ema: Ema | None, *, history: list[dict[str, Any]]) -> str:
        """Writes the state after `step` steps, with the losses so far; returns its URI.

        Collective. Raises NumericalError, and keeps nothing, where the state is not finite.
        """
        folder = self._scratch / f"step-{step:06d}"
        uri = self._uri(f"attempt-{self._attempt}/step-{step:06d}")
        if self._world.is_main:
            local = self._storage.local_path(uri)
            folder = local if local is not None else folder
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
        files = []
        kinds: list[tuple[str, Callable[[], Iterable[tuple[str, torch.Tensor]]]]] = [("weights", state.weights)]
        kinds += [(key, lambda key=key: state.moments(key)) for key in MOMENTS]  # type: ignore[misc]
        if ema is not None:
            kinds.append(("ema", ema.weights))
        finite = True
        for kind, collect in kinds:
            tensors = {name: value for name, value in collect() if self._world.is_main}
            if self._world.is_main:
                finite = finite and all(bool(torch.isfinite(value).all()) for value in tensors.values())
                if finite:
                    files.append(_write(folder / f"{kind}.safetensors", tensors))
                    self._moved()
            self._world.barrier()  # rank 0 writes: the next collective begins for all at once
        if self._world.any(not finite):
            if self._world.is_main:
                shutil.rmtree(folder, ignore_errors=True)
            raise NumericalError(
                f"training.learningRate: the weights are no longer finite after step {step}; nothing of this state is "
                "kept. Lower the learning rate, or set training.maxGradNorm, and submit again"
            )
        if self._world.is_main:
            manifest = {
                "format": FORMAT_VERSION,
                "step": step,
                "identity": self._identity,
                "attempt": self._attempt,
                "time": time.time(),
                "history": history,
                "files": files,
            }
            self._publish(folder, uri, files, json.dumps(manifest, indent=1).encode())
            self._drop_old()
        self._world.barrier()  # so that every rank finds it from here on
        return uri

    def newest(self, warn: Callable[[str], None]) -> Checkpoint | None:
        """The newest whole checkpoint of this identity, on this machine; a damaged one is said and passed over.

        Collective: every rank looks at the same candidates in the same order, and all agree on each.
        """
        for step, name in self._manifests():
            uri = self._uri(name)
            problem, manifest = self._judge(uri)
            folder = self._scratch
            if manifest is not None:
                folder = self._fetch(uri, step, manifest)
                problem = _verify(folder, manifest)
            if not self._world.any(problem is not None):
                assert manifest is not None
                return Checkpoint(step=step, folder=folder, uri=uri, time=manifest["time"], history=manifest["history"])
            if self._world.is_main:
                warn(f"checkpoint {uri} is not used: {problem or 'it is damaged on another node'}")
        return None

    def _judge(self, uri: str) -> tuple[str | None, dict[str, Any] | None]:
        try:
            manifest = json.loads(self._storage.read_bytes(self._storage.join(uri, MANIFEST)))
            version, identity = manifest["format"], manifest["identity"]
        except StorageDeniedError:
            if self._storage.exists(self._storage.join(uri, MANIFEST)):
                raise
            return "it is gone", None
        except (ValueError, KeyError, TypeError) as error:
            return f"{MANIFEST} cannot be read ({error})", None
        if version != FORMAT_VERSION:
            return f"it has format {version}, this trainer reads format {FORMAT_VERSION}", None
        if identity != self._identity:
            return "it belongs to another configuration or other photos; training starts anew", None
        return None, manifest

    def _fetch(self, uri: str, step: int, manifest: dict[str, Any]) -> Path:
        local = self._storage.local_path(uri)
        if local is not None:
            return local
        folder = self._scratch / f"resume-{step:06d}"
        if self._world.leads_node and _verify(folder, manifest) is not None:
            shutil.rmtree(folder, ignore_errors=True)
            names = [entry["name"] for entry in manifest["files"]]
            try:
                self._storage.fetch_tree(uri, folder, names=names, on_progress=transfer(self._moved))
            except StorageDeniedError:
                if self._storage.exists(self._storage.join(uri, MANIFEST)):
                    raise  # else a predecessor's last act was to delete it: found missing below
        self._world.barrier()
        return folder

    def _manifests(self) -> list[tuple[int, str]]:
        """(step, folder name) of everything that has a manifest, newest first."""
        found = []
        for entry in self._storage.list(self._config.uri):
            parts = entry.name.split("/")
            if len(parts) == 3 and parts[2] == MANIFEST and parts[1].startswith("step-"):
                found.append((int(parts[1].removeprefix("step-")), f"{parts[0]}/{parts[1]}"))
        return sorted(found, reverse=True)

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
        for _, name in self._manifests()[self._config.keep :]:
            uri = self._uri(name)
            require_claim(self._claim)
            self._storage.delete([self._storage.join(uri, MANIFEST)])
            self._storage.delete_tree(uri)

    def _uri(self, name: str) -> str:
        return self._storage.join(self._config.uri, name)


def _write(path: Path, tensors: dict[str, torch.Tensor]) -> dict[str, Any]:
    save_file({name: value.contiguous() for name, value in tensors.items()}, path)
    with path.open("rb") as file:
        os.fsync(file.fileno())
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return {"name": path.name, "size": path.stat().st_size, "sha256": digest}


def _verify(folder: Path, manifest: dict[str, Any]) -> str | None:
    """What is wrong with a folder, or None where every file has its size and digest."""
    for entry in manifest["files"]:
        path = folder / entry["name"]
        if not path.exists():
            return f"{entry['name']} is missing"
        if path.stat().st_size != entry["size"]:
            return f"{entry['name']} is truncated"
        with path.open("rb") as file:
            if hashlib.file_digest(file, "sha256").hexdigest() != entry["sha256"]:
                return f"{entry['name']} is corrupt"
    return None
