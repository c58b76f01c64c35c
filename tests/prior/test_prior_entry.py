"""An entry's bytes: whole, or refused with a reason."""

from __future__ import annotations

import io
import random
import struct
import zlib
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from kubooth_trainer.prior_entry import NAME, ClassImage, EntryError, pack, unpack

KEY, OTHER = "ab" * 32, "cd" * 32


def class_image() -> ClassImage:
    buffer = io.BytesIO()
    Image.fromarray(np.arange(192, dtype=np.uint8).reshape(8, 8, 3)).save(buffer, format="PNG")
    return ClassImage(png=buffer.getvalue(), latent=np.arange(16, dtype=np.float32).reshape(4, 2, 2), seconds=1.5)


def test_what_is_packed_comes_out() -> None:
    image = class_image()
    again = unpack(pack(image, key=KEY, index=7), key=KEY, index=7, resolution=8)
    assert (again.png, again.seconds) == (image.png, image.seconds)
    assert np.array_equal(again.latent, image.latent) and again.latent.dtype == np.float32


@pytest.mark.parametrize("bit", [random.Random(5).randrange(8 * 900) for _ in range(60)])
def test_no_flipped_bit_changes_a_picture_or_a_latent(bit: int) -> None:
    image = class_image()
    data = bytearray(pack(image, key=KEY, index=7))
    data[bit // 8 % len(data)] ^= 1 << bit % 8
    try:
        again = unpack(bytes(data), key=KEY, index=7, resolution=8)
    except EntryError:
        return
    assert (again.png, again.seconds) == (image.png, image.seconds)  # white space of the header
    assert np.array_equal(again.latent, image.latent)


@pytest.mark.parametrize("length", [0, 1, 7, 8, 9, 60, 300, -1])
def test_a_torn_entry_is_refused(length: int) -> None:
    with pytest.raises(EntryError):
        unpack(pack(class_image(), key=KEY, index=7)[:length], key=KEY, index=7, resolution=8)


@pytest.mark.parametrize(
    ("key", "index", "resolution"), [(OTHER, 7, 8), (KEY, 8, 8), (KEY, 7, 16)], ids=["key", "index", "resolution"]
)
def test_an_entry_of_something_else_is_refused(key: str, index: int, resolution: int) -> None:
    with pytest.raises(EntryError):
        unpack(pack(class_image(), key=KEY, index=7), key=key, index=index, resolution=resolution)


@pytest.mark.parametrize("side", [16, 60_000])
def test_a_picture_of_another_size_is_refused_unread(side: int) -> None:
    image = class_image()
    header = b"IHDR" + struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    png = image.png[:12] + header + struct.pack(">I", zlib.crc32(header)) + image.png[33:]
    data = pack(replace(image, png=png), key=KEY, index=7)
    with pytest.raises(EntryError):
        unpack(data, key=KEY, index=7, resolution=8)


@pytest.mark.parametrize("seconds", [float("inf"), float("nan"), -1.0])
def test_an_absurd_cost_is_refused(seconds: float) -> None:
    with pytest.raises(EntryError):
        unpack(pack(replace(class_image(), seconds=seconds), key=KEY, index=7), key=KEY, index=7, resolution=8)


@pytest.mark.parametrize("data", [b"", b"x", b"\xff" * 100, b"GIF89a" * 50, b"{}" * 40])
def test_foreign_bytes_are_refused(data: bytes) -> None:
    with pytest.raises(EntryError):
        unpack(data, key=KEY, index=0, resolution=8)


@pytest.mark.parametrize(
    ("name", "ours"),
    [
        (f"{KEY}/00012.safetensors", True),
        (f"shared/{KEY}/prior.json", True),
        (f"namespaces/team-a/{KEY}/claim-00003.json", True),
        (f"{KEY}/notes.txt", False),
        (f"{KEY}/deep/00012.safetensors", False),
        ("00012.safetensors", False),
        (f"{KEY[:60]}/prior.json", False),
    ],
)
def test_only_our_own_names_are_ours(name: str, ours: bool) -> None:
    assert bool(NAME.fullmatch(name)) == ours
