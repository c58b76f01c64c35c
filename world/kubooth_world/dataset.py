"""Rendered training data on disk: shards of pictures, labels and captions, made once.

A shard is whole or absent (written aside, then renamed), so an interrupted run goes on where it was.
Arrays are plain npz, never pickled. Called by every training stage.
"""

import multiprocessing
import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from kubooth_world.captions import caption, rival_captions
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
RIVALS: Final = PATTERNS[1:]
"""The patterns of a triple, in order."""
TRIPLES: Final = 500
"""Triples of one file, beside each shard of scenes."""
_SEED: Final = 20_000
_TRIPLES_SEED: Final = 40_000


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
    missing = [path for path in scene_shards(folder, scenes) + triple_shards(folder, scenes) if not path.exists()]
    if not missing:
        return
    context = multiprocessing.get_context("spawn")
    with context.Pool(processes) as pool:
        for done, _ in enumerate(pool.imap_unordered(_make_shard, missing), 1):
            print(f"data: {done}/{len(missing)} shards", flush=True)


def scene_shards(folder: Path, scenes: int) -> list[Path]:
    """Return the files of a set of `scenes`: `images` (SHARD, 64, 64, 3), `captions` (SHARD, CAPTIONS), labels."""
    return [folder / f"scenes-{number:03d}.npz" for number in range(scenes // SHARD)]


def triple_shards(folder: Path, scenes: int) -> list[Path]:
    """Return the files of the triples that belong to a set of `scenes`, one for each of its shards.

    A triple is one scene in every pattern of `RIVALS` and else the same: seen in one batch, all that it shares
    cancels, and what is left is what the pattern's word changes. Arrays: `images` (TRIPLES, 3, 64, 64, 3) and
    `captions` (TRIPLES, CAPTIONS, 3).
    """
    return [folder / f"triples-{number:03d}.npz" for number in range(scenes // SHARD)]


def load(folder: Path, scenes: int) -> Data:
    """Load the first `scenes` scenes of a set made by `make`."""
    shards = scene_shards(folder, scenes)
    return Data(
        images=np.concatenate([load_array(shard, "images") for shard in shards]),
        labels={name: np.concatenate([load_array(shard, name) for shard in shards]) for name in ATTRIBUTES},
        captions=load_captions(folder, scenes),
    )


def load_captions(folder: Path, scenes: int) -> NDArray[np.str_]:
    """Load the captions alone: (scenes, CAPTIONS)."""
    return np.concatenate([load_array(shard, "captions") for shard in scene_shards(folder, scenes)])


def load_array(shard: Path, name: str) -> NDArray[Any]:
    """Load one array of one shard."""
    with np.load(shard, allow_pickle=False) as arrays:
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


def _make_shard(path: Path) -> None:
    kind, _, number = path.stem.partition("-")
    arrays = _scenes(int(number)) if kind == "scenes" else _triples(int(number))
    aside = path.with_suffix(f".{os.getpid()}.part")
    with aside.open("wb") as file:
        np.savez(file, **arrays)  # type: ignore[arg-type]
    aside.replace(path)


def _scenes(number: int) -> dict[str, NDArray[Any]]:
    data = sample(_SEED + number, SHARD // VIEWS, training=True)
    return {"images": data.images, "captions": data.captions, **data.labels}


def _triples(number: int) -> dict[str, NDArray[Any]]:
    rng = np.random.default_rng(_TRIPLES_SEED + number)
    images: list[NDArray[np.uint8]] = []
    captions: list[list[list[str]]] = []
    while len(captions) < TRIPLES:
        first = sample_scene(rng, sample_instance(rng, pattern=RIVALS[0]))
        triple = [replace(first, instance=replace(first.instance, pattern=pattern)) for pattern in RIVALS]
        if not any(held_out(scene) for scene in triple):
            images.append(np.stack([render(scene) for scene in triple]))
            captions.append([rival_captions(first, rng) for _ in range(CAPTIONS)])
    return {"images": np.stack(images), "captions": np.array(captions)}
