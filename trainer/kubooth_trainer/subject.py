"""Photos in: read, check, turn upright, convert to RGB, and cut into the square views that training sees.

Called by the Prepare stage. Either all photos of a set are good, or one BadSubjectError names every one that
is not; what is odd but usable becomes a warning. PIL and numpy only: no torch. Archives: see
`unpack_subject`.
"""

from __future__ import annotations

import codecs
import hashlib
import io
import random
import struct
import warnings
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from PIL import Image, UnidentifiedImageError

from kubooth_trainer.archive import unpack_subject
from kubooth_trainer.errors import BadSubjectError
from kubooth_trainer.photo_check import Finding, check_photos
from kubooth_trainer.pixels import upright_srgb

__all__ = ["LoadedSubject", "Photo", "crops", "load_photos", "unpack_subject"]

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

MAX_PHOTOS = 100
MAX_PHOTO_BYTES = 256 * 2**20
MAX_PHOTO_PIXELS = 100_000_000
MIN_SHORTER_SIDE = 64  # pixels; the resolution itself, where that is smaller
MAX_CAPTION_CHARACTERS = 1_000
USUAL_PHOTOS = (3, 20)  # the paper uses 3 to 5; far above 20 the usual number of steps is too small

RANDOM_VIEWS = 8
MIN_CROP = 0.8  # of the shorter side


@dataclass(frozen=True, kw_only=True)
class Photo:
    """One photo of the subject."""

    name: str  # file name
    image: Image.Image  # RGB, upright, sRGB; shorter side at most twice the resolution
    caption: str | None  # prompt template of this photo, where captions are on and it has one
    sha256: str  # of the file as it came


@dataclass(frozen=True, kw_only=True)
class LoadedSubject:
    """The photos in order of their names, and what a person should look at."""

    photos: tuple[Photo, ...]
    findings: tuple[Finding, ...]


class _BadPhoto(Exception):  # noqa: N818 - collected, never seen by a user as an exception
    """Why one photo cannot be used; follows the file's name in the sentence."""


def load_photos(folder: Path, *, resolution: int, captions: bool) -> LoadedSubject:
    """Reads every photo that lies directly in `folder`, sorted by name.

    Ignored: hidden files, what operating systems leave behind, `.txt` and `.md`; other files that are no
    pictures, with a warning. Pictures that cannot be read here (HEIC, raw, video) are refused, not ignored.

    Args:
        folder: of photos, see `unpack_subject`.
        resolution: pixels at which the model trains.
        captions: use NAME.txt beside NAME.jpg as that photo's prompt template.

    Raises:
        BadSubjectError: no photos, more than 100, or photos that are unreadable, truncated, empty, smaller
            than 64 pixels (or `resolution`, if that is less) or larger than 100 megapixels: all in one
            sentence.
    """
    files, notes = _photo_files(folder)
    photos: list[Photo] = []
    bad: list[str] = []
    for file in files:
        try:
            photo, remarks = _load(file, resolution=resolution, captions=captions)
        except _BadPhoto as problem:
            bad.append(f"{file.name} {problem}")
        else:
            photos.append(photo)
            notes += [Finding(message=remark, photos=(file.name,)) for remark in remarks]
    if bad:
        what, them = ("1 photo", "it") if len(bad) == 1 else (f"{len(bad)} photos", "them")
        raise BadSubjectError(
            f"subject.images: {what} of {len(files)} cannot be used: {'; '.join(bad)}: replace or remove {them}"
        )
    notes += _set_findings(photos, captions=captions)
    return LoadedSubject(photos=tuple(photos), findings=tuple(notes))


def crops(
    photo: Photo, *, resolution: int, crop: Literal["Center", "Random"], flip: bool, seed: int
) -> list[Image.Image]:
    """Square RGB views of a photo, each `resolution` x `resolution` pixels, the same for the same arguments.

    Center: the largest middle square, and with `flip` its mirror image (1 or 2 views). Random: 8 squares of
    80% to 100% of the shorter side, drawn by (seed, file content, view), every second one mirrored with
    `flip`.
    """
    width, height = photo.image.size
    shorter = min(width, height)
    if crop == "Center":
        view = _square(photo.image, (width - shorter) / 2, (height - shorter) / 2, shorter, resolution)
        return [view, _mirrored(view)] if flip else [view]
    views = []
    for index in range(RANDOM_VIEWS):
        rng = random.Random(f"{seed}/{photo.sha256}/{index}")
        side = shorter * rng.uniform(MIN_CROP, 1.0)
        view = _square(photo.image, rng.random() * (width - side), rng.random() * (height - side), side, resolution)
        views.append(_mirrored(view) if flip and index % 2 else view)
    return views


