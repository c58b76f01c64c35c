"""Any mode and orientation that cameras and editors write ends as upright 8-bit sRGB."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image, ImageCms

from kubooth_trainer.pixels import upright_srgb


def marked(mode: str = "RGB") -> Image.Image:
    """White, 12 x 8, with a black 3 x 2 block in the top left corner."""
    image = Image.new("RGB", (12, 8), "white")
    image.paste("black", (0, 0, 3, 2))
    return image.convert(mode)


TURNS = {
    1: None,
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}


@pytest.mark.parametrize("orientation", TURNS, ids=lambda value: f"orientation {value}")
def test_exif_orientation(orientation: int) -> None:
    """A camera held that way stores the picture turned; it must come back as it was."""
    turn = TURNS[orientation]
    stored = marked() if turn is None else marked().transpose(turn)
    exif = Image.Exif()
    exif[0x0112] = orientation
    buffer = io.BytesIO()
    stored.save(buffer, "PNG", exif=exif)
    assert upright_srgb(Image.open(buffer)).tobytes() == marked().tobytes()


def transparent() -> Image.Image:
    image = marked("RGBA")
    image.paste((255, 0, 0, 0), (6, 4, 12, 8))
    return image


def palette_with_transparency() -> Image.Image:
    image = marked("RGB").convert("P")
    image.info["transparency"] = image.getpixel((11, 7))
    return image


def sixteen_bit() -> Image.Image:
    return Image.fromarray(np.asarray(marked("L"), dtype=np.uint16) * 257)


MODES = {
    "RGB": marked(),
    "grey": marked("L"),
    "one bit": marked("1"),
    "palette": marked("P"),
    "CMYK": marked("CMYK"),
    "YCbCr": marked("YCbCr"),
    "RGBA on white": transparent(),
    "grey with alpha": marked("LA"),
    "premultiplied": marked("RGBA").convert("RGBa"),
    "palette with a transparent colour": palette_with_transparency(),
    "16 bit": sixteen_bit(),
    "32 bit integer": marked("I"),
    "float 0 to 1": Image.fromarray(np.asarray(marked("L"), dtype=np.float32) / 255),
    "float 0 to 255": marked("F"),
}


@pytest.mark.parametrize("image", MODES.values(), ids=MODES.keys())
def test_modes(image: Image.Image) -> None:
    rgb = upright_srgb(image)
    assert rgb.mode == "RGB"
    difference = np.abs(np.asarray(rgb, dtype=int) - np.asarray(marked(), dtype=int))
    assert difference.max() <= 1


def test_a_foreign_colour_profile_is_converted() -> None:
    lab = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB"))
    image = Image.new("RGB", (4, 4), (200, 40, 40))
    image.info["icc_profile"] = lab.tobytes()
    assert upright_srgb(image).getpixel((0, 0)) == (200, 40, 40)  # does not fit RGB: left alone
    swapped = Image.new("RGB", (4, 4), (200, 40, 40))
    swapped.info["icc_profile"] = wide_gamut_profile()
    red, green, blue = upright_srgb(swapped).getpixel((0, 0))
    assert red > 205
    assert abs(green - blue) < 30


def wide_gamut_profile() -> bytes:
    """The built-in sRGB profile with its red and green primaries moved outwards and another name."""
    data = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    text = data.find("sRGB".encode("utf-16-be"))
    while text >= 0:
        data[text : text + 8] = "wide".encode("utf-16-be")
        text = data.find("sRGB".encode("utf-16-be"))
    count = int.from_bytes(data[128:132], "big")
    for index in range(count):
        entry = 132 + 12 * index
        if bytes(data[entry : entry + 4]) == b"rXYZ":
            at = int.from_bytes(data[entry + 4 : entry + 8], "big") + 8
            for offset, value in enumerate((0.55, 0.28, 0.01)):
                data[at + 4 * offset : at + 4 * offset + 4] = round(value * 65536).to_bytes(4, "big")
    return bytes(data)


def test_a_broken_profile_is_ignored() -> None:
    image = marked()
    image.info["icc_profile"] = b"not a profile"
    assert upright_srgb(image).tobytes() == marked().tobytes()
