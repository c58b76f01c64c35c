"""The words of storage: what a URI means, what a listing holds, what an upload asks for. No I/O."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol
from urllib.parse import quote, unquote_to_bytes

from kubooth_trainer.errors import ConfigError, StorageDeniedError

Progress = Callable[[int, int], None]  # (bytes done, bytes in all), called from the caller's own thread


class PreconditionFailedError(Exception):
    """A conditional write or delete found another state than the one it was made for. Nothing was changed."""


class TransferStoppedError(Exception):
    """Raised by `advance` when the transfer is no longer wanted, because another file failed."""


@dataclass(frozen=True)
class Location:
    """A URI taken apart. For `file`, `bucket` is empty and `key` is an absolute path; neither ends in a slash."""

    scheme: Literal["s3", "file"]
    bucket: str
    key: str

    @property
    def uri(self) -> str:
        if self.scheme == "s3":
            return f"s3://{self.bucket}/{self.key}"
        return f"file://{quote(os.fsencode(self.key))}"

    def inside(self, name: str) -> Location:
        """The location of `name` (which may hold slashes) in this folder."""
        return Location(self.scheme, self.bucket, f"{self.key.rstrip('/')}/{name}" if self.key else name)

    @property
    def path(self) -> Path:
        return Path(self.key)


@dataclass(frozen=True)
class Entry:
    """One file of a listing."""

    name: str  # relative to the listed URI, with forward slashes
    uri: str
    size: int  # bytes
    version: str  # changes whenever the content does: the ETag, or what stat says of a local file
    modified: float  # Unix seconds


@dataclass(frozen=True, kw_only=True)
class Upload:
    """One file to be sent. With `only_if_absent` or `only_if_version` a changed destination is left alone."""

    path: Path
    uri: str
    sha256: str | None = None  # kept with the object, so that a later start can tell it is there already
    only_if_absent: bool = False
    only_if_version: str | None = None


class Backend(Protocol):
    """What one kind of storage can do; `Storage` builds everything else on it."""

    def list(self, location: Location) -> list[Entry]: ...

    def exists(self, location: Location) -> bool: ...

    def read(self, location: Location) -> tuple[bytes, str]: ...

    def write(self, location: Location, data: bytes, *, if_absent: bool, if_version: str | None) -> None: ...

    def download(self, location: Location, path: Path, advance: Callable[[int], None]) -> None: ...

    def upload(self, upload: Upload, location: Location, advance: Callable[[int], None]) -> None: ...

    def recorded_sha256(self, location: Location) -> str | None: ...

    def sha256(self, location: Location) -> str: ...

    def delete(self, locations: Sequence[Location]) -> None: ...

    def delete_version(self, location: Location, version: str) -> None: ...

    def delete_tree(self, location: Location) -> None: ...

    def clear_unfinished(self, location: Location) -> None: ...


def parse(uri: str) -> Location:
    """Takes a URI apart. Raises ConfigError for another scheme, a relative path, or `.` and `..` in it.

    A trailing slash makes no difference. File paths may be percent-encoded, as `Path.as_uri` writes them; keys are not.
    """
    scheme, _, rest = uri.partition(":")
    if scheme == "s3" and rest.startswith("//"):
        bucket, _, key = rest[2:].partition("/")
        if not bucket:
            raise ConfigError(f"{uri}: names no bucket: write s3://BUCKET/KEY")
        location = Location("s3", bucket, key.rstrip("/"))
    elif scheme == "file":
        path = os.fsdecode(unquote_to_bytes(rest.removeprefix("//")))
        if not path.startswith("/") or path.startswith("//"):
            raise ConfigError(f"{uri}: is not an absolute path: write file:///FOLDER")
        location = Location("file", "", path.rstrip("/") or "/")
    else:
        raise ConfigError(f"{uri}: is not a storage location: write s3://BUCKET/KEY or file:///FOLDER")
    if {".", ".."} & set(location.key.split("/")) or "\0" in location.key:
        raise ConfigError(f"{uri}: must not hold '.' or '..' as a part of its path")
    return location


def normalized(uri: str) -> str:
    """The one spelling of a URI: without a trailing slash."""
    return parse(uri).uri


def join(uri: str, name: str) -> str:
    """The URI of `name` (which may hold slashes) inside the folder `uri`."""
    return parse(uri).inside(checked_name(name, uri)).uri


def checked_name(name: str, uri: str) -> str:
    """`name`, if it stays inside its folder. Raises StorageDeniedError for absolute names and `..`."""
    parts = name.split("/")
    if any(part in ("", ".", "..") for part in parts) or "\0" in name or "\\" in name:
        raise StorageDeniedError(
            f"{uri}: holds an object named {name!r}, which leads out of its folder: rename or remove it"
        )
    return name
