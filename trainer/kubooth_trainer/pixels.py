"""Any decoded photo as upright 8-bit sRGB, the one form that the rest of the trainer knows.

Called by `subject` for every photo: orientation from EXIF, 16 bit and float scaled to 8, alpha laid on white,
an embedded colour profile converted to sRGB where PIL can.
"""

from __future__ import annotations

import io
import struct

import numpy as np
from PIL import Image, ImageCms

_ORIENTATION_TAG = 0x0112
_TO_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB"))


def upright_srgb(image: Image.Image) -> Image.Image:
    """A new RGB image of 8 bits per channel, upright. `image` is loaded, of any mode that PIL knows."""
    turn = _TO_UPRIGHT.get(_orientation(image))
    profile = image.info.get("icc_profile")
    rgb = _to_srgb(_without_alpha(_eight_bit(image)), profile)
    return rgb.transpose(turn) if turn is not None else rgb


def _orientation(image: Image.Image) -> int:
    """EXIF orientation 1 to 8; 1 where the metadata is damaged, since the pixels may still be good."""
    try:
        value = image.getexif().get(_ORIENTATION_TAG, 1)
    except (SyntaxError, ValueError, TypeError, KeyError, OSError, struct.error):
        return 1
    return value if isinstance(value, int) else 1


def _eight_bit(image: Image.Image) -> Image.Image:
    """PIL clips 16 bit and float pixels when it converts them; they are scaled instead."""
    if not image.mode.startswith(("I", "F")):
        return image
    values = np.nan_to_num(np.asarray(image, dtype=np.float64), nan=0.0, posinf=0.0, neginf=0.0)
    top = float(values.max(initial=0.0))
    full = 1.0 if image.mode == "F" and top <= 1 else 255.0 if top <= 255 and image.mode != "I;16" else 65535.0
    return Image.fromarray(np.clip(values / full * 255.0 + 0.5, 0, 255).astype(np.uint8), "L")


def _without_alpha(image: Image.Image) -> Image.Image:
    """Transparent pixels laid on white. L, RGB and CMYK stay as they are: colour profiles speak of those."""
    if image.has_transparency_data or image.mode in ("La", "RGBa"):
        rgba = image.convert("RGBA")
        white = Image.new("RGBA", rgba.size, "white")
        return Image.alpha_composite(white, rgba).convert("RGB")
    return image if image.mode in ("L", "RGB", "CMYK") else image.convert("RGB")


def _to_srgb(image: Image.Image, profile: bytes | None) -> Image.Image:
    if not profile:
        return image.convert("RGB")
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        if image.mode == "RGB" and "sRGB" in ImageCms.getProfileDescription(source):
            return image.copy()
        converted = ImageCms.profileToProfile(
            image, source, _SRGB, ImageCms.Intent.RELATIVE_COLORIMETRIC, outputMode="RGB"
        )
    except (ImageCms.PyCMSError, OSError, TypeError, ValueError):
        return image.convert("RGB")  # a broken profile, or one of another colour space
    return converted if converted is not None else image.convert("RGB")
