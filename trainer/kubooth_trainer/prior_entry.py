"""One class image as the prior cache keeps it: names and bytes. No I/O.

An entry is a safetensors file with the PNG file's bytes and the latent it was decoded from. Its header says of which
prior and which image it is, and carries a digest over all of it, so that a torn, damaged or foreign file is told.

Layout below a cache's URI (or below a namespace's part of it):

    KEY/00000.safetensors    one class image; KEY is `prior.prior_key`
        claim-00000.json     a batch that somebody is making now
        prior.json           what KEY stands for; written anew now and then, so its age says when KEY was last of use
"""

from __future__ import annotations

import hashlib
import io
import json
import re
from dataclasses import dataclass

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save

ABOUT = "prior.json"
MOST_BYTES = 64 << 20  # of an entry: a larger file is none of ours
NAME = re.compile(
    r"(?:(?P<scope>.+)/)?(?P<key>[0-9a-f]{64})/(?P<file>(?P<index>\d{5})\.safetensors|claim-\d{5}\.json|prior\.json)"
)
_FORMAT = "kubooth-prior-1"


class EntryError(ValueError):
    """The bytes are not the entry they should be; the message says what is wrong with them."""


@dataclass(frozen=True)
class ClassImage:
    """A class image. `seconds` is what one device took to make it, for the sum of what a hit saves."""

    png: bytes
    latent: np.ndarray  # float32 [c, h, w], as sampled, in the scale the UNet sees
    seconds: float


def image_name(index: int) -> str:
    return f"{index:05d}.safetensors"


def claim_name(batch: int) -> str:
    return f"claim-{batch:05d}.json"


def pack(image: ClassImage, *, key: str, index: int) -> bytes:
    """The bytes of an entry."""
    tensors = {"latent": np.ascontiguousarray(image.latent, dtype=np.float32), "png": _bytes_array(image.png)}
    metadata = {
        "format": _FORMAT,
        "key": key,
        "index": str(index),
        "seconds": f"{image.seconds:.3f}",
        "sha256": _digest(tensors, key=key, index=index),
    }
    data: bytes = save(tensors, metadata)
    return data


def unpack(data: bytes, *, key: str, index: int, resolution: int) -> ClassImage:
    """The image of these bytes. Raises EntryError where anything is not as `pack` wrote it."""
    try:
        tensors = load(data)
        length = int.from_bytes(data[:8], "little")
        metadata = json.loads(data[8 : 8 + length])["__metadata__"]
        found = metadata["format"], metadata["key"], metadata["index"]
        seconds = float(metadata["seconds"])
        recorded = metadata["sha256"]
    except (SafetensorError, ValueError, KeyError, TypeError) as error:
        raise EntryError(f"it is not a class image ({error})") from error
    if found != (_FORMAT, key, str(index)):
        raise EntryError("it is another prior's, another image or another format")
    if set(tensors) != {"latent", "png"} or recorded != _digest(tensors, key=key, index=index):
        raise EntryError("its digest is wrong")
    png = tensors["png"].tobytes()
    _check_png(png, resolution)
    return ClassImage(png=png, latent=tensors["latent"], seconds=max(0.0, seconds))


def _bytes_array(data: bytes) -> np.ndarray:
    return np.frombuffer(data, dtype=np.uint8)


def _digest(tensors: dict[str, np.ndarray], *, key: str, index: int) -> str:
    """SHA-256 (hex) over key, index and every tensor's type, shape and bytes."""
    digest = hashlib.sha256(f"{_FORMAT} {key} {index}".encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f" {name} {tensor.dtype} {tensor.shape} ".encode())
        digest.update(np.ascontiguousarray(tensor).tobytes())
    return digest.hexdigest()


def _check_png(png: bytes, resolution: int) -> None:
    from PIL import Image

    try:
        with Image.open(io.BytesIO(png), formats=["PNG"]) as image:
            size = image.size
            image.verify()
    except (OSError, SyntaxError, ValueError) as error:
        raise EntryError(f"its picture cannot be read ({error})") from error
    if size != (resolution, resolution):
        raise EntryError(f"its picture has {size[0]} x {size[1]} pixels, not {resolution} x {resolution}")
