"""Photos in: read, checked as a set, and cut into the square views that training sees.

Called by the Download and Prepare stages. Either all photos of a set are good, or one BadSubjectError names every one
that is not; what is odd but usable becomes a warning. PIL and numpy only: no torch. Archives: see `unpack_subject`.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from PIL import Image

from kubooth_trainer.archive import unpack_subject
from kubooth_trainer.errors import BadSubjectError
from kubooth_trainer.photo_check import Finding, check_photos
from kubooth_trainer.photo_files import Photo, listed, photo_files, read_photos

__all__ = ["LoadedSubject", "Photo", "crops", "load_photos", "unpack_subject"]

MAX_PHOTOS = 100
USUAL_PHOTOS = (3, 20)  # the paper uses 3 to 5; far above 20 the usual number of steps is too small

RANDOM_VIEWS = 8
MIN_CROP = 0.8  # of the shorter side


@dataclass(frozen=True, kw_only=True)
class LoadedSubject:
    """The photos in order of their names, and what a person should look at."""

    photos: tuple[Photo, ...]
    findings: tuple[Finding, ...]


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
    files, notes = photo_files(folder)
    if len(files) > MAX_PHOTOS:
        raise BadSubjectError(
            f"subject.images: {folder.name} holds {len(files)} photos, more than {MAX_PHOTOS}: "
            "three to five that show the subject well are enough"
        )
    photos: list[Photo] = []
    for photo, remarks in read_photos(files, resolution=resolution, captions=captions):
        photos.append(photo)
        notes += [Finding(message=remark, photos=(photo.name,)) for remark in remarks]
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
            notes.append(f"Without a caption, so trained with subject.promptTemplate: {listed(without)}.")
        unnamed = [p.name for p in photos if p.caption is not None and "{identifier}" not in p.caption]
        if unnamed:
            notes.append(f"Captions without {{identifier}} do not bind the subject to it: {listed(unnamed)}.")
    return [*found, *(Finding(message=message) for message in notes)]


def _square(image: Image.Image, left: float, top: float, side: float, resolution: int) -> Image.Image:
    box = (left, top, min(left + side, image.width), min(top + side, image.height))
    return image.resize((resolution, resolution), Image.Resampling.LANCZOS, box=box, reducing_gap=3.0)


def _mirrored(image: Image.Image) -> Image.Image:
    return image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
