"""`Storage`: single files and whole folders at any URI, in parallel, with progress, safe to repeat."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Collection, Iterable, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from functools import partial
from pathlib import Path

from kubooth_trainer.config import StorageConfig
from kubooth_trainer.errors import StorageDeniedError, StorageUnavailableError
from kubooth_trainer.storage.files import FileBackend, os_failure
from kubooth_trainer.storage.location import (
    Backend,
    Entry,
    Location,
    Progress,
    TransferStoppedError,
    Upload,
    checked_name,
    join,
    parse,
)
from kubooth_trainer.storage.s3 import Patience, S3Backend

_FILES_AT_ONCE = 8
_REPORT_SECONDS = 0.2


class Storage:
    """Reads and writes `s3://` and `file://` URIs; a folder's URI means the same with and without a trailing slash.

    Raises StorageDeniedError, StorageUnavailableError, DiskFullError and, for a URI that is none, ConfigError.
    """

    def __init__(self, config: StorageConfig, patience: Patience | None = None) -> None:
        self._config = config
        self._patience = patience or Patience()
        self._backends: dict[str, Backend] = {"file": FileBackend()}
        self._lock = threading.Lock()

    def join(self, uri: str, name: str) -> str:
        """The URI of `name` inside the folder `uri`."""
        return join(uri, name)

    def local_path(self, uri: str) -> Path | None:
        """The path of a `file://` URI; None for others."""
        location = parse(uri)
        return location.path if location.scheme == "file" else None

    def list(self, uri: str) -> list[Entry]:
        """Every file below the folder `uri`, sorted by name; for the URI of one file, that one. Nothing there: []."""
        backend, location = self._at(uri)
        return backend.list(location)

    def exists(self, uri: str) -> bool:
        """Whether `uri` is a file (not a folder)."""
        backend, location = self._at(uri)
        return backend.exists(location)

    def read_bytes(self, uri: str) -> bytes:
        return self.read_versioned(uri)[0]

    def read_versioned(self, uri: str) -> tuple[bytes, str]:
        """The content and the version token that a conditional write takes."""
        backend, location = self._at(uri)
        return backend.read(location)

    def write_bytes(self, uri: str, data: bytes, *, if_absent: bool = False, if_version: str | None = None) -> None:
        """Writes all or nothing. Raises PreconditionFailedError when the condition does not hold (any more)."""
        backend, location = self._at(uri)
        backend.write(location, data, if_absent=if_absent, if_version=if_version)

    def download(self, uri: str, path: Path) -> None:
        """Copies one file to `path`, which appears when it is whole."""
        backend, location = self._at(uri)
        backend.download(location, path, _ignore)

    def upload(self, path: Path, uri: str) -> None:
        """Copies one local file to `uri`, which appears when it is whole."""
        backend, location = self._at(uri)
        backend.upload(Upload(path=path, uri=uri), location, _ignore)

    def fetch_tree(
        self, uri: str, folder: Path, *, names: Collection[str] | None = None, on_progress: Progress | None = None
    ) -> Path:
        """Makes the folder (or the single file) `uri` readable here, and says where.

        `file:` URIs are used in place. Others are mirrored into `folder`, which belongs to this call: files that
        are there whole and unchanged (size and time) are kept, all else is removed. Names with `..` are refused.
        `names` chooses among the files.
        """
        backend, location = self._at(uri)
        entries = backend.list(location)
        if not entries:
            raise StorageDeniedError(f"{uri}: there is nothing at this location: check the URI")
        if location.scheme == "file":
            return location.path
        single = entries[0].uri == location.uri
        if names is not None:
            entries = [entry for entry in entries if entry.name in names]
        targets = {folder / checked_name(entry.name, uri): entry for entry in entries}
        _keep_only(folder, set(targets))
        missing = {path: entry for path, entry in targets.items() if not _is_current(path, entry)}
        total = sum(entry.size for entry in entries)
        tally = _Tally(total - sum(entry.size for entry in missing.values()), total, on_progress)

        def fetch(path: Path, entry: Entry) -> None:
            backend.download(parse(entry.uri), path, tally.advance)
            if path.stat().st_size != entry.size:
                raise StorageUnavailableError(f"{entry.uri}: changed while it was read: run the same job again")
            os.utime(path, (entry.modified, entry.modified))

        _run([partial(fetch, path, entry) for path, entry in missing.items()], tally)
        return next(iter(targets)) if single else folder

    def upload_tree(self, folder: Path, uri: str, *, names: Iterable[str], on_progress: Progress | None = None) -> None:
        """Copies the files `names` of a local folder to the folder `uri`."""
        self.upload_all([Upload(path=folder / name, uri=join(uri, name)) for name in names], on_progress=on_progress)

    def upload_all(self, uploads: Sequence[Upload], *, on_progress: Progress | None = None) -> None:
        """Sends files in parallel. Raises PreconditionFailedError when one's condition does not hold."""
        total = sum(_size(upload.path) for upload in uploads)
        tally = _Tally(0, total, on_progress)

        def send(upload: Upload) -> None:
            backend, location = self._at(upload.uri)
            backend.upload(upload, location, tally.advance)

        _run([partial(send, upload) for upload in uploads], tally)

    def recorded_sha256(self, uri: str) -> str | None:
        """The SHA-256 (hex) that a file was uploaded with, where that is cheap to know."""
        backend, location = self._at(uri)
        return backend.recorded_sha256(location)

    def sha256(self, uri: str) -> str:
        """The SHA-256 (hex) of a file's content, read in full."""
        backend, location = self._at(uri)
        return backend.sha256(location)

    def delete(self, uris: Iterable[str]) -> None:
        """Deletes files; those that are not there are no error."""
        by_scheme: dict[str, list[Location]] = {}
        for uri in uris:
            by_scheme.setdefault(parse(uri).scheme, []).append(parse(uri))
        for locations in by_scheme.values():
            self._at(locations[0].uri)[0].delete(locations)

    def delete_version(self, uri: str, version: str) -> None:
        """Deletes a file as it was read or listed; raises PreconditionFailedError if another one is there."""
        backend, location = self._at(uri)
        backend.delete_version(location, version)

    def delete_tree(self, uri: str) -> None:
        """Deletes a folder and all in it; nothing there is no error."""
        backend, location = self._at(uri)
        backend.delete_tree(location)

    def clear_unfinished(self, uri: str) -> None:
        """Removes what writers that were killed left below a folder: unnamed files, unfinished multipart uploads."""
        backend, location = self._at(uri)
        backend.clear_unfinished(location)

    def _at(self, uri: str) -> tuple[Backend, Location]:
        location = parse(uri)
        with self._lock:
            if location.scheme not in self._backends:
                self._backends[location.scheme] = S3Backend(self._config, self._patience, uri)
            return self._backends[location.scheme], location


