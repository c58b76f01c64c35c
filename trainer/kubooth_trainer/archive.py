"""Photos that arrive as one file: a zip or tar is unpacked so that no archive can hurt the machine.

Called by the Download stage, before `subject.load_photos`. Names are checked before a file is written, sizes
are counted on the bytes that really come out (a header may lie), and a refused archive leaves nothing behind.
"""

from __future__ import annotations

import errno
import gzip
import os
import re
import shutil
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Generator, Iterator
from contextlib import closing, contextmanager
from pathlib import Path, PurePosixPath
from typing import IO, cast

from kubooth_trainer.errors import BadSubjectError, DiskFullError

MAX_EXPANDED_BYTES = 2**30
MAX_MEMBERS = 10_000
MAX_COMPRESSION = 100  # photos hardly shrink; what expands a hundredfold is no photo
UNSUSPICIOUS_BYTES = 2**26  # below this, compression is nobody's business
ARCHIVE_SUFFIXES = (".zip", ".tar", ".tar.gz", ".tgz")

_CHUNK_BYTES = 2**20
_JUNK = ("__MACOSX", "Thumbs.db", "desktop.ini")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")  # "Icon\r" of macOS; its screenshots have a narrow space, which is none


def unpack_subject(path: Path, folder: Path) -> Path:
    """Returns a folder with the photos of `path`: itself when it is a folder, else `folder`, unpacked.

    `folder` belongs to the caller's scratch space: it is replaced, and appears only when the archive is
    whole. When everything lies in one folder inside the archive, that inner folder is returned.

    Raises:
        BadSubjectError: names that are absolute or hold `..`, links, devices, encrypted or damaged archives, more
            than 10,000 members, more than 1 GiB or 100 times its size expanded; one sentence that names the archive.
        DiskFullError: no room left.
    """
    if path.is_dir():
        return path
    if not path.exists():
        raise BadSubjectError(f"subject.images: {path} does not exist: give a folder of photos or an archive")
    if not path.name.lower().endswith(ARCHIVE_SUFFIXES):
        raise BadSubjectError(
            f"subject.images: {path.name} is neither a folder nor a .zip, .tar, .tar.gz or .tgz archive: "
            "put the photos into a folder or pack them into one of these"
        )
    if path.resolve().is_relative_to(folder.resolve()):
        raise ValueError(f"{folder} would be replaced with {path} inside it")
    staging = folder.with_name(f"{folder.name}.partial")
    shutil.rmtree(staging, ignore_errors=True)
    staging.mkdir(parents=True)
    try:
        with _said_as_one_sentence(path.name):
            _extract(path, staging)
    except BaseException:
        shutil.rmtree(staging, ignore_errors=True)
        raise
    if folder.exists():
        shutil.rmtree(folder)
    staging.rename(folder)
    return _innermost(folder)


def _extract(path: Path, staging: Path) -> None:
    budget = _Budget(path.name)
    members = _zip_members(path, budget) if path.name.lower().endswith(".zip") else _tar_members(path, budget)
    with closing(members):
        for name, source in members:
            with source:
                parts = _safe_parts(path.name, name)
                if any(part.startswith(".") or part in _JUNK or _CONTROL.search(part) for part in parts):
                    continue
                target = staging.joinpath(*parts)
                target.parent.mkdir(parents=True, exist_ok=True)
                with target.open("xb") as sink:
                    while chunk := source.read(_CHUNK_BYTES):
                        budget.spend(len(chunk))
                        sink.write(chunk)


class _Budget:
    """Counts members and expanded bytes of one archive; refuses at the limit."""

    def __init__(self, archive: str) -> None:
        self._archive = archive
        self._bytes = 0
        self._members = 0

    def member(self, declared_bytes: int) -> None:
        """One more member; what its header declares is refused before a byte of it is expanded."""
        self._members += 1
        if self._members > MAX_MEMBERS:
            raise BadSubjectError(
                f"subject.images: {self._archive} holds more than {MAX_MEMBERS:,} files: pack only the photos"
            )
        self._check(self._bytes + declared_bytes)

    def spend(self, count: int) -> None:
        self._bytes += count
        self._check(self._bytes)

    def _check(self, total: int) -> None:
        if total > MAX_EXPANDED_BYTES:
            raise _bomb(self._archive, f"to more than {MAX_EXPANDED_BYTES // 2**30} GiB")


