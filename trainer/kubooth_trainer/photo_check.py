"""What a person would change about a set of photos before training: found from the pixels alone.

Called by `subject` with the decoded photos of one job; `recognition` adds what only an encoder can tell. Nothing
here stops a job: each finding is a sentence that names its photos and says what to do. PIL and numpy only.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from kubooth_trainer.duplicates import duplicates

SIDE = 256
"""Pixels of the shorter side at which sharpness is judged; a smaller photo is judged as it is."""
TILES = 8  # on each side
SHARPEST_TILES = 6  # a tenth: a sharp subject before a blurred background is a sharp photo
LEAST_SHARPNESS = 50.0
"""Variance of the Laplacian, in grey levels of 255. At 256 pixels the five photos of examples/dog are at 830 to
1,290 and at 11 or less once they were blurred by 1% of their side (5 pixels at a resolution of 512); drawings are at
5,200 and 28. Blurred by half a percent, photos are at about 50."""
LEAST_CONTRAST = 4.0  # standard deviation in grey levels of every channel: JPEG noise on one colour stays below 2
MOST_UNLIKE = 90.0
"""Grey levels between a photo's mean and the median of the others', of 255. The photos of examples/dog differ by up to
50, and a drawn night from drawn days by some 85: such variety teaches; beyond it something went wrong."""
FEWEST_TO_COMPARE = 3

Grey = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One thing to look at. `photos` are the file names that it is about; none: the set as a whole."""

    message: str
    photos: tuple[str, ...] = ()


def check_photos(names: Sequence[str], digests: Sequence[str], images: Sequence[Image.Image]) -> list[Finding]:
    """Photos that are even, blurred, far brighter or darker than the others, or there twice.

    Args:
        names: file names, in order.
        digests: of the files; equal for equal files.
        images: RGB, of any size.
    """
    greys = [_grey(image) for image in images]
    even = [_is_even(image) for image in images]
    findings = [_even_finding(name, image) for name, image, is_even in zip(names, images, even, strict=True) if is_even]
    for name, grey, is_even in zip(names, greys, even, strict=True):
        if not is_even and sharpness(grey) < LEAST_SHARPNESS:
            message = f"{name} is blurred: replace it by a sharp photo, or the pictures will be soft too."
            findings.append(Finding(message=message, photos=(name,)))
    findings += _unlike_in_brightness(names, [float(grey.mean()) for grey in greys])
    return findings + [
        Finding(message=message, photos=(names[a], names[b])) for a, b, message in duplicates(names, digests, images)
    ]


def sharpness(grey: Grey) -> float:
    """Mean variance of the Laplacian [h, w] over the sharpest tenth of the tiles. Low: nothing in it is sharp."""
    laplacian = 4 * grey[1:-1, 1:-1] - grey[:-2, 1:-1] - grey[2:, 1:-1] - grey[1:-1, :-2] - grey[1:-1, 2:]
    rows = np.array_split(laplacian, TILES, axis=0)
    variances = [tile.var() for row in rows for tile in np.array_split(row, TILES, axis=1) if tile.size]
    return float(np.mean(sorted(variances)[-SHARPEST_TILES:]))


def _grey(image: Image.Image) -> Grey:
    """Grey levels, the shorter side at most SIDE pixels."""
    scale = SIDE / min(image.size)
    grey = image.convert("L")
    if scale < 1:
        size = (round(image.width * scale), round(image.height * scale))
        grey = grey.resize(size, Image.Resampling.LANCZOS, reducing_gap=3.0)
    return np.asarray(grey, dtype=np.float64)


def _is_even(image: Image.Image) -> bool:
    small = image.resize((32, 32), Image.Resampling.BOX)
    return bool(np.asarray(small, dtype=np.float64).std(axis=(0, 1)).max() < LEAST_CONTRAST)


def _even_finding(name: str, image: Image.Image) -> Finding:
    what = "is one single colour" if image.getcolors(1) is not None else "is almost one even colour"
    return Finding(message=f"{name} {what}: it shows no subject. Remove it.", photos=(name,))


def _unlike_in_brightness(names: Sequence[str], means: Sequence[float]) -> list[Finding]:
    findings = []
    for index, (name, mean) in enumerate(zip(names, means, strict=True)):
        others = [*means[:index], *means[index + 1 :]]
        if len(others) + 1 < FEWEST_TO_COMPARE:
            break
        usual = float(np.median(others))
        if abs(mean - usual) > MOST_UNLIKE:
            message = (
                f"{name} is far {'brighter' if mean > usual else 'darker'} than the other photos (mean {mean:.0f} of "
                f"255, theirs {usual:.0f}): see that the subject can be made out in it, or replace it."
            )
            findings.append(Finding(message=message, photos=(name,)))
    return findings
