"""Photos of one subject for examples: `python -m kubooth_world.photos FOLDER`.

The subject is an instance that training never saw (its seed is outside of the training seeds), in four places
and poses. A person sees it at 256 pixels; the trainer resizes.
"""

import argparse
from pathlib import Path
from typing import Final

import numpy as np
from PIL import Image

from kubooth_world.render import render
from kubooth_world.scene import Instance, Scene, sample_instance, sample_scene

SEED: Final = 2
CONTEXTS: Final = ("grass", "snow", "room", "beach")


def subject(seed: int = SEED) -> Instance:
    """Return the dog of the quickstart: orange with white dots, and a shape of its own."""
    return sample_instance(np.random.default_rng(seed), kind="dog", colour="orange", second="white", pattern="dotted")


def scenes(instance: Instance, seed: int = SEED) -> list[Scene]:
    """Return the instance in four places, without a hat."""
    rng = np.random.default_rng(seed + 1)
    return [sample_scene(rng, instance, context=context, hat="none") for context in CONTEXTS]


def write(folder: Path, seed: int = SEED, size: int = 256) -> None:
    """Write `00.png` to `03.png`, `size` pixels wide and high."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, scene in enumerate(scenes(subject(seed), seed)):
        Image.fromarray(render(scene, size)).save(folder / f"{number:02d}.png", optimize=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seed", type=int, default=SEED)
    parser.add_argument("--size", type=int, default=256, help="pixels")
    options = parser.parse_args()
    write(options.folder, options.seed, options.size)
