"""Class images for prior preservation: sampled from the frozen model, or brought by the user.

Kept under a key of everything that decides them, with a list of digests: what a restart finds whole is not made again.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

from kubooth_trainer.config import TrainConfig, fill_prompt
from kubooth_trainer.distributed import World
from kubooth_trainer.sampling import Picture, Sampler, make_pictures

BATCH = 8  # images per batch, also the unit handed out to ranks; part of the key, since it decides the last bits


def prior_prompt(config: TrainConfig) -> str:
    """The prompt of class images: the class noun without the identifier."""
    return fill_prompt(config.prior.prompt, identifier="", class_name=config.subject.class_name)


def prior_key(config: TrainConfig, *, model_digest: str, resolution: int, precision: str) -> str:
    """SHA-256 (hex) of everything that decides a class image; the image's index completes it."""
    prior = config.prior
    decisive = {
        "model": model_digest,
        "prompt": prior_prompt(config),
        "negative": prior.negative_prompt,
        "sampler": prior.sampler.model_dump(),
        "resolution": resolution,
        "precision": precision,
        "seed": config.training.seed,
        "batch": BATCH,
    }
    return hashlib.sha256(json.dumps(decisive, sort_keys=True).encode()).hexdigest()


def class_image_paths(folder: Path, count: int) -> list[Path]:
    return [folder / f"{index:05d}.png" for index in range(count)]


def drop_damaged(folder: Path, count: int) -> int:
    """Removes class images that are not whole PNG files (a kill while writing cannot cause one, a bad disk can)."""
    from PIL import Image

    dropped = 0
    for path in class_image_paths(folder, count):
        if path.exists():
            try:
                with Image.open(path) as image:
                    image.verify()  # checks every chunk's CRC
            except (OSError, SyntaxError):
                path.unlink()
                dropped += 1
    return dropped


def generate_prior(
    config: TrainConfig, sampler: Sampler, folder: Path, *, world: World, on_progress: Callable[[int], None]
) -> list[Path]:
    """Makes the missing class images in `folder` (one per key). Collective. Returns all paths in order."""
    paths = class_image_paths(folder, config.prior.images)
    pictures = [
        Picture(path=path, prompt=prior_prompt(config), seed=(config.training.seed, "prior", index))
        for index, path in enumerate(paths)
    ]
    make_pictures(sampler, pictures, batch=BATCH, world=world, on_progress=on_progress)
    return paths
