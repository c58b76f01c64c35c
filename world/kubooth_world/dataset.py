"""Rendered training data on disk: shards of pictures, labels and captions, made once.

A shard is whole or absent (written aside, then renamed), so an interrupted run goes on where it was.
Arrays are plain npz, never pickled. Called by every training stage.
"""

import multiprocessing
import os
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from kubooth_world.captions import caption
from kubooth_world.render import SIZE, render
from kubooth_world.scene import Scene, held_out, sample_instance, sample_scene
from kubooth_world.vocabulary import CLASSES, COLOURS, CONTEXTS, HATS, PATTERNS

VIEWS: Final = 4
"""Scenes of each instance."""
CAPTIONS: Final = 4
"""Captions of each scene."""
ATTRIBUTES: Final[dict[str, tuple[str, ...]]] = {
    "kind": CLASSES,
    "colour": tuple(COLOURS),
    "pattern": PATTERNS,
    "context": tuple(CONTEXTS),
    "hat": HATS,
}
SHARD: Final = 2000
"""Scenes of one file."""
_SEED: Final = 20_000


@dataclass(frozen=True, kw_only=True)
class Data:
    """All scenes of a set, in memory; scene i shows instance i // VIEWS."""

    images: NDArray[np.uint8]
    """(n, 64, 64, 3)"""
    labels: dict[str, NDArray[np.int64]]
    """Attribute name to (n,) indices into its list in `ATTRIBUTES`."""
    captions: NDArray[np.str_]
    """(n, CAPTIONS)"""


def make(folder: Path, scenes: int, processes: int = 2) -> None:
    """Render the missing shards of a training set of `scenes` scenes."""
    folder.mkdir(parents=True, exist_ok=True)
    missing = [n for n in range(scenes // SHARD) if not _path(folder, n).exists()]
    if not missing:
        return
    context = multiprocessing.get_context("spawn")
    with context.Pool(processes) as pool:
        for done, _ in enumerate(pool.imap_unordered(partial(_make_shard, folder), missing), 1):
            print(f"data: {done}/{len(missing)} shards", flush=True)


def load(folder: Path, scenes: int) -> Data:
    """Load the first `scenes` scenes of a set made by `make`."""
    parts = range(scenes // SHARD)
    return Data(
        images=np.concatenate([load_array(folder, n, "images") for n in parts]),
        labels={name: np.concatenate([load_array(folder, n, name) for n in parts]) for name in ATTRIBUTES},
        captions=load_captions(folder, scenes),
    )


def load_captions(folder: Path, scenes: int) -> NDArray[np.str_]:
    """Load the captions alone: (scenes, CAPTIONS)."""
    return np.concatenate([load_array(folder, n, "captions") for n in range(scenes // SHARD)])


def load_array(folder: Path, number: int, name: str) -> NDArray[Any]:
    """Load one array of one shard of SHARD scenes."""
    with np.load(_path(folder, number), allow_pickle=False) as arrays:
        loaded: NDArray[Any] = arrays[name]
        return loaded


def sample(seed: int, instances: int, *, training: bool) -> Data:
    """Render scenes of random instances; training data never shows a held-out combination."""
    rng = np.random.default_rng(seed)
    scenes: list[Scene] = []
    for _ in range(instances):
        instance = sample_instance(rng)
        views: list[Scene] = []
        while len(views) < VIEWS:
            scene = sample_scene(rng, instance)
            if not (training and held_out(scene)):
                views.append(scene)
        scenes += views
    return describe(scenes, rng)


def describe(scenes: list[Scene], rng: np.random.Generator) -> Data:
    """Render given scenes and attach labels and captions."""
    images = np.empty((len(scenes), SIZE, SIZE, 3), dtype=np.uint8)
    for n, scene in enumerate(scenes):
        images[n] = render(scene)
    words = {
        "kind": [scene.instance.kind for scene in scenes],
        "colour": [scene.instance.colour for scene in scenes],
        "pattern": [scene.instance.pattern for scene in scenes],
        "context": [scene.context for scene in scenes],
        "hat": [scene.hat for scene in scenes],
    }
    return Data(
        images=images,
        labels={
            name: np.array([ATTRIBUTES[name].index(word) for word in values], dtype=np.int64)
            for name, values in words.items()
        },
        captions=np.array([[caption(scene, rng) for _ in range(CAPTIONS)] for scene in scenes]),
    )


def _make_shard(folder: Path, number: int) -> None:
    data = sample(_SEED + number, SHARD // VIEWS, training=True)
    path = _path(folder, number)
    aside = path.with_suffix(f".{os.getpid()}.part")
    with aside.open("wb") as file:
        np.savez(file, images=data.images, captions=data.captions, **data.labels)  # type: ignore[arg-type]
    aside.replace(path)


def _path(folder: Path, number: int) -> Path:
    return folder / f"scenes-{number:03d}.npz"
