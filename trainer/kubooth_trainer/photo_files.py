"""Photo files: which files of a folder are pictures, and each of them decoded, upright, in sRGB.

Called by `subject` for the photos of a job and by the Prior stage for class images of its own. All files of a set are
read before any is refused, so that one BadSubjectError names every one that cannot be used. PIL only: no torch.
"""

from __future__ import annotations

import codecs
import hashlib
import io
import os
import struct
import warnings
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, UnidentifiedImageError

from kubooth_trainer.errors import BadSubjectError
from kubooth_trainer.photo_check import Finding
from kubooth_trainer.pixels import upright_srgb

PHOTO_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif"})
PHOTO_FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF")
REFUSED_SUFFIXES = frozenset(
    {".heic", ".heif", ".avif", ".svg", ".psd", ".jp2", ".jxl"}
    | {".raw", ".dng", ".cr2", ".cr3", ".nef", ".arw", ".orf", ".rw2"}
    | {".mp4", ".mov", ".avi", ".mkv", ".webm"}
)
SILENT_SUFFIXES = frozenset({".txt", ".md"})  # captions, credits
READABLE = "JPEG, PNG, WebP, BMP, TIFF or GIF"
JUNK_NAMES = frozenset({"__macosx", "thumbs.db", "desktop.ini"})

MAX_PHOTO_BYTES = 256 * 2**20
MAX_PHOTO_PIXELS = 100_000_000
MIN_SHORTER_SIDE = 64  # pixels; the resolution itself, where that is smaller
MAX_CAPTION_CHARACTERS = 1_000


@dataclass(frozen=True, kw_only=True)
class Photo:
    """One photo of the subject."""

    name: str  # file name, as it can be shown
    image: Image.Image  # RGB, upright, sRGB; shorter side at most twice the resolution
    caption: str | None  # prompt template of this photo, where captions are on and it has one
    sha256: str  # of the file as it came


class _BadPhoto(Exception):  # noqa: N818 - collected, never seen by a user as an exception
    """Why one photo cannot be used; follows the file's name in the sentence."""


def photo_files(folder: Path) -> tuple[list[Path], list[Finding]]:
    """The pictures that lie directly in `folder`, sorted by name, and what was ignored. At least one."""
    if not folder.is_dir():
        raise BadSubjectError(f"subject.images: {folder} is not a folder: give a folder of photos or an archive")
    entries = sorted(
        (e for e in folder.iterdir() if not e.name.startswith(".") and e.name.lower() not in JUNK_NAMES),
        key=lambda entry: entry.name,
    )
    pictures = PHOTO_SUFFIXES | REFUSED_SUFFIXES
    files = [e for e in entries if e.is_file() and e.suffix.lower() in pictures]
    others = [shown_name(e) for e in entries if e.is_file() and e.suffix.lower() not in pictures | SILENT_SUFFIXES]
    folders = [shown_name(e) for e in entries if e.is_dir()]
    if not files:
        hint = f" (folders inside it, such as {folders[0]}, are not searched)" if folders else ""
        raise BadSubjectError(
            f"subject.images: no photos in {folder.name}{hint}: put three to five {READABLE} files there"
        )
    notes = []
    if others:
        notes.append(Finding(message=f"Ignored, because not photos: {listed(others)}."))
    if folders:
        message = f"Ignored, because photos are taken from one folder only: {listed(folders)}."
        notes.append(Finding(message=message))
    return files, notes


def read_photos(files: Sequence[Path], *, resolution: int, captions: bool) -> Iterator[tuple[Photo, list[str]]]:
    """Each photo in turn, and remarks about it.

    Raises BadSubjectError, after the last, where some cannot be used: all in one sentence.
    """
    bad: list[str] = []
    for file in files:
        try:
            photo = _load(file, resolution=resolution, captions=captions)
        except _BadPhoto as problem:
            bad.append(f"{shown_name(file)} {problem}")
        else:
            yield photo
    if bad:
        what, them = ("1 photo", "it") if len(bad) == 1 else (f"{len(bad)} photos", "them")
        raise BadSubjectError(
            f"subject.images: {what} of {len(files)} cannot be used: {'; '.join(bad)}: replace or remove {them}"
        )


def shown_name(file: Path) -> str:
    """The file's name as text: one that is not UTF-8 could be written into no report."""
    return os.fsencode(file.name).decode(errors="replace")


