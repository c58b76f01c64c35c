"""Stable Diffusion XL (arXiv 2307.01952): two CLIP text encoders, and a UNet that is also told the image's size."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from kubooth_trainer.families.base import Conditioning, TextStack
from kubooth_trainer.families.stable_diffusion import StableDiffusion, halvings, loading

_FACTOR = "pixels_per_latent"  # attribute of the UNet: it is told sizes in pixels and sees latents


class TwoClipTexts(TextStack):
    """The last hidden states but one of both encoders, side by side, and the pooled state of the second."""

    def __init__(self, text_encoder: nn.Module, text_encoder_2: nn.Module) -> None:
        super().__init__()
        self.text_encoder = text_encoder
        self.text_encoder_2 = text_encoder_2

    def forward(self, token_ids: torch.Tensor) -> Conditioning:
        first = self.text_encoder(token_ids[:, 0], output_hidden_states=True)
        second = self.text_encoder_2(token_ids[:, 1], output_hidden_states=True)
        hidden = torch.cat([first.hidden_states[-2], second.hidden_states[-2]], dim=-1)
        return {"hidden_states": hidden, "text_embeds": second.text_embeds}

    def idle_modules(self) -> list[nn.Module]:
        """Of the first encoder nobody reads what its last layer makes."""
        encoder: Any = getattr(self.text_encoder, "text_model", self.text_encoder)
        return [encoder.encoder.layers[-1], encoder.final_layer_norm]


class StableDiffusionXL(StableDiffusion):
    """The base model. Sizes are told as for a picture of the training resolution that was not cropped, in training
    as in sampling, which is what diffusers' pipeline tells by default."""

    name = "Stable Diffusion XL"
    pipeline = "StableDiffusionXLPipeline"
    components: Mapping[str, tuple[str, ...]] = {
        **StableDiffusion.components,
        "text_encoder_2": ("CLIPTextModelWithProjection",),
        "tokenizer_2": ("CLIPTokenizer", "CLIPTokenizerFast"),
    }
    weighted = ("unet", "text_encoder", "text_encoder_2", "vae")

    def load_denoiser(self, folder: Path, dtype: torch.dtype) -> nn.Module:
        unet = super().load_denoiser(folder, dtype)
        setattr(unet, _FACTOR, halvings(folder, "vae"))
        return unet

    def load_text(self, folder: Path, dtype: torch.dtype) -> TextStack:
        from transformers import CLIPTextModel, CLIPTextModelWithProjection

        first, second = (
            kind.from_pretrained(folder, subfolder=component, dtype=dtype, **loading(folder / component))
            for component, kind in (("text_encoder", CLIPTextModel), ("text_encoder_2", CLIPTextModelWithProjection))
        )
        return TwoClipTexts(first, second)

    def load_tokenizers(self, folder: Path) -> tuple[Any, ...]:
        from transformers import CLIPTokenizer

        return tuple(
            CLIPTokenizer.from_pretrained(folder, subfolder=component, local_files_only=True)
            for component in ("tokenizer", "tokenizer_2")
        )

    def empty_prompt_is_zero(self, folder: Path) -> bool:
        index = json.loads((folder / "model_index.json").read_text())
        return bool(index.get("force_zeros_for_empty_prompt", True))

    def denoise(
        self, unet: nn.Module, noisy: torch.Tensor, timesteps: torch.Tensor, conditioning: Conditioning
    ) -> torch.Tensor:
        height, width = (side * getattr(unet, _FACTOR) for side in noisy.shape[-2:])
        size = torch.tensor([height, width, 0, 0, height, width], dtype=torch.float32, device=noisy.device)
        told = {"text_embeds": conditioning["text_embeds"], "time_ids": size.expand(noisy.shape[0], -1)}
        return unet(  # type: ignore[no-any-return]
            noisy,
            timesteps,
            encoder_hidden_states=conditioning["hidden_states"],
            added_cond_kwargs=told,
            return_dict=False,
        )[0]
