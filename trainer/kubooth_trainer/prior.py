"""Class images for prior preservation: taken from the cache that jobs share, or sampled from the frozen model.

Kept in the work folder under a key of everything that decides them: what a restart finds whole is not made again.
Batches have a fixed composition, image 8 b to 8 b + 7, and are always sampled whole: an image is the same, bit for
bit on one kind of device, whatever the number of ranks, the number of images asked for and what the cache held.
Rank 0 decides round by round which batches are made, and alone talks to the cache; within a round each rank takes the
next batch when it has finished one, so that a slow rank makes fewer.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from kubooth_trainer.class_images import class_image_paths, keep_class_image, read_latent, read_pixels, sizes_of
from kubooth_trainer.config import TrainConfig, fill_prompt
from kubooth_trainer.distributed import Tickets, World
from kubooth_trainer.prior_cache import PriorCache
from kubooth_trainer.prior_entry import ClassImage
from kubooth_trainer.sampling import Sampler, png_bytes

BATCH = 8  # images per batch, also the unit handed out to ranks; part of the key, since it decides the last bits
ROUND = 4  # batches per rank in a round of several ranks: the wait for the slowest comes once a round
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
        "sampler": prior.sampler.without_defaults(),
        "resolution": resolution,
        "precision": precision,
        "seed": config.training.seed,
        "batch": BATCH,
    }


def prior_key(decisive: dict[str, Any]) -> str:
    """SHA-256 (hex) of everything that decides a class image; the image's index completes it."""
    return hashlib.sha256(json.dumps(decisive, sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True, kw_only=True)
class PriorProgress:
    """Who hears of the work: `moved` on rank 0 alone, `made` (images that stand) on any rank alone, `advance` (the
    same) on all ranks together. `stopping` says whether this rank was told to stop."""

    moved: Callable[[], None]
    made: Callable[[int], None]
    advance: Callable[[int], None]
    stopping: Callable[[], bool]


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
        self._rounds = 0
        self._taken = self._made = 0
        self._seconds = 0.0  # of one device, for what was taken

    def run(self, progress: PriorProgress) -> PriorCount:
        """Collective."""
        total = -(-len(self._paths) // BATCH)
        there = self._world.as_main([int(self._is_whole(batch)) for batch in range(total)])
        todo = [batch for batch in range(total) if not there[batch]]
        while todo:
            verdicts = [0] * len(todo)
            if self._world.is_main:
                verdicts = self._decide(todo, progress.moved)
            self._world.barrier()  # rank 0 may have read for long
            verdicts = self._world.as_main(verdicts)
            taken = {batch for batch, verdict in zip(todo, verdicts, strict=True) if verdict == TAKEN}
            make = [batch for batch, verdict in zip(todo, verdicts, strict=True) if verdict == MAKE]
            if make:
                standing = len(self._paths) - sum(len(self._needed(batch)) for batch in todo if batch not in taken)
                self._make(make, standing, progress)
            todo = [batch for batch in todo if batch not in taken and batch not in make]
            progress.advance(len(self._paths) - sum(len(self._needed(batch)) for batch in todo))
        self._world.barrier()
        self._share(total, progress.made)
        return PriorCount(taken=self._taken, made=self._made, seconds_saved=self._seconds / self._world.size)

    def _decide(self, todo: list[int], moved: Callable[[], None]) -> list[int]:
        """One verdict for each batch: made in this round, taken from the cache, or left for a later round."""
        size = 1 if self._world.size == 1 else ROUND * self._world.size
        cache = self._cache
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
        seconds = cache.take(
            missing, lambda index, image: keep_class_image(self._paths[index], image.png, image.latent), moved
        )
        if not self._is_whole(batch):
            return False
        self._taken += len(missing)
        self._seconds += seconds
        return True

    def _make(self, make: list[int], standing: int, progress: PriorProgress) -> None:
        """Samples the batches of a round, each on the rank that is free, and shares them. Collective.

        After a request to stop nothing new is begun. `standing` images are there before.
        """
        sampler = self._sampler = self._sampler or self._load()
        self._rounds += 1
        tickets = Tickets(self._world, f"prior/{self._rounds}")
        mine: dict[int, _Made] = {}
        while not progress.stopping() and (place := tickets.take()) < len(make):
            mine[place] = self._sample(sampler, make[place])
            progress.made(min(standing + tickets.finish() * BATCH, len(self._paths)))
        if progress.stopping():
            tickets.close()
        self._world.barrier()  # a rank may be long at its last batch
        owners = torch.zeros((len(make),), dtype=torch.int64)
        owners[list(mine)] = 1
        for place, rank in enumerate(_owners(self._world.gather(owners))):
            if rank is not None:
                self._exchange(make[place], mine.get(place) or _Made.empty(sampler), rank)

    def _sample(self, sampler: Sampler, batch: int) -> _Made:
        """Makes a batch, and writes what the job needs of it on this node."""
        first = batch * BATCH
        began = time.monotonic()
        latents = sampler.sample_latents(
            [self._prompt] * BATCH, [(self._seed, "prior", index) for index in range(first, first + BATCH)]
        )
        images = sampler.decode(latents)
        seconds = (time.monotonic() - began) / BATCH
        made = _Made(images, latents.cpu(), torch.tensor([seconds], dtype=torch.float64), _encoded(images))
        for index in self._needed(batch):
            keep_class_image(self._paths[index], made.pngs[index - first], made.latents[index - first].numpy())
        return made

    def _exchange(self, batch: int, made: _Made, rank: int) -> None:
        """Gives a batch that `rank` has made to every node, and to the cache. Collective."""
        images = self._world.broadcast(made.images, rank)
        latents = self._world.broadcast(made.latents, rank)
        seconds = float(self._world.broadcast(made.seconds, rank))
        needed = self._needed(batch)
        self._made += len(needed)
        if not self._world.leads_node:
            return
        missing = [index for index in needed if not self._paths[index].exists()]  # made on another node
        pngs = made.pngs
        if not pngs and (missing or self._cache is not None):
            pngs = _encoded(images)
        for index in missing:
            place = index - batch * BATCH
            keep_class_image(self._paths[index], pngs[place], latents[place].numpy())
        if self._cache is not None:
            whole = {
                batch * BATCH + place: ClassImage(png=png, latent=value.numpy(), seconds=seconds)
                for place, (png, value) in enumerate(zip(pngs, latents, strict=True))
            }
            self._cache.store(batch, whole)

    def _share(self, total: int, made: Callable[[int], None]) -> None:
        """Gives what only rank 0's node has to the other nodes, so that all train on the same. Collective."""
        everywhere = self._world.all_true([self._is_whole(batch) for batch in range(total)])
        for batch in [batch for batch in range(total) if not everywhere[batch]]:
            needed = self._needed(batch)
            sizes = self._world.as_main([*sizes_of(self._paths[needed[0]])] if self._world.is_main else [])
            pictures = torch.zeros((len(needed), sizes[0], sizes[0], 3), dtype=torch.uint8)
            latents = torch.zeros((len(needed), *sizes[1:]))
            if self._world.is_main:
                pictures = torch.stack([torch.from_numpy(read_pixels(self._paths[index])) for index in needed])
                latents = torch.stack([torch.from_numpy(read_latent(self._paths[index])) for index in needed])
            pictures, latents = self._world.broadcast(pictures), self._world.broadcast(latents)
            if self._world.leads_node and not self._world.is_main:
                for index, picture, latent in zip(needed, pictures, latents, strict=True):
                    keep_class_image(self._paths[index], png_bytes(picture), latent.numpy())
            made(len(self._paths))
        self._world.barrier()

    def _needed(self, batch: int) -> range:
        """The images of a batch that this job asks for."""
        return range(batch * BATCH, min((batch + 1) * BATCH, len(self._paths)))

    def _is_whole(self, batch: int) -> bool:
        return all(self._paths[index].exists() for index in self._needed(batch))


@dataclass(frozen=True)
class _Made:
    """A whole batch: images [n, height, width, 3] uint8, latents [n, c, h, w] fp32, seconds per image; on the CPU.

    `pngs` are the images encoded, on the rank that made them.
    """

    images: torch.Tensor
    latents: torch.Tensor
    seconds: torch.Tensor
    pngs: list[bytes]

    @classmethod
    def empty(cls, sampler: Sampler) -> _Made:
        """Of the same shape, to receive one."""
        side = sampler.resolution
        images = torch.zeros((BATCH, side, side, 3), dtype=torch.uint8)
        return cls(images, torch.zeros((BATCH, *sampler.latent_shape)), torch.zeros(1, dtype=torch.float64), [])


def _encoded(images: torch.Tensor) -> list[bytes]:
    """Side by side: the device is idle meanwhile."""
    with ThreadPoolExecutor(BATCH) as pool:
        return list(pool.map(png_bytes, images))


def _owners(flags: list[torch.Tensor]) -> list[int | None]:
    """For each piece the rank whose flag is set, if there is one; `flags` by rank."""
    table = torch.stack(flags)
    return [int(column.argmax()) if bool(column.any()) else None for column in table.T]
