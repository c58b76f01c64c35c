"""Stage `vae`: the autoencoder between 64-pixel pictures and 16 x 16 latents.

Most steps see crops of half the side, which are four times cheaper; the last ones see whole pictures,
because group normalization depends on the size.
"""

from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL
from torch import Tensor
from torch.nn import functional as F

from kubooth_world import architecture, dataset
from kubooth_world.pixels import to_tensor
from kubooth_world.training.loop import Fit, Plan, Worker

KL_WEIGHT = 2e-4
CROPPED_SHARE = 0.75


def train(rank: int, count: int, folder: Path, scenes: int, plan: Plan) -> None:
    """Train the autoencoder in `folder`; one of `count` workers."""
    worker = Worker(rank=rank, count=count)
    worker.join(folder, "vae")
    torch.manual_seed(plan.seed)
    vae = architecture.build_vae(architecture.SMALL_WORLD).train()
    images = dataset.load(folder / "data", scenes).images
    fit = Fit(plan, worker, folder / "vae.safetensors", {"vae": vae})

    def loss(rng: np.random.Generator, step: int) -> tuple[Tensor, dict[str, float]]:
        cropped = step < CROPPED_SHARE * plan.steps
        side = images.shape[1] // 2 if cropped else images.shape[1]
        batch = plan.batch * (2 if cropped else 1)
        picks = rng.integers(len(images), size=batch)
        corners = rng.integers(images.shape[1] - side + 1, size=(batch, 2))
        crops = [images[i, y : y + side, x : x + side] for i, (y, x) in zip(picks, corners, strict=True)]
        return reconstruction_loss(vae, to_tensor(np.stack(crops)))

    fit.run(loss)


def reconstruction_loss(vae: AutoencoderKL, pixels: Tensor) -> tuple[Tensor, dict[str, float]]:
    """Return 0.5 L1 + 4 MSE + 0.15 L1 of the image gradients + KL, and the PSNR in dB."""
    with torch.autocast("cpu", torch.bfloat16):
        posterior = vae.encode(pixels).latent_dist
        decoded = vae.decode(posterior.sample()).sample
    difference = decoded.float() - pixels
    mse = difference.square().mean()
    decoded = decoded.float()
    slopes = F.l1_loss(decoded.diff(dim=2), pixels.diff(dim=2)) + F.l1_loss(decoded.diff(dim=3), pixels.diff(dim=3))
    divergence = 0.5 * (posterior.mean.float().square() + posterior.var.float() - 1 - posterior.logvar.float()).mean()
    total = 0.5 * difference.abs().mean() + 4 * mse + 0.15 * slopes + KL_WEIGHT * divergence
    return total, {"psnr": 10 * float(torch.log10(4 / mse.detach())), "kl": float(divergence.detach())}
