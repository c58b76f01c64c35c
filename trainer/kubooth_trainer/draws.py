"""Every random number of a training, indexed by what it is for: (seed, purpose, step, sample).

Nothing depends on which rank draws, in which order, or on what was drawn before. So one rank and many optimize the
same loss on the same samples, and a resumed run goes on exactly where it was. Draws are made on the CPU: the same
numbers on every device.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import torch

Half = Literal["instance", "class"]


def seed_for(*parts: int | str) -> int:
    """A 63-bit seed from a path of names and numbers; different paths give independent seeds."""
    digest = hashlib.blake2b("/".join(map(str, parts)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


def generator_for(*parts: int | str) -> torch.Generator:
    """A CPU generator seeded by `seed_for`."""
    return torch.Generator().manual_seed(seed_for(*parts))


@dataclass(frozen=True)
class HalfBatch:
    """The draws for one half (instance or class) of a micro-batch of n samples; latents have shape [c, h, w].

    `items` and `views` say which image and which of its crops; `latent_noise` resamples the VAE's posterior,
    `noise` is the diffusion noise (offset noise included), `timesteps` are int64 in [0, train_timesteps).
    """

    items: list[int]
    views: list[int]
    timesteps: torch.Tensor
    latent_noise: torch.Tensor
    noise: torch.Tensor


def draw_half(
    half: Half,
    *,
    seed: int,
    step: int,
    samples: range,
    batch_size: int,
    items: int,
    views: int,
    shape: tuple[int, int, int],
    train_timesteps: int,
    offset_noise: float,
) -> HalfBatch:
    """Draws for the samples (indices into the global batch) of one optimizer step.

    Images are visited in a fresh order each time all have been seen; instance and class orders are independent, and
    so are their timesteps and noise (DreamBooth, arXiv 2208.12242, equation 2). `offset_noise` adds that much of a
    per-channel constant to the noise.
    """
    chosen, view, timesteps, latent_noise, noise = [], [], [], [], []
    for sample in samples:
        generator = generator_for(seed, "step", half, step, sample)
        epoch, position = divmod(step * batch_size + sample, items)
        chosen.append(_order(seed, half, epoch, items)[position])
        view.append(int(torch.randint(views, (), generator=generator)))
        timesteps.append(torch.randint(train_timesteps, (), generator=generator))
        latent_noise.append(torch.randn(shape, generator=generator))
        drawn = torch.randn(shape, generator=generator)
        if offset_noise:
            drawn = drawn + offset_noise * torch.randn((shape[0], 1, 1), generator=generator)
        noise.append(drawn)
    return HalfBatch(chosen, view, torch.stack(timesteps), torch.stack(latent_noise), torch.stack(noise))


@lru_cache(maxsize=16)
def _order(seed: int, half: str, epoch: int, items: int) -> list[int]:
    return torch.randperm(items, generator=generator_for(seed, "order", half, epoch)).tolist()
