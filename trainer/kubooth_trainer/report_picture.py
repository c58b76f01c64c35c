"""Pictures that travel inside the page: small enough to mail, sharp enough to judge.

Called by `report`. Small pictures (the bundled model makes 64 x 64) are kept exactly, as PNG; larger ones are
reduced and written as WebP, which every browser of the last five years reads.
"""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass
from typing import Annotated, Any

from PIL import Image
from pydantic import PlainSerializer, PlainValidator

EXACT_PIXELS = 160
MOST_PIXELS = 448  # of the longer side of a picture that is kept


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


def _encoded(image: Image.Image) -> str:
    return inline(image, alt="", most=MOST_PIXELS).source


def _decoded(value: Any) -> Image.Image:
    if isinstance(value, Image.Image):
        return value
    head, _, data = str(value).partition(",")
    if not head.startswith("data:image/"):
        raise ValueError("must be a picture as a data URI")
    try:
        with Image.open(io.BytesIO(base64.b64decode(data, validate=True)), formats=("PNG", "WEBP")) as image:
            return image.convert("RGB")
    except OSError as error:
        raise ValueError(f"is no picture: {error}") from error


StoredImage = Annotated[Image.Image, PlainValidator(_decoded), PlainSerializer(_encoded, return_type=str)]
"""A picture that pydantic writes as a data URI and reads again, as `inline` makes it."""
