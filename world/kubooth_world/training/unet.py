"""Stage `unet`: the denoiser, by v prediction on latents that are encoded once.

The text encoder goes on learning at a lower rate. One caption in ten is empty, for classifier-free
guidance.
"""

from pathlib import Path
from typing import Final

import numpy as np
import torch
import torch.distributed as dist
from diffusers import AutoencoderKL
from diffusers.models.attention_processor import AttnProcessor
from torch import Tensor
from torch.nn import functional as F

from kubooth_world import architecture, dataset
from kubooth_world.pixels import to_tensor
from kubooth_world.training.loop import Fit, Plan, Worker, load_average
from kubooth_world.training.start import START
from kubooth_world.training.text import tokenize, with_foreign_words

EMPTY_SHARE: Final = 0.1
TEXT_RATE: Final = 0.3
TIMES: Final = ((0.0, 0.2, 0.97, 1.0), (0.0, 0.3, 0.9, 1.0))
"""Quantiles, and the times (share of the schedule) they are at: most steps go where a caption matters."""


def train(rank: int, count: int, folder: Path, scenes: int, plan: Plan) -> None:
    """Train denoiser and text encoder in `folder`; one of `count` workers."""
    worker = Worker(rank=rank, count=count)
    worker.join(folder, "unet")
    torch.manual_seed(plan.seed)
    captions = dataset.load_captions(folder / "data", scenes)
    latents = encoded(worker, folder, scenes)
    clip_tokenizer = architecture.load_tokenizer(folder / f"tokenizer-{rank}")
    shape = architecture.SMALL_WORLD
    text = architecture.build_text_encoder(shape, len(clip_tokenizer)).train()
    unet = architecture.build_unet(shape).train()
    unet.set_attn_processor(AttnProcessor())  # faster than SDPA at this size on CPUs
    if (folder / START).exists():
        load_average(folder / START, {"unet": unet, "text": text})
    elif (folder / "text.safetensors").exists():
        load_average(folder / "text.safetensors", {"text": text})
    fit = Fit(plan, worker, folder / "unet.safetensors", {"unet": unet, "text": text}, {"text": TEXT_RATE})
    signal = architecture.build_scheduler().alphas_cumprod

    def loss(rng: np.random.Generator, step: int) -> tuple[Tensor, dict[str, float]]:
        picks = rng.integers(len(latents), size=plan.batch)
        said = captions[picks, rng.integers(dataset.CAPTIONS, size=plan.batch)]
        texts = with_foreign_words([str(caption) for caption in said], rng)
        texts = ["" if empty else t for t, empty in zip(texts, rng.random(plan.batch) < EMPTY_SHARE, strict=True)]
        clean = torch.from_numpy(latents[picks]).float()
        noise = torch.randn_like(clean)
        # Stratified: each step sees the whole range of times, which halves the noise of the loss.
        quantiles = (np.arange(plan.batch) + rng.random(plan.batch)) / plan.batch
        times = np.interp(quantiles, *TIMES) * len(signal)
        moments = torch.from_numpy(rng.permutation(times.astype(np.int64)))
        alpha = signal[moments].sqrt()[:, None, None, None]
        sigma = (1 - signal[moments]).sqrt()[:, None, None, None]
        with torch.autocast("cpu", torch.bfloat16):
            states = text(tokenize(clip_tokenizer, texts)).last_hidden_state
            predicted = unet(alpha * clean + sigma * noise, moments, states).sample
        return F.mse_loss(predicted.float(), alpha * noise - sigma * clean), {}

    fit.run(loss)


def encoded(worker: Worker, folder: Path, scenes: int) -> np.ndarray:
    """Return scaled latents of all pictures, (n, c, 16, 16) fp16, encoding the parts that are missing."""
    vae = architecture.build_vae(architecture.SMALL_WORLD).eval()
    load_average(folder / "vae.safetensors", {"vae": vae})
    paths = [folder / f"latents-{number:03d}.npy" for number in range(scenes // dataset.SHARD)]
    for number, path in enumerate(paths):
        if number % worker.count == worker.rank and not path.exists():
            latents = _encode(vae, dataset.load_array(folder / "data", number, "images"))
            aside = path.with_suffix(".part")
            with aside.open("wb") as file:
                np.save(file, latents, allow_pickle=False)
            aside.replace(path)
            print(f"latents: {number + 1}/{len(paths)}", flush=True)
    if worker.count > 1:
        dist.barrier()
    raw = np.concatenate([np.load(path, allow_pickle=False) for path in paths])
    return (raw.astype(np.float32) * scaling_factor(folder)).astype(np.float16)


def scaling_factor(folder: Path) -> float:
    """Return what brings the latents of the first shard to unit deviation."""
    return round(float(1 / np.load(folder / "latents-000.npy", allow_pickle=False).astype(np.float32).std()), 5)


@torch.no_grad()
def _encode(vae: AutoencoderKL, images: np.ndarray, batch: int = 50) -> np.ndarray:
    parts = []
    for start in range(0, len(images), batch):
        with torch.autocast("cpu", torch.bfloat16):
            parts.append(vae.encode(to_tensor(images[start : start + batch])).latent_dist.mode().half())
    return torch.cat(parts).numpy()