def _photo_files(folder: Path) -> tuple[list[Path], list[Finding]]:
    if not folder.is_dir():
        raise BadSubjectError(f"subject.images: {folder} is not a folder: give a folder of photos or an archive")
    entries = sorted(
        (e for e in folder.iterdir() if not e.name.startswith(".") and e.name.lower() not in JUNK_NAMES),
        key=lambda entry: entry.name,
    )
    pictures = PHOTO_SUFFIXES | REFUSED_SUFFIXES
    files = [e for e in entries if e.is_file() and e.suffix.lower() in pictures]
    others = [e.name for e in entries if e.is_file() and e.suffix.lower() not in pictures | SILENT_SUFFIXES]
    folders = [e.name for e in entries if e.is_dir()]
    if not files:
        hint = f" (folders inside it, such as {folders[0]}, are not searched)" if folders else ""
        raise BadSubjectError(
            f"subject.images: no photos in {folder.name}{hint}: put three to five {READABLE} files there"
        )
    if len(files) > MAX_PHOTOS:
        raise BadSubjectError(
            f"subject.images: {folder.name} holds {len(files)} photos, more than {MAX_PHOTOS}: "
            "three to five that show the subject well are enough"
        )
    notes = []
    if others:
        notes.append(Finding(message=f"Ignored, because not photos: {_listed(others)}."))
    if folders:
        message = f"Ignored, because photos are taken from one folder only: {_listed(folders)}."
        notes.append(Finding(message=message))
    return files, notes


def _load(file: Path, *, resolution: int, captions: bool) -> tuple[Photo, list[str]]:
    if file.suffix.lower() in REFUSED_SUFFIXES:
        raise _BadPhoto(f"is a {file.suffix[1:].upper()} file (export it as JPEG or PNG)")
    try:
        if file.stat().st_size > MAX_PHOTO_BYTES:
            raise _BadPhoto(f"is larger than {MAX_PHOTO_BYTES // 2**20} MiB")
        data = file.read_bytes()
    except OSError as error:
        raise _BadPhoto(f"cannot be opened ({error.strerror})") from error
    image, remarks = _decode(data, file.name)
    width, height = image.size
    shorter, needed = min(width, height), min(MIN_SHORTER_SIDE, resolution)
    if shorter < needed:
        raise _BadPhoto(f"is {width} x {height} pixels, too small (the shorter side needs at least {needed})")
    if shorter < resolution:
        remarks.append(
            f"{file.name} is {width} x {height} pixels, smaller than the training resolution of "
            f"{resolution}: it is enlarged and will look soft. Use a larger one, or lower training.resolution."
        )
    if max(width, height) > 3 * shorter:
        remarks.append(f"{file.name} is very long ({width} x {height} pixels): training sees only squares of it.")
    scale = 2 * resolution / shorter
    if scale < 1:  # a view never needs more pixels; a hundred photos of 100 megapixels would need 30 GB
        size = (max(1, round(width * scale)), max(1, round(height * scale)))
        image = image.resize(size, Image.Resampling.LANCZOS, reducing_gap=3.0)
    caption = _caption(file) if captions else None
    return Photo(name=file.name, image=image, caption=caption, sha256=hashlib.sha256(data).hexdigest()), remarks


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
        raise _BadPhoto(f"has a caption, {beside.name}, that is not UTF-8 text") from error
    if not text or len(text) > MAX_CAPTION_CHARACTERS:
        raise _BadPhoto(
            f"has a caption, {beside.name}, that is {'empty' if not text else 'too long'} "
            f"(1 to {MAX_CAPTION_CHARACTERS:,} characters)"
        )
    return text


def _set_findings(photos: Sequence[Photo], *, captions: bool) -> list[Finding]:
    found = check_photos(
        [photo.name for photo in photos],
        [photo.sha256 for photo in photos],
        [photo.image for photo in photos],
    )
    notes = []
    few, many = USUAL_PHOTOS
    if len(photos) < few:
        notes.append(
            f"Only {len(photos)} photo{'s' * (len(photos) > 1)}: three to five, with different backgrounds "
            "and angles, let the model tell the subject from its surroundings."
        )
    if len(photos) > many:
        notes.append(f"{len(photos)} photos: three to five are usual; more need more training steps.")
    if captions:
        without = [photo.name for photo in photos if photo.caption is None]
        if without:
            notes.append(f"Without a caption, so trained with subject.promptTemplate: {_listed(without)}.")
        unnamed = [p.name for p in photos if p.caption is not None and "{identifier}" not in p.caption]
        if unnamed:
            notes.append(f"Captions without {{identifier}} do not bind the subject to it: {_listed(unnamed)}.")
    return [*found, *(Finding(message=message) for message in notes)]


def _square(image: Image.Image, left: float, top: float, side: float, resolution: int) -> Image.Image:
    box = (left, top, min(left + side, image.width), min(top + side, image.height))
    return image.resize((resolution, resolution), Image.Resampling.LANCZOS, box=box, reducing_gap=3.0)


def _mirrored(image: Image.Image) -> Image.Image:
    return image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)


def _listed(names: Sequence[str], most: int = 5) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
