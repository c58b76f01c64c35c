"""Stage `oracle`: attributes by cross entropy, instances by contrast.

A step shows pairs of pictures of the same instances, half of them of one class, so that the embedding
learns to tell dogs apart, not only dogs from cars. Pictures are disturbed as decoders disturb them,
and where a trained autoencoder is there, a part of them makes the round trip through it.
"""

from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL
from torch import Tensor
from torch.nn import functional as F

from kubooth_world import architecture, dataset
from kubooth_world.oracle import Oracle
from kubooth_world.pixels import to_images, to_tensor
from kubooth_world.training.loop import Fit, Plan, Worker, load_average

ROUND_TRIPS = 4000
TEMPERATURE = 0.1


def train(rank: int, count: int, folder: Path, scenes: int, plan: Plan) -> None:
    """Train the oracle in `folder`; one of `count` workers."""
    worker = Worker(rank=rank, count=count)
    worker.join(folder, "oracle")
    torch.manual_seed(plan.seed)
    oracle = Oracle().train()
    data = dataset.load(folder / "data", scenes)
    if (folder / "vae.safetensors").exists():
        vae = architecture.build_vae(architecture.SMALL_WORLD).eval()
        load_average(folder / "vae.safetensors", {"vae": vae})
        whole = min(ROUND_TRIPS, scenes) // dataset.VIEWS * dataset.VIEWS
        data.images[:whole] = round_trip(vae, data.images[:whole])
    by_kind = [
        np.flatnonzero(data.labels["kind"][:: dataset.VIEWS] == kind) for kind in range(len(dataset.ATTRIBUTES["kind"]))
    ]
    trips = min(ROUND_TRIPS, scenes) // dataset.VIEWS

    def loss(rng: np.random.Generator, step: int) -> tuple[Tensor, dict[str, float]]:
        half = plan.batch // 4
        instances = np.concatenate(
            [
                rng.choice(by_kind[int(rng.integers(len(by_kind)))], half, replace=False),
                rng.integers(trips, size=half // 2),
                rng.integers(scenes // dataset.VIEWS, size=half - half // 2),
            ]
        )
        views = np.array([rng.choice(dataset.VIEWS, 2, replace=False) for _ in instances])
        picks = (instances[:, None] * dataset.VIEWS + views).T.ravel()
        pixels = disturbed(to_tensor(data.images[picks]), rng)
        with torch.autocast("cpu", torch.bfloat16):
            reading = oracle(pixels)
        targets = {name: torch.from_numpy(values[picks]) for name, values in data.labels.items()}
        total, right = attribute_loss(reading.logits, targets)
        contrast = instance_loss(reading.embedding.float(), torch.from_numpy(instances))
        return total + 0.5 * contrast, {**right, "contrast": float(contrast.detach())}

    Fit(plan, worker, folder / "oracle.safetensors", {"oracle": oracle}).run(loss)


def attribute_loss(logits: dict[str, Tensor], targets: dict[str, Tensor]) -> tuple[Tensor, dict[str, float]]:
    """Return the summed cross entropy and the share of right answers by attribute."""
    losses = [F.cross_entropy(logits[name].float(), target) for name, target in targets.items()]
    right = {name: float((logits[name].argmax(1) == target).float().mean()) for name, target in targets.items()}
    return torch.stack(losses).sum(), right


def instance_loss(embedding: Tensor, instances: Tensor) -> Tensor:
    """Return the contrastive loss of (2 n, d) embeddings, two views of each of n instances in turn."""
    first, second = embedding.chunk(2)
    likeness = first @ second.T / TEMPERATURE
    same = instances[:, None] == instances[None, :]
    own = torch.eye(len(instances), dtype=torch.bool)
    likeness = likeness.masked_fill(same & ~own, -1e4)
    target = torch.arange(len(instances))
    return (F.cross_entropy(likeness, target) + F.cross_entropy(likeness.T, target)) / 2


def disturbed(pixels: Tensor, rng: np.random.Generator) -> Tensor:
    """Blur a part of the pictures, add noise and shift contrast and brightness a little."""
    count = len(pixels)
    blurred = F.avg_pool2d(F.pad(pixels, (1, 1, 1, 1), mode="reflect"), 3, stride=1)
    share = torch.from_numpy((rng.random(count) < 0.5) * rng.random(count)).float()[:, None, None, None]
    pixels = pixels + share * (blurred - pixels)
    gain = torch.from_numpy(rng.uniform(0.94, 1.06, count)).float()[:, None, None, None]
    shift = torch.from_numpy(rng.uniform(-0.04, 0.04, (count, 3, 1, 1))).float()
    noise = torch.randn_like(pixels) * float(rng.uniform(0, 0.08))
    return (pixels * gain + shift + noise).clamp(-1, 1)


@torch.no_grad()
def round_trip(vae: AutoencoderKL, images: np.ndarray, batch: int = 50) -> np.ndarray:
    """Return (n, 64, 64, 3) uint8 pictures after encoding and decoding."""
    decoded = []
    for start in range(0, len(images), batch):
        with torch.autocast("cpu", torch.bfloat16):
            pixels = to_tensor(images[start : start + batch])
            decoded.append(vae.decode(vae.encode(pixels).latent_dist.mode()).sample.float())
    return to_images(torch.cat(decoded))