class _Tally:
    """Bytes moved by all threads. The report to the caller is made by the caller's own thread."""

    def __init__(self, done: int, total: int, on_progress: Progress | None) -> None:
        self._done = done
        self._total = total
        self._on_progress = on_progress
        self._lock = threading.Lock()
        self.stopped = False

    def advance(self, moved: int) -> None:
        """Called by the transfers; `moved` is negative where a part starts again."""
        if self.stopped:
            raise TransferStoppedError
        with self._lock:
            self._done += moved

    def report(self) -> None:
        if self._on_progress:
            self._on_progress(max(0, min(self._done, self._total)), self._total)


def _run(jobs: Sequence[Callable[[], None]], tally: _Tally) -> None:
    """Runs all in threads; the first failure stops the rest and is raised."""
    with ThreadPoolExecutor(_FILES_AT_ONCE) as pool:
        pending = {pool.submit(job) for job in jobs}
        try:
            while pending:
                finished, pending = wait(pending, timeout=_REPORT_SECONDS, return_when=FIRST_EXCEPTION)
                for future in finished:
                    future.result()
                tally.report()
        except BaseException:
            tally.stopped = True
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    tally.report()


def _is_current(path: Path, entry: Entry) -> bool:
    """A file has its name only when it is whole, and its object's time only when it was fetched from that one."""
    try:
        stat = path.stat()
    except OSError:
        return False
    return stat.st_size == entry.size and stat.st_mtime == entry.modified


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError as error:
        raise os_failure(error, str(path)) from error


def _keep_only(folder: Path, wanted: set[Path]) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for path in folder.rglob("*"):
            if path not in wanted and not path.is_dir():
                path.unlink()
    except OSError as error:
        raise os_failure(error, str(folder)) from error


def _ignore(_: int) -> None:
    pass
