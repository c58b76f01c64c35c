"""The checkpoints of a job, as the training sees them: taken on all ranks, written by rank 0 in the background, found
again at a restart. `checkpoint_layout` says how they lie in storage.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from contextlib import ExitStack, suppress
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open

from kubooth_trainer.checkpoint_layout import (
    DIGEST,
    FORMAT_VERSION,
    MANIFEST,
    copy_folder,
    drop_copies,
    folder_of,
    manifest_digest,
    verify,
    whole_checkpoints,
)
from kubooth_trainer.checkpoint_writer import CheckpointWriter, Saved, Snapshot
from kubooth_trainer.claim import Claim
from kubooth_trainer.config import CheckpointConfig
from kubooth_trainer.distributed import World
from kubooth_trainer.ema import Ema
from kubooth_trainer.engine import EngineState, Sharding
from kubooth_trainer.errors import NumericalError, StorageDeniedError, StorageUnavailableError
from kubooth_trainer.progress import ProgressEvent, transfer

PRECISIONS = ("FP32", "BF16")
BRIEFLY = 3.0  # seconds that training waits, once, for a checkpoint to become whole when the next is due


@dataclass(frozen=True)
class Checkpoint:
    """A whole checkpoint on this machine: a verified folder."""

    step: int
    folder: Path
    uri: str
    time: float  # Unix seconds, when it was whole
    history: list[dict[str, Any]]
    sharding: Sharding | None  # that it is tied to; None: an engine of any world size and stage takes it

    def tensors(self, kind: str) -> dict[str, torch.Tensor]:
        """All tensors of one kind: "weights", "ema", those of `EngineState.kinds`."""
        with self._open(kind) as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping

    @property
    def progress(self) -> list[ProgressEvent]:
        """What was told of the training up to here; a later release may have told more."""
        known = {field.name for field in fields(ProgressEvent)}
        return [ProgressEvent(**{name: row[name] for name in row if name in known}) for row in self.history]

    @property
    def has_ema(self) -> bool:
        return (self.folder / "ema.safetensors").exists()

    def restore(self, state: EngineState, ema: Ema | None) -> None:
        """Puts the state into an engine, where `sharding` lets it. Collective."""
        kinds = ["weights", *state.kinds] + (["ema"] if ema is not None else [])
        with ExitStack() as stack:
            files = {kind: stack.enter_context(self._open(kind)) for kind in kinds}
            if ema is not None:
                ema.restore(files["ema"].get_tensor)
            state.restore(step=self.step, read=lambda kind, name: files[kind].get_tensor(name))

    def _open(self, kind: str) -> Any:
        return safe_open(self.folder / f"{kind}.safetensors", framework="pt")


def _on_host(value: torch.Tensor) -> torch.Tensor:
    """A copy on the CPU, contiguous."""
    return torch.empty(value.shape, dtype=value.dtype).copy_(value)


def _is_finite(value: torch.Tensor) -> bool:
    """In one pass, a third of the time of `isfinite`: both ends of the range are NaN where a number is."""
    return value.numel() == 0 or all(bool(end.isfinite()) for end in torch.aminmax(value))


def _checkpoint(folder: Path, uri: str, manifest: dict[str, Any]) -> Checkpoint:
    sharding = manifest.get("sharding")
    return Checkpoint(
        step=manifest["step"],
        folder=folder,
        uri=uri,
        time=manifest["time"],
        history=manifest["history"],
        sharding=Sharding(**sharding) if sharding else None,
    )


def _is_sound(manifest: dict[str, Any], step: int) -> bool:
    """Whether it is as it was written, for the folder of that step."""
    try:
        read = _checkpoint(Path(), "", manifest)
        return (
            manifest.get(DIGEST) in (None, manifest_digest(manifest))
            and read.step == step
            and all({"name", "size", "sha256"} <= entry.keys() for entry in manifest["files"])
            and all(isinstance(event.step, int) for event in read.progress)
        )
    except (KeyError, TypeError, AttributeError):
        return False


def precision_before(claim: Claim, world: World) -> str | None:
    """What this very configuration was trained in up to its newest checkpoint; None where none says so. Collective."""
    found = 0
    if world.is_main:
        for step, attempt in whole_checkpoints(claim.storage, claim.uri):
            location = claim.storage.join(claim.uri, f"{folder_of(attempt, step)}/{MANIFEST}")
            with suppress(StorageDeniedError, ValueError, KeyError, TypeError):  # gone, or none that can be read
                manifest = json.loads(claim.storage.read_bytes(location))
                if manifest["config"] == claim.identity.digest:
                    found = 1 + PRECISIONS.index(manifest["precision"])
                    break
    (found,) = world.as_main([found])
    return PRECISIONS[found - 1] if found else None


class Checkpoints:
    """The checkpoints of one job: save, find the newest whole one, keep the newest K."""

    def __init__(
        self, claim: Claim, config: CheckpointConfig, *, identity: str, precision: str, scratch: Path, world: World,
        moved: Callable[[], None],
    ) -> None:  # fmt: skip
        """`identity` ties checkpoints to one config and its inputs: others are not resumed from. `precision` is one of
        `PRECISIONS`. `moved` is told of work on this rank."""
        self._storage = claim.storage
        self._config = config
        self._identity = identity
        self._scratch = scratch
        self._world = world
        self._moved = moved
        self._passed_over: set[str] = set()
        self._grace = 0.0  # seconds that training still waits for what is being written
        self._writer = CheckpointWriter(
            claim, config, identity=identity, precision=precision, scratch=scratch, moved=moved
        )

    def save(
        self, step: int, state: EngineState, ema: Ema | None, *, history: list[dict[str, Any]], must: bool
    ) -> bool:
        """Takes a snapshot of the state after `step` steps, with the losses so far, and begins to write it.

        Collective, and short: training goes on while rank 0 writes and uploads (12 bytes a parameter of host memory
        meanwhile, 4 more with an average, 6 less with moments in 8 bits). False, and no snapshot, where the checkpoint
        before is still on its way, after `BRIEFLY` the first time: training need not wait for storage. With `must` it
        waits however long that takes, and this machine keeps a copy. Raises what went wrong with the checkpoint before,
        and NumericalError, keeping nothing, where the state is not finite.
        """
        is_free = not self._world.is_main or self._make_way(must=must)
        self._world.barrier()
        if self._world.any(not is_free):
            return False
        kinds: list[tuple[str, Callable[[], Iterable[tuple[str, torch.Tensor]]]]] = [("weights", state.weights)]
        kinds += [(kind, lambda kind=kind: state.moments(kind)) for kind in state.kinds]  # type: ignore[misc]
        if ema is not None:
            kinds.append(("ema", ema.weights))
        tensors = {
            kind: {name: _on_host(value) for name, value in collect() if self._world.is_main} for kind, collect in kinds
        }
        finite = all(_is_finite(value) for named in tensors.values() for value in named.values())
        if self._world.any(not finite):
            raise NumericalError(
                f"training.learningRate: the weights are no longer finite after step {step}; nothing of this state is "
                "kept. Lower the learning rate, or set training.maxGradNorm, and submit again"
            )
        if self._world.is_main:
            self._grace = BRIEFLY
            self._writer.start(
                Snapshot(step=step, tensors=tensors, history=history, sharding=state.sharding, is_read_next=must)
            )
        return True

    def _make_way(self, *, must: bool) -> bool:
        """Whether nothing is being written any more. Where there must be, the checkpoint before gives way to it."""
        if not must:
            seconds, self._grace = self._grace, 0.0
            return self._writer.wait(seconds=seconds)
        self._writer.hurry()
        with suppress(StorageUnavailableError):
            self._writer.wait()
        return True

    def wait(self, *, hurry: bool = False) -> None:
        """Until what was begun is whole, so that every rank finds it from here on. Collective.

        `hurry`: storage that is unavailable is not asked again.
        """
        if self._world.is_main:
            if hurry:
                self._writer.hurry()
            self._writer.wait()
        self._world.barrier()

    def end_writing(self) -> None:
        """Lets this rank finish what it writes, where training ends by an error of its own; that one counts."""
        self._writer.hurry()
        with suppress(Exception):
            self._writer.wait()

    def take_saved(self) -> list[Saved]:
        """Checkpoints that have become whole since the last call. Raises what went wrong with one."""
        self._writer.raise_error()
        return self._writer.take_saved()

    def keep_step(self, step: int) -> None:
        """Keeps what was saved after `step` steps, however many newer ones there will be; of one step at a time."""
        self._writer.kept_step = step

    def newest(self, warn: Callable[[str], None]) -> Checkpoint | None:
        """The newest whole checkpoint of this identity, on this machine; a damaged one is said and passed over.

        Collective: every rank looks at the same candidates in the same order, and all agree on each.
        """
        return self._first_good(self._list(), warn)

    def at(self, step: int, warn: Callable[[str], None]) -> Checkpoint | None:
        """The same of what was saved after exactly `step` steps. Collective."""
        return self._first_good([each for each in self._list() if each[0] == step], warn)

    def _list(self) -> list[tuple[int, int]]:
        """(step, attempt) of what is whole, as rank 0 sees it: to each rank's own look something else might be there
        for a moment, of an attempt that was cut off. Collective."""
        found = whole_checkpoints(self._storage, self._config.uri) if self._world.is_main else []
        numbers = self._world.as_main([number for pair in found for number in pair])
        return list(zip(numbers[::2], numbers[1::2], strict=True))

    def _first_good(self, found: Iterable[tuple[int, int]], warn: Callable[[str], None]) -> Checkpoint | None:
        for step, attempt in found:
            uri = self._storage.join(self._config.uri, folder_of(attempt, step))
            problem, manifest = self._judge(uri, step)
            folder = self._scratch
            if not self._world.any(manifest is None):  # else who saw it would wait for who saw it go
                assert manifest is not None
                folder = self._storage.local_path(uri) or copy_folder(self._scratch, step)
                problem = self._bring(uri, folder, manifest) if self._world.leads_node else None
                self._world.barrier()
            if not self._world.any(problem is not None):
                assert manifest is not None
                return _checkpoint(folder, uri, manifest)
            if self._world.is_main and uri not in self._passed_over:
                self._passed_over.add(uri)
                warn(f"checkpoint {uri} is not used: {problem or 'it is damaged on another node'}")
        return None

    def _judge(self, uri: str, step: int) -> tuple[str | None, dict[str, Any] | None]:
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
        if not _is_sound(manifest, step):
            return f"{MANIFEST} is corrupt", None
        if identity != self._identity:
            return "it belongs to another configuration, other photos or captions; training starts anew", None
        return None, manifest

    def _bring(self, uri: str, folder: Path, manifest: dict[str, Any]) -> str | None:
        """Makes `folder` hold it, on behalf of this node; what is wrong with it."""
        problem = verify(folder, manifest, self._moved)
        if problem is None or self._storage.local_path(uri) is not None:
            return problem
        drop_copies(self._scratch)  # this one's remains, and what was fetched before
        names = [entry["name"] for entry in manifest["files"]]
        try:
            self._storage.fetch_tree(uri, folder, names=names, on_progress=transfer(self._moved))
        except StorageDeniedError:
            if self._storage.exists(self._storage.join(uri, MANIFEST)):
                raise  # else a predecessor's last act was to delete it: found missing below
        return verify(folder, manifest, self._moved)
