"""The life of an output: claimed, filled, and whole once `manifest.json` stands, which is written last.

`main` calls `check_output` before any work and `publish` at the end; both may be repeated after a kill at any
instant. A claim (`kubooth-job.json`) says whose the place is and which attempt writes. Every write and delete is
conditional on what was listed just before the claim was seen to be ours: an attempt that was cut off and replaced
can therefore never change what its successor has written, however late its requests arrive.

Names below `.kubooth/` are reserved for work in progress, such as checkpoints: they are not part of an output, and
nothing here looks at them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError

from kubooth_trainer.claim import CLAIM, RESERVED, ROUNDS, Claim, Identity, Record
from kubooth_trainer.errors import OutputExistsError, StorageUnavailableError
from kubooth_trainer.storage import Entry, PreconditionFailedError, Progress, Storage, Upload, normalized
from kubooth_trainer.storage.files import os_failure

MANIFEST = "manifest.json"


class ManifestFile(Record):
    """One file of the output."""

    name: str  # relative to the output, with forward slashes
    size: int  # bytes
    sha256: str  # hex


class ManifestFields(Record):
    """What the caller knows about the result."""

    identifier: str
    seed: int
    created: str  # RFC 3339, by the caller's clock
    config: dict[str, Any]  # the whole TrainConfig as JSON
    versions: dict[str, str]
    timings: dict[str, float]  # seconds per stage, and per part of a training step
    metrics: dict[str, float] = Field(default_factory=dict)
    step: int | None = None  # after which the weights are those of the result


class Manifest(ManifestFields):
    """`manifest.json`."""

    manifest_version: int = 1
    job: Identity
    files: tuple[ManifestFile, ...]  # sorted by name; neither the claim nor the manifest itself

    @property
    def total_bytes(self) -> int:
        return sum(file.size for file in self.files)

    @property
    def sha256(self) -> str:
        """Of `manifest.json` as it is written, in hex."""
        return hashlib.sha256(self.to_json()).hexdigest()


@dataclass(frozen=True, kw_only=True)
class Destination:
    """Where a job's result goes, and on whose behalf."""

    storage: Storage
    uri: str
    identity: Identity
    overwrite: bool

    @property
    def claim(self) -> Claim:
        return Claim(storage=self.storage, uri=self.uri, identity=self.identity)


@dataclass(frozen=True)
class Absent:
    """Nothing is there."""


@dataclass(frozen=True)
class SameJobComplete:
    """This very job has published its result."""

    manifest: Manifest

    def remark(self, config: Mapping[str, Any], uri: str) -> str | None:
        """What a person who runs this config (the whole TrainConfig as JSON) again should know about it."""
        was, wanted = self.manifest.config.get("evaluation", {}), config["evaluation"]
        if all(was[name] == wanted[name] for name in was.keys() & wanted.keys()):  # others a release has brought
            return None
        return (
            f"spec.evaluation has changed since {uri} was made, which is kept as it was evaluated then. "
            "Remove it, or write to another output, to train and evaluate with the new settings."
        )


@dataclass(frozen=True)
class SameJobPartial:
    """This very job began to publish and was interrupted."""


@dataclass(frozen=True)
class Replaceable:
    """Something else is there, and `overwrite` allows to replace it."""


Existing = Absent | SameJobComplete | SameJobPartial | Replaceable


def check_output(destination: Destination) -> Existing:
    """What stands at the destination. Writes nothing. Raises OutputExistsError if it is not ours to replace."""
    storage, uri = destination.storage, destination.uri
    entries = _list(storage, uri)
    if not entries:
        return Absent()
    owner = destination.claim.read()[0] if CLAIM in entries else None
    manifest = read_manifest(storage, uri) if MANIFEST in entries else None
    if owner is None and manifest is not None:
        owner = manifest.job
    if owner is not None and owner.is_same_job(destination.identity):
        if manifest is not None and manifest.job.is_same_job(destination.identity):
            return SameJobComplete(manifest)
        return SameJobPartial()
    if destination.overwrite and next(iter(entries.values())).uri != normalized(uri):
        return Replaceable()
    raise _exists(destination, owner)


def publish(
    destination: Destination, folder: Path, *, manifest_fields: ManifestFields, on_progress: Progress | None = None
) -> Manifest:
    """Makes the destination hold exactly the files of `folder`, then the manifest. Repeat it after any failure.

    Raises OutputExistsError as `check_output` does, StoppedError when a later attempt has taken over.
    """
    check_output(destination)
    files = list(_describe(folder))
    manifest = Manifest(**manifest_fields.model_dump(), job=destination.identity, files=tuple(files))
    for _ in range(ROUNDS):
        _take_claim(destination)
        try:
            return _fill(destination, folder, manifest, on_progress)
        except PreconditionFailedError:
            continue  # somebody else wrote meanwhile: the claim says who goes on
    raise StorageUnavailableError(
        f"{destination.uri}: another process keeps writing here: stop it, then run the same job again"
    )


