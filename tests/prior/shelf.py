"""Jobs that fill a prior cache, as far as the tests need them: the real stage with a sampler that only draws."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from trainer.tiny_job import config_dict

from kubooth_trainer.class_images import class_image_paths
from kubooth_trainer.config import StorageConfig, TrainConfig
from kubooth_trainer.distributed import World
from kubooth_trainer.draws import generator_for
from kubooth_trainer.prior import PriorCount, PriorMaker, PriorProgress
from kubooth_trainer.prior_cache import BRIEF, PriorCache
from kubooth_trainer.prior_claims import Lease
from kubooth_trainer.storage import Storage

KEY = "ab" * 32
SIDE = 8
LEASE = Lease(seconds=1.0, hold_seconds=60, poll_seconds=0.05)
WAIT_SECONDS = 60  # a bound, not an expectation


@dataclass
class DrawingSampler:
    """Pictures that are a function of their seed; stands in for the model where only who makes what is of interest."""

    resolution: int = SIDE
    latent_shape: tuple[int, int, int] = (4, 2, 2)
    sampled: list[int] = field(default_factory=list)  # indices, in order
    on_batch: Callable[[int], None] = lambda batch: None

    def sample_latents(self, prompts: list[str], seeds: list[tuple[Any, ...]]) -> torch.Tensor:
        self.on_batch(int(seeds[0][-1]) // 8)
        self.sampled += [int(seed[-1]) for seed in seeds]
        return torch.stack([torch.randn(self.latent_shape, generator=generator_for(*seed)) for seed in seeds])

    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        pictures = []
        for latent in latents:
            seed = int(latent.abs().sum() * 1e6)
            drawn = torch.randint(256, (SIDE, SIDE, 3), generator=torch.Generator().manual_seed(seed))
            pictures.append(drawn.to(torch.uint8))
        return torch.stack(pictures)


@dataclass
class Job:
    """One job's prior stage, in a work folder of its own."""

    config: TrainConfig
    folder: Path
    cache: PriorCache | None
    sampler: DrawingSampler
    warnings: list[str]

    def run(self) -> PriorCount:
        world = World(rank=0, size=1, local_rank=0, local_size=1, device=torch.device("cpu"))
        sampler: Any = self.sampler
        maker = PriorMaker(self.config, self.folder, world=world, cache=self.cache, load=lambda: sampler)
        try:
            return maker.run(
                PriorProgress(moved=lambda: None, made=lambda _: None, advance=lambda _: None, stopping=lambda: False)
            )
        finally:
            if self.cache is not None:
                self.cache.close(about={"prompt": "a photo of a dog"})

    @property
    def pictures(self) -> list[bytes]:
        return [path.read_bytes() for path in class_image_paths(self.folder, self.config.prior.images)]


@dataclass
class Shelf:
    """An empty place for a cache, and jobs that use it."""

    storage_config: StorageConfig
    uri: str
    folder: Path
    numbers: int = 0

    @property
    def storage(self) -> Storage:
        return Storage(self.storage_config, BRIEF)

    def job(self, images: int, *, uri: str | None = None, cached: bool = True, lease: Lease = LEASE) -> Job:
        self.numbers += 1
        home = self.folder / f"job-{self.numbers}"
        config = TrainConfig.model_validate(config_dict(home, home, home, prior__images=images))
        warnings: list[str] = []
        cache = None
        if cached:
            cache = PriorCache(
                self.storage, uri or self.uri, key=KEY, resolution=SIDE, warn=warnings.append, lease=lease
            )
        return Job(config, home / "prior", cache, DrawingSampler(), warnings)

    def names(self) -> list[str]:
        return [entry.name for entry in self.storage.list(f"{self.uri.rstrip('/')}/{KEY}")]

    def at(self, name: str) -> str:
        return f"{self.uri.rstrip('/')}/{KEY}/{name}"


def together(*acts: Callable[[], Any]) -> list[Any]:
    """Runs all at once; their results, in order. What one raises is raised."""
    results: list[Any] = [None] * len(acts)

    def run(place: int) -> None:
        try:
            results[place] = acts[place]()
        except BaseException as error:  # noqa: BLE001 - raised again below
            results[place] = error

    threads = [threading.Thread(target=run, args=(place,)) for place in range(len(acts))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(WAIT_SECONDS)
        assert not thread.is_alive(), "a job hangs"
    for result in results:
        if isinstance(result, BaseException):
            raise result
    return results
