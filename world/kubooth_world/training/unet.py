"""Stage `unet`: the denoiser, by v prediction on latents that are encoded once.

The text encoder goes on learning at a lower rate, and heads go on reading from its states what the caption says:
without them it lets words fall together that the denoiser is slow to need (striped, dotted, checked). One caption in
ten is empty, for classifier-free guidance. What a pattern's word changes is a hundredth of the loss, so a part of the
batch are triples: one scene in three patterns, with the same noise, in which all else cancels.
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
from kubooth_world.training.text import Listener, tokenize, with_foreign_words

EMPTY_SHARE: Final = 0.1
TEXT_RATE: Final = 0.3
HEARD_WEIGHT: Final = 0.1
"""Weight of what the heads misread, beside the denoiser's loss."""
TRIPLES: Final = 3
"""Of these a worker's step has so many: the same scene, noise and time in three patterns."""
DECIDED: Final = (0.6, 0.98)
"""Share of the schedule in which patterns are decided: the times of triples."""
TIMES: Final = ((0.0, 0.2, 0.97, 1.0), (0.0, 0.3, 0.9, 1.0))
"""Quantiles, and the times (share of the schedule) they are at: most steps go where a caption matters."""


def train(rank: int, count: int, folder: Path, scenes: int, plan: Plan) -> None:
    """Train denoiser and text encoder in `folder`; one of `count` workers."""
    worker = Worker(rank=rank, count=count)
    worker.join(folder, "unet")
    torch.manual_seed(plan.seed)
    captions = dataset.load_captions(folder / "data", scenes)
    latents = encoded(worker, folder, dataset.scene_shards(folder / "data", scenes))
    shards = dataset.triple_shards(folder / "data", scenes)
    triples = encoded(worker, folder, shards)
    rival_captions = np.concatenate([dataset.load_array(shard, "captions") for shard in shards])
    clip_tokenizer = architecture.load_tokenizer(folder / f"tokenizer-{rank}")
    shape = architecture.SMALL_WORLD
    text = architecture.build_text_encoder(shape, len(clip_tokenizer)).train()
    unet = architecture.build_unet(shape).train()
    unet.set_attn_processor(AttnProcessor())  # faster than SDPA at this size on CPUs
    if (folder / START).exists():
        load_average(folder / START, {"unet": unet, "text": text})
    elif (folder / "text.safetensors").exists():
        load_average(folder / "text.safetensors", {"text": text})
    listener = Listener()
    modules = {"unet": unet, "text": text, "listener": listener}
    fit = Fit(plan, worker, folder / "unet.safetensors", modules, {"text": TEXT_RATE})
    signal = architecture.build_scheduler().alphas_cumprod

    def loss(rng: np.random.Generator, step: int) -> tuple[Tensor, dict[str, float]]:
        rivals = len(dataset.RIVALS)
        single = plan.batch - TRIPLES * rivals
        picks = rng.integers(len(latents), size=single)
        texts = [str(text) for text in captions[picks, rng.integers(dataset.CAPTIONS, size=single)]]
        texts = ["" if empty else text for text, empty in zip(texts, rng.random(single) < EMPTY_SHARE, strict=True)]
        # Stratified: each step sees the whole range of times, which halves the noise of the loss.
        quantiles = (np.arange(single) + rng.random(single)) / single
        times = rng.permutation(np.interp(quantiles, *TIMES))
        noise = torch.randn(single, *latents.shape[1:])

        chosen = rng.integers(len(triples), size=TRIPLES)
        texts += [str(text) for text in rival_captions[chosen, rng.integers(dataset.CAPTIONS, size=TRIPLES)].ravel()]
        times = np.concatenate([times, rng.uniform(*DECIDED, TRIPLES).repeat(rivals)])
        noise = torch.cat([noise, torch.randn(TRIPLES, *latents.shape[1:]).repeat_interleave(rivals, 0)])
        clean = torch.from_numpy(np.concatenate([latents[picks], *triples[chosen]])).float()

        moments = torch.from_numpy((times * len(signal)).astype(np.int64))
        alpha = signal[moments].sqrt()[:, None, None, None]
        sigma = (1 - signal[moments]).sqrt()[:, None, None, None]
        texts = with_foreign_words(texts, rng)
        ids = tokenize(clip_tokenizer, texts)
        with torch.autocast("cpu", torch.bfloat16):
            states = text(ids).last_hidden_state
            predicted = unet(alpha * clean + sigma * noise, moments, states).sample
        target = alpha * noise - sigma * clean
        error = F.mse_loss(predicted.float(), target)
        unheard, right = listener(texts, ids, states, clip_tokenizer.eos_token_id)
        figures = {"error": float(error.detach()), "right": right, **_drawn_apart(predicted, target, rivals)}
        return error + HEARD_WEIGHT * unheard, figures

    fit.run(loss)


def _drawn_apart(predicted: Tensor, target: Tensor, rivals: int) -> dict[str, float]:
    """Return the share of what sets the pictures of a triple apart that the denoiser says; 0 where it hears no word."""
    said, true = (part.detach().float()[-TRIPLES * rivals :] for part in (predicted, target))
    said, true = (part.reshape(TRIPLES, rivals, *part.shape[1:]) for part in (said, true))
    said, true = (part - part.mean(1, keepdim=True) for part in (said, true))
    return {"apart": float((said * true).sum() / true.square().sum())}


def encoded(worker: Worker, folder: Path, shards: list[Path]) -> np.ndarray:
    """Return scaled latents of the shards' pictures, (..., c, 16, 16) fp16, encoding the parts that are missing."""
    vae = architecture.build_vae(architecture.SMALL_WORLD).eval()
    load_average(folder / "vae.safetensors", {"vae": vae})
    paths = [folder / f"latents-{shard.stem.removeprefix('scenes-')}.npy" for shard in shards]
    for number, (shard, path) in enumerate(zip(shards, paths, strict=True)):
        if number % worker.count == worker.rank and not path.exists():
            images = dataset.load_array(shard, "images")
            latents = _encode(vae, images.reshape(-1, *images.shape[-3:]))
            aside = path.with_suffix(".part")
            with aside.open("wb") as file:
                np.save(file, latents.reshape(*images.shape[:-3], *latents.shape[1:]), allow_pickle=False)
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
