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
MOST_SECONDS = 1e6  # that one image may have taken
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
    place = {"format": _FORMAT, "key": key, "index": str(index), "seconds": f"{image.seconds:.3f}"}
    metadata = {**place, "sha256": _digest(tensors, place)}
    data: bytes = save(tensors, metadata)
    return data


def unpack(data: bytes, *, key: str, index: int, resolution: int) -> ClassImage:
    """The image of these bytes. Raises EntryError where anything is not as `pack` wrote it."""
    try:
        tensors = load(data)
        length = int.from_bytes(data[:8], "little")
        metadata = json.loads(data[8 : 8 + length])["__metadata__"]
        place = {name: metadata[name] for name in ("format", "key", "index", "seconds")}
        seconds = float(place["seconds"])
        recorded = metadata["sha256"]
    except (SafetensorError, ValueError, KeyError, TypeError) as error:
        raise EntryError(f"it is not a class image ({error})") from error
    if (place["format"], place["key"], place["index"]) != (_FORMAT, key, str(index)):
        raise EntryError("it is another prior's, another image or another format")
    if set(tensors) != {"latent", "png"} or recorded != _digest(tensors, place):
        raise EntryError("its digest is wrong")
    if not 0 <= seconds < MOST_SECONDS:
        raise EntryError(f"it took {seconds} seconds")
    png = tensors["png"].tobytes()
    _check_png(png, resolution)
    return ClassImage(png=png, latent=tensors["latent"], seconds=seconds)


def _bytes_array(data: bytes) -> np.ndarray:
    return np.frombuffer(data, dtype=np.uint8)


def _digest(tensors: dict[str, np.ndarray], place: dict[str, str]) -> str:
    """SHA-256 (hex) over the rest of the header and every tensor's type, shape and bytes."""
    digest = hashlib.sha256(json.dumps(place, sort_keys=True).encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f" {name} {tensor.dtype} {tensor.shape} ".encode())
        digest.update(np.ascontiguousarray(tensor).tobytes())
    return digest.hexdigest()


def _check_png(png: bytes, resolution: int) -> None:
    from PIL import Image

    try:
        with Image.open(io.BytesIO(png), formats=["PNG"]) as image:
            if image.size != (resolution, resolution):
                raise EntryError(f"its picture has {image.width} x {image.height} pixels, not {resolution}")
            image.load()
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise EntryError(f"its picture cannot be read ({error})") from error