def _zip_members(path: Path, budget: _Budget) -> Generator[tuple[str, IO[bytes]]]:
    """Regular files of a zip. zipfile stops at the declared sizes, so their sum is checked first."""
    with zipfile.ZipFile(path) as archive:
        entries = archive.infolist()
        declared = 0
        for entry in entries:
            _safe_parts(path.name, entry.filename)
            kind = stat.S_IFMT(entry.external_attr >> 16)
            if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
                raise _special(path.name, entry.filename)
            if entry.flag_bits & 0x1:
                raise BadSubjectError(
                    f"subject.images: {path.name} is protected by a password: pack the photos without one"
                )
            budget.member(declared + entry.file_size)
            declared += entry.file_size
        for entry in entries:
            if not entry.is_dir():
                yield entry.filename, archive.open(entry)


def _tar_members(path: Path, budget: _Budget) -> Generator[tuple[str, IO[bytes]]]:
    """Regular files of a tar as the stream brings them: a compressed one cannot be looked through before."""
    compressed = not path.name.lower().endswith(".tar")
    with path.open("rb") as raw:
        stream = cast("IO[bytes]", gzip.GzipFile(fileobj=raw) if compressed else raw)
        bounded = cast("IO[bytes]", _BoundedStream(path.name, stream, raw))
        with tarfile.open(fileobj=bounded, mode="r:") as archive:
            for member in archive:
                _safe_parts(path.name, member.name)
                if not (member.isreg() or member.isdir()):
                    raise _special(path.name, member.name)
                budget.member(member.size)
                source = archive.extractfile(member)
                if source is not None:
                    yield member.name, source


class _BoundedStream:
    """A seekable reader that refuses to go past the limit, or to hold much at once.

    tarfile skips by seeking, which expands a gzip silently, and reads long-name headers of any declared size
    into memory in one call; both end here.
    """

    def __init__(self, archive: str, stream: IO[bytes], raw: IO[bytes]) -> None:
        self._archive = archive
        self._stream = stream
        self._raw = raw
        self._limit = MAX_EXPANDED_BYTES + 1024 * MAX_MEMBERS  # headers and padding come on top

    def read(self, size: int = -1) -> bytes:
        if not 0 <= size <= 2 * _CHUNK_BYTES:
            raise tarfile.ReadError("a header declares an impossible size")
        data = self._stream.read(size)
        position = self._stream.tell()
        self._check(position)
        if position > max(UNSUSPICIOUS_BYTES, MAX_COMPRESSION * self._raw.tell()):
            raise _bomb(self._archive, f"to more than {MAX_COMPRESSION} times its size")
        return data

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self._check(offset)
        return self._stream.seek(offset, whence)

    def tell(self) -> int:
        return self._stream.tell()

    def _check(self, position: int) -> None:
        if position > self._limit:
            raise _bomb(self._archive, f"to more than {MAX_EXPANDED_BYTES // 2**30} GiB")


def _safe_parts(archive: str, name: str) -> tuple[str, ...]:
    """The parts of a member's name, refused when they could lead out of the folder."""
    pure = PurePosixPath(name.replace("\\", "/"))
    parts = tuple(part for part in pure.parts if part != ".")
    drive = bool(parts) and len(parts[0]) == 2 and parts[0].endswith(":")
    if pure.is_absolute() or drive or ".." in parts:
        raise BadSubjectError(
            f"subject.images: {archive} holds a file named {name!r}, which points outside of the archive: "
            "pack the photos again with plain names"
        )
    return parts


def _bomb(archive: str, how_much: str) -> BadSubjectError:
    return BadSubjectError(f"subject.images: {archive} expands {how_much}: pack only the photos")


def _special(archive: str, name: str) -> BadSubjectError:
    return BadSubjectError(
        f"subject.images: {archive} holds {name!r}, which is a link or a device, not a file: pack the photos themselves"
    )


def _innermost(folder: Path) -> Path:
    """Goes down as long as there is one folder and nothing else."""
    while True:
        entries = list(folder.iterdir())
        if len(entries) != 1 or not entries[0].is_dir():
            return folder
        folder = entries[0]


@contextmanager
def _said_as_one_sentence(archive: str) -> Iterator[None]:
    """Turns whatever the standard library raises about an archive into one sentence."""
    damaged = BadSubjectError(
        f"subject.images: {archive} is damaged or not the kind of archive its name says: pack the photos again"
    )
    try:
        yield
    except FileExistsError as error:
        name = Path(str(error.filename)).name
        raise BadSubjectError(
            f"subject.images: {archive} holds {name!r} twice: give every photo a name of its own"
        ) from error
    except (zipfile.BadZipFile, gzip.BadGzipFile, tarfile.TarError, zlib.error, EOFError) as error:
        raise damaged from error
    except (NotImplementedError, ValueError) as error:
        raise damaged from error
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise DiskFullError(f"no room left to unpack {archive}: free some disk space") from error
        if error.errno in (errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG):
            raise damaged from error
        raise
