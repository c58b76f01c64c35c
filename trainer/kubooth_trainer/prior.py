"""Class images for prior preservation: taken from the cache that jobs share, or sampled from the frozen model.

Kept in the work folder under a key of everything that decides them: what a restart finds whole is not made again.
Batches have a fixed composition, image 8 b to 8 b + 7, and are always sampled whole: an image is the same, bit for
bit on one kind of device, whatever the number of ranks, the number of images asked for and what the cache held.
Rank 0 decides on each turn which batches are made and alone talks to the cache.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from kubooth_trainer.config import TrainConfig, fill_prompt
from kubooth_trainer.distributed import World
from kubooth_trainer.prior_cache import PriorCache
from kubooth_trainer.prior_entry import ClassImage
from kubooth_trainer.sampling import Sampler, png_bytes, write_whole

BATCH = 8  # images per batch, also the unit handed out to ranks; part of the key, since it decides the last bits
LEAVE, MAKE, TAKEN = 0, 1, 2


def prior_prompt(config: TrainConfig) -> str:
    """The prompt of class images: the class noun without the identifier."""
    return fill_prompt(config.prior.prompt, identifier="", class_name=config.subject.class_name)


def describe_prior(config: TrainConfig, *, model_digest: str, resolution: int, precision: str) -> dict[str, Any]:
    """Everything that decides a class image but its index."""
    prior = config.prior
    return {
        "model": model_digest,
        "prompt": prior_prompt(config),
        "negative": prior.negative_prompt,
        "sampler": prior.sampler.model_dump(),
        "resolution": resolution,
        "precision": precision,
        "seed": config.training.seed,
        "batch": BATCH,
    }


def prior_key(decisive: dict[str, Any]) -> str:
    """SHA-256 (hex) of everything that decides a class image; the image's index completes it."""
    return hashlib.sha256(json.dumps(decisive, sort_keys=True).encode()).hexdigest()


def class_image_paths(folder: Path, count: int) -> list[Path]:
    return [folder / f"{index:05d}.png" for index in range(count)]


def drop_damaged(folder: Path, count: int) -> int:
    """Removes class images that are not whole PNG files (a kill while writing cannot cause one, a bad disk can)."""
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


@dataclass(frozen=True, kw_only=True)
class PriorProgress:
    """Who hears of the work: `moved` on rank 0 alone, `advance` (images that stand) on all ranks together."""

    moved: Callable[[], None]
    advance: Callable[[int], None]


@dataclass(frozen=True, kw_only=True)
class PriorCount:
    """Where the class images came from; on rank 0. `seconds_saved` is what its devices would have taken."""

    taken: int
    made: int
    seconds_saved: float


def prior_words(count: PriorCount, ready: int) -> str:
    """Where the class images came from, for a person; `ready` were in the work folder from an earlier start."""
    parts = [f"{ready} were there"] if ready else []
    if count.taken:
        parts.append(f"{count.taken} from the cache")
        if count.made:
            parts.append(f"{count.made} made")
        parts.append(f"{count.seconds_saved:.1f}s saved")
    return ", ".join(parts)


