"""Photos of a set that show the same thing twice: they weigh double in training and teach nothing new.

Called by `photo_check` with the pictures of one job. Finds equal files, copies that were saved or scaled again,
and mirrored copies; not shifted ones, which a threshold cannot tell from two honest photos in front of one
wall.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

import numpy as np
from PIL import Image

_THUMBNAIL_PIXELS = 16
NEARLY_THE_SAME = 4.0
"""Mean difference of two thumbnails, in grey levels of 255. Copies saved again as JPEG stay below 1; the
closest pair among the real subjects that were looked at (a drawing, five times on white) is at 6."""


def duplicates(
    names: Sequence[str], digests: Sequence[str], images: Sequence[Image.Image]
) -> list[tuple[int, int, str]]:
    """Pairs (first, second, sentence) that are the same file, look the same, or are mirror images.

    Args:
        names: file names, in order.
        digests: of the files; equal for equal files.
        images: RGB, of any size.
    """
    plain = [_thumbnail(image) for image in images]
    mirrored = [thumbnail[:, ::-1] for thumbnail in plain]
    found = []
    for a, b in combinations(range(len(names)), 2):
        pair = f"{names[a]} and {names[b]}"
        if digests[a] == digests[b]:
            found.append((a, b, f"{pair} are the same file: the second adds nothing. Remove one."))
        elif np.abs(plain[a] - plain[b]).mean() < NEARLY_THE_SAME:
            found.append((a, b, f"{pair} are nearly the same picture: the second adds little. Keep the better one."))
        elif np.abs(plain[a] - mirrored[b]).mean() < NEARLY_THE_SAME:
            words = "are nearly mirror images of each other: the second adds little. Keep the better one."
            found.append((a, b, f"{pair} {words}"))
    return found


def _thumbnail(image: Image.Image) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    size = (_THUMBNAIL_PIXELS, _THUMBNAIL_PIXELS)
    return np.asarray(image.convert("RGB").resize(size, Image.Resampling.BOX), dtype=np.float32)
