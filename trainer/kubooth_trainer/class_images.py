"""The class images of a job as files of its work folder: a picture, and beside it the latent it was decoded from."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors import SafetensorError
from safetensors.numpy import load_file, save

from kubooth_trainer.sampling import write_whole


@dataclass(frozen=True, kw_only=True)
class ClassImages:
    """The class images of a job, as files on this node."""

    paths: list[Path]
    key: str | None
    """Of the prior they were sampled from, which says what they are, up to rounding; None: the user's own."""

    def latents(self) -> torch.Tensor:
        """Of sampled ones, as they were sampled: fp32 [n, c, h, w]."""
        return torch.stack([torch.from_numpy(read_latent(path)) for path in self.paths])


def class_image_paths(folder: Path, count: int) -> list[Path]:
    return [folder / f"{index:05d}.png" for index in range(count)]


def class_latent_path(picture: Path) -> Path:
    """Where the latent is kept that a class image was decoded from: beside it."""
    return picture.with_suffix(".safetensors")


def keep_class_image(picture: Path, png: bytes, latent: np.ndarray) -> None:
    """Writes an image and its latent. The picture comes last: an image that has one is whole."""
    write_whole(class_latent_path(picture), save({"latent": np.ascontiguousarray(latent)}))
    write_whole(picture, png)


def read_latent(picture: Path) -> np.ndarray:
    """The latent of a class image: fp32 [c, h, w], as sampled, in the scale the UNet sees."""
    latent: np.ndarray = load_file(class_latent_path(picture))["latent"]
    return latent


def read_pixels(picture: Path) -> np.ndarray:
    """A class image: uint8 [h, w, 3]."""
    with Image.open(picture) as image:
        return np.array(image.convert("RGB"))


def sizes_of(picture: Path) -> list[int]:
    """A class image's side in pixels, and its latent's [c, h, w]."""
    with Image.open(picture) as image:
        return [image.width, *read_latent(picture).shape]


def drop_damaged(folder: Path, count: int) -> int:
    """Removes class images that are not whole (a kill while writing cannot cause one, a bad disk can)."""
    dropped = 0
    for path in class_image_paths(folder, count):
        if path.exists():
            try:
                with Image.open(path) as image:
                    image.verify()  # checks every chunk's CRC
                read_latent(path)
            except (OSError, SyntaxError, SafetensorError, KeyError):
                path.unlink()
                dropped += 1
    return dropped
