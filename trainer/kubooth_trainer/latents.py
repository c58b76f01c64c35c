"""The latent cache: every view of every photo goes through the VAE once, before training.

Kept as mean and standard deviation of the posterior and sampled anew in each step, so that the expected loss is that
of a loop which encodes every time; the VAE leaves memory before training. Class images that the frozen model sampled
keep the latents that it sampled, which never were pixels.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import nn

from kubooth_trainer.portions import Portions

BATCH = 8


@dataclass(frozen=True)
class Latents:
    """Posterior mean and std, [items, views, c, h, w] fp32, already scaled by the VAE's scaling factor."""

    mean: torch.Tensor
    std: torch.Tensor

    @property
    def items(self) -> int:
        return self.mean.shape[0]

    @property
    def views(self) -> int:
        return self.mean.shape[1]

    @property
    def shape(self) -> tuple[int, int, int]:
        c, h, w = self.mean.shape[2:]
        return c, h, w

    def to(self, device: torch.device) -> Latents:
        return Latents(self.mean.to(device), self.std.to(device))

    def sample(self, items: torch.Tensor, views: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
        """Latents [n, c, h, w] for the chosen items and views [n]; `noise` [n, c, h, w] is standard normal."""
        return self.mean[items, views] + self.std[items, views] * noise


def encode(vae: nn.Module, images: Iterable[Image.Image], *, views: int, on_progress: Callable[[int], None]) -> Latents:
    """Encodes square images of one size, a batch at a time: `views` of the first item, then those of the next.

    In smaller batches where the device has not the memory. `on_progress` gets the number of items done.
    """
    typed: Any = vae
    portions = Portions()
    left, done = iter(images), 0
    rows = []
    with torch.inference_mode():
        while batch := [_pixels(image) for image in islice(left, BATCH)]:
            rows.append(portions.run(lambda part: _posterior(vae, part), batch))
            done += len(batch)
            on_progress(done // views)
    scale = float(typed.config.scaling_factor)
    shift = float(getattr(typed.config, "shift_factor", None) or 0.0)
    mean, std = torch.cat(rows).unbind(1)
    mean, std = ((mean - shift) * scale).contiguous(), (std * scale).contiguous()
    return Latents(mean.reshape(-1, views, *mean.shape[1:]), std.reshape(-1, views, *std.shape[1:]))


def _posterior(vae: nn.Module, pixels: Sequence[torch.Tensor]) -> torch.Tensor:
    """Mean and std [n, 2, c, h, w] fp32 on the CPU, not scaled yet, of images [3, h, w]."""
    typed: Any = vae
    parameter = next(vae.parameters())
    posterior = typed.encode(torch.stack(list(pixels)).to(parameter.device, parameter.dtype)).latent_dist
    return torch.stack([posterior.mean.float().cpu(), posterior.std.float().cpu()], dim=1)


def as_sampled(latents: torch.Tensor) -> Latents:
    """Of pictures whose latents [n, c, h, w] are known, in the scale the UNet sees: one view, and no deviation."""
    mean = latents.unsqueeze(1)
    return Latents(mean, torch.zeros_like(mean))


def save(latents: dict[str, Latents], path: Path) -> None:
    """Writes named latents, whole or not at all, also where the machine goes down."""
    partial = path.with_suffix(".partial")
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(
        {f"{name}.{part}": getattr(value, part) for name, value in latents.items() for part in ("mean", "std")},
        partial,
    )
    with partial.open("rb") as file:
        os.fsync(file.fileno())
    partial.replace(path)


def load(path: Path) -> dict[str, Latents]:
    """Reads what `save` wrote."""
    tensors = load_file(path)
    names = {key.rpartition(".")[0] for key in tensors}
    return {name: Latents(tensors[f"{name}.mean"], tensors[f"{name}.std"]) for name in sorted(names)}


def images_digest(images: Iterable[Image.Image]) -> str:
    """SHA-256 (hex) over the pixels of all images, in order."""
    digest = hashlib.sha256()
    for image in images:
        digest.update(image.tobytes())
    return digest.hexdigest()


def _pixels(image: Image.Image) -> torch.Tensor:
    """[3, h, w] in [-1, 1]."""
    array = np.asarray(image, dtype=np.float32)
    return torch.from_numpy(array).permute(2, 0, 1) / 127.5 - 1.0
