"""The loop that ours is measured against: what the usual public DreamBooth script does in a step, and no more.

In every step the photos go through the VAE and each sample's prompt through the text encoder, a frozen one too;
instance and class halves are one batch; AdamW is torch's own with its defaults; all modules are diffusers' and
transformers' as they come. In bf16 the VAE holds bf16 weights and the trained modules run under autocast, as with
accelerate's mixed precision. In one respect it is spared what the script does: the photos are decoded and cropped
once, not per step.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image


@dataclass(frozen=True, kw_only=True)
class PlainSetting:
    """`batch` instance and as many class images make a step; both loops get the same values."""

    model: Path
    photos: Path
    class_images: Path
    prompt: str
    class_prompt: str
    batch: int
    resolution: int
    learning_rate: float
    prior_weight: float
    max_grad_norm: float
    bf16: bool
    text_encoder_trained: bool
    seed: int


def train(setting: PlainSetting, on_step: Callable[[float], None]) -> None:
    """Trains until `on_step`, called with the loss after every step, does not return."""
    from diffusers import AutoencoderKL, DDPMScheduler, UNet2DConditionModel
    from transformers import CLIPTextModel, CLIPTokenizer

    torch.manual_seed(setting.seed)
    tokenizer = CLIPTokenizer.from_pretrained(setting.model, subfolder="tokenizer")
    schedule = DDPMScheduler.from_pretrained(setting.model, subfolder="scheduler")
    text_encoder = CLIPTextModel.from_pretrained(setting.model, subfolder="text_encoder", dtype=torch.float32)
    vae = AutoencoderKL.from_pretrained(setting.model, subfolder="vae", torch_dtype=torch.float32)
    unet = UNet2DConditionModel.from_pretrained(setting.model, subfolder="unet", torch_dtype=torch.float32)
    vae.requires_grad_(False)
    dtype = torch.bfloat16 if setting.bf16 else torch.float32
    vae.to(dtype=dtype)
    unet.train()
    text_encoder.train(setting.text_encoder_trained)
    text_encoder.requires_grad_(setting.text_encoder_trained)
    trained = [each for each in chain(unet.parameters(), text_encoder.parameters()) if each.requires_grad]
    optimizer = torch.optim.AdamW(
        trained, lr=setting.learning_rate, betas=(0.9, 0.999), eps=1e-8, weight_decay=1e-2
    )  # fmt: skip

    instance = _pixels(setting.photos, setting.resolution)
    classes = _pixels(setting.class_images, setting.resolution)
    prompts = [setting.prompt] * setting.batch + [setting.class_prompt] * setting.batch
    token_ids = _token_ids(tokenizer, prompts)
    while True:
        pixels = torch.cat([_drawn(instance, setting.batch), _drawn(classes, setting.batch)])
        latents = vae.encode(pixels.to(dtype)).latent_dist.sample() * vae.config.scaling_factor
        noise = torch.randn_like(latents)
        timesteps = torch.randint(0, schedule.config.num_train_timesteps, (latents.shape[0],))
        noisy = schedule.add_noise(latents, noise, timesteps)
        with torch.autocast("cpu", torch.bfloat16, enabled=setting.bf16):
            states = text_encoder(token_ids, return_dict=False)[0]
            prediction = unet(noisy, timesteps, states, return_dict=False)[0]
        v = schedule.config.prediction_type == "v_prediction"
        target = schedule.get_velocity(latents, noise, timesteps) if v else noise
        of_instance, of_class = prediction.float().chunk(2)
        target_instance, target_class = target.float().chunk(2)
        loss = F.mse_loss(of_instance, target_instance)
        loss = loss + setting.prior_weight * F.mse_loss(of_class, target_class)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(trained, setting.max_grad_norm)
        optimizer.step()
        optimizer.zero_grad()
        on_step(loss.item())


def _pixels(folder: Path, resolution: int) -> torch.Tensor:
    """All pictures of a folder, [n, 3, resolution, resolution] in [-1, 1]."""
    pictures = []
    for path in sorted(folder.iterdir()):
        image = Image.open(path).convert("RGB").resize((resolution, resolution), Image.Resampling.LANCZOS)
        pictures.append(torch.from_numpy(np.asarray(image, dtype=np.float32)).permute(2, 0, 1) / 127.5 - 1.0)
    return torch.stack(pictures)


def _drawn(pictures: torch.Tensor, count: int) -> torch.Tensor:
    return pictures[torch.randint(len(pictures), (count,))]


def _token_ids(tokenizer: Any, prompts: Sequence[str]) -> torch.Tensor:
    ids: torch.Tensor = tokenizer(
        list(prompts),
        padding="max_length",
        truncation=True,
        max_length=tokenizer.model_max_length,
        return_tensors="pt",
    ).input_ids
    return ids