def _load(file: Path, *, resolution: int, captions: bool) -> tuple[Photo, list[str]]:
    name = shown_name(file)
    if file.suffix.lower() in REFUSED_SUFFIXES:
        raise _BadPhoto(f"is a {file.suffix[1:].upper()} file (export it as JPEG or PNG)")
    try:
        if file.stat().st_size > MAX_PHOTO_BYTES:
            raise _BadPhoto(f"is larger than {MAX_PHOTO_BYTES // 2**20} MiB")
        data = file.read_bytes()
    except OSError as error:
        raise _BadPhoto(f"cannot be opened ({error.strerror})") from error
    image, remarks = _decode(data, name)
    width, height = image.size
    shorter, needed = min(width, height), min(MIN_SHORTER_SIDE, resolution)
    if shorter < needed:
        raise _BadPhoto(f"is {width} x {height} pixels, too small (the shorter side needs at least {needed})")
    if shorter < resolution:
        remarks.append(
            f"{name} is {width} x {height} pixels, smaller than the training resolution of "
            f"{resolution}: it is enlarged and will look soft. Use a larger one, or lower training.resolution."
        )
    if max(width, height) > 3 * shorter:
        remarks.append(f"{name} is very long ({width} x {height} pixels): training sees only squares of it.")
    scale = 2 * resolution / shorter
    if scale < 1:  # a view never needs more pixels; a hundred photos of 100 megapixels would need 30 GB
        size = (max(1, round(width * scale)), max(1, round(height * scale)))
        image = image.resize(size, Image.Resampling.LANCZOS, reducing_gap=3.0)
    caption = _caption(file) if captions else None
    return Photo(name=name, image=image, caption=caption, sha256=hashlib.sha256(data).hexdigest()), remarks


def _decode(data: bytes, name: str) -> tuple[Image.Image, list[str]]:
    """The first frame, upright and in sRGB. The size is judged by the header, before anything is decoded."""
    if not data:
        raise _BadPhoto("is empty (0 bytes)")
    too_large = f"has more than {MAX_PHOTO_PIXELS // 10**6} megapixels"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PIL warns of large files and odd metadata; what matters is said by us
        try:
            with Image.open(io.BytesIO(data), formats=PHOTO_FORMATS) as opened:
                if opened.width * opened.height > MAX_PHOTO_PIXELS:
                    raise _BadPhoto(f"{too_large} ({opened.width} x {opened.height})")
                frames = int(getattr(opened, "n_frames", 1)) if opened.format != "MPO" else 1
                opened.seek(0)
                opened.load()
                image = upright_srgb(opened)
        except Image.DecompressionBombError as error:
            raise _BadPhoto(too_large) from error
        except UnidentifiedImageError as error:
            raise _BadPhoto(_what_it_is(data)) from error
        except (OSError, SyntaxError, EOFError, zlib.error, struct.error) as error:
            raise _BadPhoto(f"is damaged or cut off ({error})") from error
        except (ValueError, TypeError, LookupError, OverflowError, RuntimeError) as error:
            raise _BadPhoto("is damaged") from error
    remarks = [f"{name} has {frames} frames: only the first is used."] if frames > 1 else []
    return image, remarks


def _what_it_is(data: bytes) -> str:
    """Says what a file that PIL does not know holds, as far as its first bytes tell."""
    if data[4:8] == b"ftyp":
        return "is a HEIC, AVIF or video file under another name (export it as JPEG or PNG)"
    head = data[:512]
    try:
        codecs.getincrementaldecoder("utf-8")().decode(head)
    except UnicodeDecodeError:
        is_text = False
    else:
        is_text = all(byte >= 32 or byte in b"\t\n\r" for byte in head)
    if is_text:
        return "holds text, not a picture"
    return f"is not a picture that can be read ({READABLE})"


def _caption(file: Path) -> str | None:
    """NAME.txt beside NAME.jpg, on one line."""
    beside = file.with_suffix(".txt")
    if not beside.is_file():
        return None
    try:
        text = " ".join(beside.read_bytes()[: 4 * MAX_CAPTION_CHARACTERS + 4].decode("utf-8-sig").split())
    except UnicodeDecodeError as error:
        raise _BadPhoto(f"has a caption, {shown_name(beside)}, that is not UTF-8 text") from error
    if not text or len(text) > MAX_CAPTION_CHARACTERS:
        raise _BadPhoto(
            f"has a caption, {shown_name(beside)}, that is {'empty' if not text else 'too long'} "
            f"(1 to {MAX_CAPTION_CHARACTERS:,} characters)"
        )
    return text


def listed(names: Sequence[str], most: int = 5) -> str:
    """`a, b and 3 more`."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
