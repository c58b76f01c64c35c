"""The local file system as storage. A file appears whole or not at all: temporary name, fsync, rename."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import os
import re
import secrets
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

from kubooth_trainer.errors import (
    DiskFullError,
    KuboothError,
    StorageDeniedError,
    StorageUnavailableError,
)
from kubooth_trainer.storage.location import Entry, Location, PreconditionFailedError, Upload

_UNFINISHED = re.compile(r"\..+\.[0-9a-f]{8}\.part")  # a file that has not got its name yet
_CHUNK_BYTES = 1 << 20
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT)
_NO_LINKS = (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK)
_MAY_PASS = (errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.EAGAIN, errno.EBUSY, errno.EMFILE, errno.ENFILE)


def os_failure(error: OSError, what: str, folder: Path | None = None) -> KuboothError:
    """The failure that `error` on the file or URI `what`, written to `folder`, means to a person."""
    where = folder or error.filename or what
    if error.errno in _NO_ROOM:
        return DiskFullError(f"{where}: no room left on this disk: free some space, then the same job goes on")
    if error.errno in _MAY_PASS:
        return StorageUnavailableError(f"{where}: cannot be read or written now: {error.strerror}")
    if isinstance(error, FileNotFoundError):
        return StorageDeniedError(f"{what}: there is no such file or folder: check the path")
    if isinstance(error, PermissionError) or error.errno == errno.EROFS:
        return StorageDeniedError(f"{what}: access denied: the user running this may not read or write it")
    return StorageDeniedError(f"{what}: cannot be read or written: {error.strerror or error}")


class FileBackend:
    """`file:///path`. Conditional writes hold among processes of one machine."""

    def list(self, location: Location) -> list[Entry]:
        root = location.path
        with _explained(location.uri):
            if not root.is_dir():
                return [_entry(root, root.name, location.uri)] if root.exists() else []
            found = []
            for folder, folders, names in os.walk(root, onerror=_raise):
                folders.sort()
                for name in names:
                    if _UNFINISHED.fullmatch(name):
                        continue
                    path = Path(folder, name)
                    relative = path.relative_to(root).as_posix()
                    # What vanished since the listing is not listed.
                    with contextlib.suppress(FileNotFoundError):
                        found.append(_entry(path, relative, location.inside(relative).uri))
            return sorted(found, key=lambda entry: entry.name)

    def exists(self, location: Location) -> bool:
        with _explained(location.uri):
            return location.path.is_file()

    def read(self, location: Location) -> tuple[bytes, str]:
        with _explained(location.uri), location.path.open("rb") as file:
            return file.read(), _version(os.fstat(file.fileno()))

    def write(self, location: Location, data: bytes, *, if_absent: bool, if_version: str | None) -> None:
        def fill(file: BinaryIO) -> None:
            file.write(data)

        self._place(location, fill, if_absent=if_absent, if_version=if_version)

    def download(self, location: Location, path: Path, advance: Callable[[int], None]) -> None:
        self.upload(Upload(path=location.path, uri=str(path)), Location("file", "", str(path)), advance)

    def upload(self, upload: Upload, location: Location, advance: Callable[[int], None]) -> None:
        def fill(file: BinaryIO) -> None:
            with upload.path.open("rb") as source:
                while chunk := source.read(_CHUNK_BYTES):
                    file.write(chunk)
                    advance(len(chunk))

        self._place(location, fill, if_absent=upload.only_if_absent, if_version=upload.only_if_version)

    def recorded_sha256(self, location: Location) -> str | None:
        return self.sha256(location) if self.exists(location) else None

    def sha256(self, location: Location) -> str:
        with _explained(location.uri), location.path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()

    def delete(self, locations: Sequence[Location]) -> None:
        for location in locations:
            with _explained(location.uri):
                location.path.unlink(missing_ok=True)

    def delete_version(self, location: Location, version: str) -> None:
        with _explained(location.uri), _locked(location.path.parent):
            if location.path.exists():
                _require_version(location, version)
                location.path.unlink()

    def delete_tree(self, location: Location) -> None:
        with _explained(location.uri):
            if location.path.is_dir():
                shutil.rmtree(location.path)
            else:
                location.path.unlink(missing_ok=True)

    def clear_unfinished(self, location: Location) -> None:
        with _explained(location.uri):
            for path in location.path.rglob("*.part"):
                if _UNFINISHED.fullmatch(path.name):
                    path.unlink(missing_ok=True)

    def _place(
        self, location: Location, fill: Callable[[BinaryIO], None], *, if_absent: bool, if_version: str | None
    ) -> None:
        path = location.path
        temporary = path.parent / f".{path.name[:200]}.{secrets.token_hex(4)}.part"
        with _explained(location.uri, path.parent):
            path.parent.mkdir(parents=True, exist_ok=True)
            try:
                with temporary.open("xb") as file:
                    fill(file)
                    file.flush()
                    os.fsync(file.fileno())
                _give_name(temporary, location, if_absent=if_absent, if_version=if_version)
            finally:
                temporary.unlink(missing_ok=True)
            _sync_folder(path.parent)


@contextlib.contextmanager
def _explained(uri: str, folder: Path | None = None) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise os_failure(error, uri, folder) from error


def _raise(error: OSError) -> None:
    raise error


def _entry(path: Path, name: str, uri: str) -> Entry:
    stat = path.stat()
    return Entry(name=name, uri=uri, size=stat.st_size, version=_version(stat), modified=stat.st_mtime)


def _version(stat: os.stat_result) -> str:
    """Files are replaced, never changed in place: a new content is a new inode with a new time."""
    return f"{stat.st_ino}-{stat.st_mtime_ns}-{stat.st_size}"


def _require_version(location: Location, version: str) -> None:
    try:
        found = _version(location.path.stat())
    except FileNotFoundError:
        found = None
    if found != version:
        raise PreconditionFailedError(location.uri)


def _give_name(temporary: Path, location: Location, *, if_absent: bool, if_version: str | None) -> None:
    try:
        if if_absent:
            _link(temporary, location)
        elif if_version is not None:
            with _locked(location.path.parent):
                _require_version(location, if_version)
                temporary.replace(location.path)
        else:
            temporary.replace(location.path)
    except FileNotFoundError:
        # Whoever owns the folder now has cleared our unfinished file away.
        if temporary.exists() or not (if_absent or if_version is not None):
            raise
        raise PreconditionFailedError(location.uri) from None


def _link(temporary: Path, location: Location) -> None:
    """Gives the file its name only if the name is free: a hard link, or where there are none, an exclusive open."""
    try:
        os.link(temporary, location.path)
    except FileExistsError:
        raise PreconditionFailedError(location.uri) from None
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        try:
            location.path.open("xb").close()
        except FileExistsError:
            raise PreconditionFailedError(location.uri) from None
        temporary.replace(location.path)


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Compare and replace as one act among the processes of this machine."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        # NFS cannot lock a folder: there the comparison alone has to do.
        with contextlib.suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        # Some network file systems refuse to sync a folder; their servers do it themselves.
        with contextlib.suppress(OSError):
            os.fsync(descriptor)
    finally:
        os.close(descriptor)
