"""Pictures that travel inside the page: small enough to mail, sharp enough to judge.

Called by `report`. Small pictures (the bundled model makes 64 x 64) are kept exactly, as PNG; larger ones are
reduced and written as WebP, which every browser of the last five years reads.
"""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass

from PIL import Image

EXACT_PIXELS = 160


@dataclass(frozen=True, kw_only=True)
class Picture:
    """An inlined picture: `source` is a data URI; `alt` says what it shows."""

    source: str
    width: int
    height: int
    alt: str


def inline(image: Image.Image, *, alt: str, most: int) -> Picture:
    """The picture as a data URI, its longer side at most `most` pixels."""
    picture = image.convert("RGB")
    if max(picture.size) > most:
        picture.thumbnail((most, most), Image.Resampling.LANCZOS, reducing_gap=3.0)
    buffer = io.BytesIO()
    if max(picture.size) <= EXACT_PIXELS:
        kind = "png"
        picture.save(buffer, "PNG", optimize=True)
    else:
        kind = "webp"
        picture.save(buffer, "WEBP", quality=86, method=4)
    source = f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}"
    return Picture(source=source, width=picture.width, height=picture.height, alt=alt)
