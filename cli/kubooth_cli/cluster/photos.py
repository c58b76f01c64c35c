"""Photos of this machine on their way to the inbox: a folder's files, or one archive. Named after their content."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Final

from kubooth_cli import format as fmt
from kubooth_cli.cluster.session import CommandError

if TYPE_CHECKING:
    from kubooth_trainer.storage import Storage

MOST_BYTES: Final = 2 << 30
MOST_FILES: Final = 1000
"""More than this is a mistake: a subject needs three to five photos."""


def files_of(photos: Path) -> dict[str, Path]:
    """Name to path of the visible files of a folder (not below it), or of the one file. Raises CommandError."""
    try:
        if photos.is_dir():
            found = [path for path in sorted(photos.iterdir()) if path.is_file() and not path.name.startswith(".")]
        else:
            found = [photos]
        size = sum(path.stat().st_size for path in found)
    except OSError as error:
        raise CommandError(f"{photos}: cannot be read: {error.strerror}") from error
    if not found:
        raise CommandError(f"{photos}: there are no files in this folder")
    if len(found) > MOST_FILES or size > MOST_BYTES:
        raise CommandError(
            f"{photos}: holds {len(found)} files of {fmt.size(size)} in all; name a folder that holds the photos alone"
        )
    return {path.name: path for path in found}


def digest_of(photos: Path) -> str:
    """SHA-256 (hex) of names and contents."""
    whole = hashlib.sha256()
    for name, path in files_of(photos).items():
        whole.update(f"{name}\0{_sha256(path)}\n".encode())
    return whole.hexdigest()


def send(storage: Storage, photos: Path, uri: str) -> tuple[int, int]:
    """Uploads what is not there yet; the number of files and their bytes in all."""
    from kubooth_trainer.storage import Upload

    files = files_of(photos)
    uploads = [
        Upload(path=path, uri=storage.join(uri, name) if photos.is_dir() else uri, sha256=_sha256(path))
        for name, path in files.items()
    ]
    storage.upload_all([each for each in uploads if storage.recorded_sha256(each.uri) != each.sha256])
    return len(files), sum(path.stat().st_size for path in files.values())


def _sha256(path: Path) -> str:
    try:
        with path.open("rb") as opened:
            return hashlib.file_digest(opened, "sha256").hexdigest()
    except OSError as error:
        raise CommandError(f"{path}: cannot be read: {error.strerror}") from error