def read_manifest(storage: Storage, uri: str) -> Manifest | None:
    """The manifest of the output `uri`; None where there is none of ours."""
    location = storage.join(uri, MANIFEST)
    if not storage.exists(location):
        return None
    try:
        return Manifest.model_validate_json(storage.read_bytes(location))
    except ValidationError:
        return None


def verify(storage: Storage, uri: str) -> list[str]:
    """Reads a whole output and compares it with its manifest: one sentence per fault, none if it is whole."""
    manifest = read_manifest(storage, uri)
    if manifest is None:
        return [f"{uri}: there is no manifest: this is not a whole result"]
    found = _list(storage, uri)
    faults = []
    for file in manifest.files:
        entry = found.pop(file.name, None)
        if entry is None:
            faults.append(f"{storage.join(uri, file.name)}: is missing")
        elif entry.size != file.size:
            faults.append(f"{entry.uri}: has {entry.size} bytes where the manifest says {file.size}")
        elif storage.sha256(entry.uri) != file.sha256:
            faults.append(f"{entry.uri}: its content differs from the manifest's SHA-256")
    extra = sorted(found.keys() - {CLAIM, MANIFEST})
    return faults + [f"{found[name].uri}: is not in the manifest" for name in extra]


def _fill(destination: Destination, folder: Path, manifest: Manifest, on_progress: Progress | None) -> Manifest:
    """One round: look, see that the claim is still ours, then change only what was looked at."""
    storage, uri = destination.storage, destination.uri
    found = _list(storage, uri)
    standing = read_manifest(storage, uri) if MANIFEST in found else None
    _require_claim(destination)

    if standing and standing.files == manifest.files and standing.job.is_same_job(manifest.job):
        return standing
    storage.clear_unfinished(uri)
    if MANIFEST in found:  # from here on the output is not whole
        storage.delete_version(found[MANIFEST].uri, found[MANIFEST].version)
    wanted = {file.name for file in manifest.files}
    for name in found.keys() - wanted - {CLAIM, MANIFEST}:
        storage.delete_version(found[name].uri, found[name].version)
    uploads = [
        Upload(
            path=folder / file.name,
            uri=storage.join(uri, file.name),
            sha256=file.sha256,
            only_if_absent=file.name not in found,
            only_if_version=found[file.name].version if file.name in found else None,
        )
        for file in manifest.files
        if not _is_there(storage, found.get(file.name), file)
    ]
    storage.upload_all(uploads, on_progress=on_progress)
    _require_claim(destination)
    storage.write_bytes(storage.join(uri, MANIFEST), manifest.to_json(), if_absent=True)
    return manifest


def _list(storage: Storage, uri: str) -> dict[str, Entry]:
    """The files of an output by name, without what is reserved."""
    return {entry.name: entry for entry in storage.list(uri) if not entry.name.startswith(f"{RESERVED}/")}


def _describe(folder: Path) -> Iterator[ManifestFile]:
    try:
        for name in sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()):
            assert name not in (CLAIM, MANIFEST) and not name.startswith(f"{RESERVED}/"), (
                f"{name} is not for the caller"
            )
            with (folder / name).open("rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
                yield ManifestFile(name=name, size=file.tell(), sha256=digest)
    except OSError as error:
        raise os_failure(error, str(folder)) from error


def _is_there(storage: Storage, entry: Entry | None, file: ManifestFile) -> bool:
    return entry is not None and entry.size == file.size and storage.recorded_sha256(entry.uri) == file.sha256


def _take_claim(destination: Destination) -> None:
    mine = destination.identity

    def judge(owner: Identity | None) -> None:
        if owner is not None and owner.is_same_job(mine):
            if not mine.succeeds(owner):
                raise destination.claim.superseded(owner)
        elif not destination.overwrite:
            raise _exists(destination, owner)

    destination.claim.take(judge)


def _require_claim(destination: Destination) -> None:
    owner, _ = destination.claim.read()
    if owner == destination.identity:
        return
    if owner is None or not owner.is_same_job(destination.identity):
        raise _exists(destination, owner)
    raise destination.claim.superseded(owner)


def _exists(destination: Destination, owner: Identity | None) -> OutputExistsError:
    whose = f"the result of job {owner.name!r}" if owner else "files that are not a result of this job"
    if owner and (owner.namespace, owner.name) == (destination.identity.namespace, destination.identity.name):
        whose = f"the result of another version of job {owner.name!r}"
    return OutputExistsError(
        f"output.uri: {destination.uri} holds {whose}: choose another location or set output.overwrite: true"
    )