class PriorMaker:
    """Makes the class images of one job whole in `folder`, on every node."""

    def __init__(
        self, config: TrainConfig, folder: Path, *, world: World, cache: PriorCache | None,
        load: Callable[[], Sampler],
    ) -> None:  # fmt: skip
        """`cache` is rank 0's; `load` is called, on all ranks, when there is something to make."""
        self._prompt = prior_prompt(config)
        self._seed = config.training.seed
        self._paths = class_image_paths(folder, config.prior.images)
        self._world = world
        self._cache = cache
        self._load = load
        self._sampler: Sampler | None = None
        self._taken = self._made = 0
        self._seconds = 0.0  # of one device, for what was taken

    def run(self, progress: PriorProgress) -> PriorCount:
        """Collective."""
        total = -(-len(self._paths) // BATCH)
        there = self._from_main([int(self._is_whole(batch)) for batch in range(total)])
        todo = [batch for batch in range(total) if not there[batch]]
        while todo:
            verdicts = [0] * len(todo)
            if self._world.is_main:
                verdicts = self._decide(todo, progress.moved)
            self._world.barrier()  # rank 0 may have read for long
            verdicts = self._from_main(verdicts)
            make = [batch for batch, verdict in zip(todo, verdicts, strict=True) if verdict == MAKE]
            if make:
                self._make(make)
            todo = [batch for batch, verdict in zip(todo, verdicts, strict=True) if verdict == LEAVE]
            progress.advance(len(self._paths) - sum(len(self._needed(batch)) for batch in todo))
        self._world.barrier()
        self._share(total)
        return PriorCount(taken=self._taken, made=self._made, seconds_saved=self._seconds / self._world.size)

    def _decide(self, todo: list[int], moved: Callable[[], None]) -> list[int]:
        """One verdict for each batch: made in this turn, taken from the cache, or left for a later turn."""
        size, cache = self._world.size, self._cache
        if cache is None:
            return [MAKE if place < size else LEAVE for place in range(len(todo))]
        cache.look()
        taken = {batch for batch in todo if self._take(cache, batch, moved)}
        make: list[int] = []
        for batch in todo:
            if len(make) < size and batch not in taken and cache.claim(batch):
                make.append(batch)
        if make:
            cache.look()  # who held a claim until now has finished
            for batch in make:
                if self._take(cache, batch, moved):
                    taken.add(batch)
                    cache.release(batch)
        elif not taken:
            cache.wait()
            moved()
        return [TAKEN if batch in taken else MAKE if batch in make else LEAVE for batch in todo]

    def _take(self, cache: PriorCache, batch: int, moved: Callable[[], None]) -> bool:
        """Whether the batch is whole now, by images from the cache."""
        missing = [index for index in self._needed(batch) if not self._paths[index].exists()]
        if not cache.has(missing):
            return False
        seconds = cache.take(missing, lambda index, png: write_whole(self._paths[index], png), moved)
        if not self._is_whole(batch):
            return False
        self._taken += len(missing)
        self._seconds += seconds
        return True

    def _make(self, make: list[int]) -> None:
        """Samples one batch per rank and writes the pictures on every node. Collective."""
        world = self._world
        sampler = self._sampler = self._sampler or self._load()
        side = sampler.resolution
        images = torch.zeros((BATCH, side, side, 3), dtype=torch.uint8)
        latents = torch.zeros((BATCH, *sampler.latent_shape))
        began = time.monotonic()
        if world.rank < len(make):
            first = make[world.rank] * BATCH
            seeds = [(self._seed, "prior", index) for index in range(first, first + BATCH)]
            latents = sampler.sample_latents([self._prompt] * BATCH, seeds)
            images = sampler.decode(latents)
        seconds = (time.monotonic() - began) / BATCH
        gathered = zip(make, world.gather(images)[: len(make)], world.gather(latents)[: len(make)], strict=True)
        for batch, pictures, values in gathered:
            if not world.leads_node:
                continue
            made = {
                batch * BATCH + place: ClassImage(png=png_bytes(picture), latent=value.numpy(), seconds=seconds)
                for place, (picture, value) in enumerate(zip(pictures, values, strict=True))
            }
            for index in self._needed(batch):
                write_whole(self._paths[index], made[index].png)
            self._made += len(self._needed(batch))
            if self._cache is not None:
                self._cache.store(batch, made)

    def _share(self, total: int) -> None:
        """Gives what only rank 0's node has to the other nodes, so that all train on the same. Collective."""
        everywhere = self._world.all_true([self._is_whole(batch) for batch in range(total)])
        for batch in [batch for batch in range(total) if not everywhere[batch]]:
            paths = [self._paths[index] for index in self._needed(batch)]
            side = self._from_main([_side(paths[0]) if self._world.is_main else 0])[0]
            pictures = torch.zeros((len(paths), side, side, 3), dtype=torch.uint8)
            if self._world.is_main:
                pictures = torch.stack([torch.from_numpy(_pixels(path)) for path in paths])
            pictures = self._world.broadcast(pictures)
            if self._world.leads_node and not self._world.is_main:
                for path, picture in zip(paths, pictures, strict=True):
                    write_whole(path, png_bytes(picture))
        self._world.barrier()

    def _needed(self, batch: int) -> range:
        """The images of a batch that this job asks for."""
        return range(batch * BATCH, min((batch + 1) * BATCH, len(self._paths)))

    def _is_whole(self, batch: int) -> bool:
        return all(self._paths[index].exists() for index in self._needed(batch))

    def _from_main(self, values: list[int]) -> list[int]:
        """Rank 0's numbers, on all ranks. Collective."""
        return [int(value) for value in self._world.broadcast(torch.tensor(values, dtype=torch.int64)).tolist()]


def _side(path: Path) -> int:
    with Image.open(path) as image:
        return image.width


def _pixels(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.array(image.convert("RGB"))
