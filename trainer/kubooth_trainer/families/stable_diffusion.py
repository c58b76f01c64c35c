"""Stable Diffusion 1.x and 2.x: one CLIP text encoder, a UNet with cross-attention, a KL autoencoder."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from kubooth_trainer.families.base import Conditioning, TextStack
from kubooth_trainer.families.weight_files import variant_to_load

# These begin and end with Stable Diffusion's betas where their config does not say; all others with DDPM's.
_WITH_BETAS = (
    "DPMSolverSDEScheduler", "HeunDiscreteScheduler", "KDPM2AncestralDiscreteScheduler", "KDPM2DiscreteScheduler",
)  # fmt: skip
_BETAS = {"beta_start": 0.00085, "beta_end": 0.012}


class ClipText(TextStack):
    """The last hidden states of one CLIP text encoder."""

    def __init__(self, text_encoder: nn.Module) -> None:
        super().__init__()
        self.text_encoder = text_encoder

    def forward(self, token_ids: torch.Tensor) -> Conditioning:
        return {"hidden_states": self.text_encoder(token_ids[:, 0]).last_hidden_state}


class StableDiffusion:
    """SD 1.x (epsilon) and SD 2.x (epsilon or v): the prediction type is read from the model's scheduler."""

    name = "Stable Diffusion"
    pipeline = "StableDiffusionPipeline"
    components: Mapping[str, tuple[str, ...]] = {
        "unet": ("UNet2DConditionModel",),
        "text_encoder": ("CLIPTextModel",),
        "vae": ("AutoencoderKL",),
        "tokenizer": ("CLIPTokenizer", "CLIPTokenizerFast"),
        "scheduler": (
            "DDIMScheduler",
            "DDPMScheduler",
            "DEISMultistepScheduler",
            "DPMSolverMultistepScheduler",
            "DPMSolverSDEScheduler",
            "DPMSolverSinglestepScheduler",
            "EulerAncestralDiscreteScheduler",
            "EulerDiscreteScheduler",
            "HeunDiscreteScheduler",
            "KDPM2AncestralDiscreteScheduler",
            "KDPM2DiscreteScheduler",
            "LMSDiscreteScheduler",
            "PNDMScheduler",
            "UniPCMultistepScheduler",
        ),
    }
    weighted: tuple[str, ...] = ("unet", "text_encoder", "vae")
    denoiser = "unet"

    def resolution(self, folder: Path) -> int:
        return int(_config(folder, "unet")["sample_size"]) * halvings(folder, "vae")

    def resolution_multiple(self, folder: Path) -> int:
        return halvings(folder, "vae") * halvings(folder, "unet")

    def load_denoiser(self, folder: Path, dtype: torch.dtype) -> nn.Module:
        from diffusers import UNet2DConditionModel

        return UNet2DConditionModel.from_pretrained(  # type: ignore[no-any-return]
            folder, subfolder="unet", torch_dtype=dtype, **loading(folder / "unet")
        )

    def load_text(self, folder: Path, dtype: torch.dtype) -> TextStack:
        from transformers import CLIPTextModel

        return ClipText(
            CLIPTextModel.from_pretrained(
                folder, subfolder="text_encoder", dtype=dtype, **loading(folder / "text_encoder")
            )
        )

    def load_vae(self, folder: Path, dtype: torch.dtype) -> nn.Module:
        from diffusers import AutoencoderKL

        return AutoencoderKL.from_pretrained(  # type: ignore[no-any-return]
            folder, subfolder="vae", torch_dtype=dtype, **loading(folder / "vae")
        )

    def load_schedule(self, folder: Path) -> Mapping[str, Any]:
        solver = json.loads((folder / "model_index.json").read_text())["scheduler"][1]
        config = json.loads((folder / "scheduler" / "scheduler_config.json").read_text())
        return {**(_BETAS if solver in _WITH_BETAS else {}), **config}

    def load_tokenizers(self, folder: Path) -> tuple[Any, ...]:
        from transformers import CLIPTokenizer

        return (CLIPTokenizer.from_pretrained(folder, subfolder="tokenizer", local_files_only=True),)

    def tokenize(self, tokenizers: Sequence[Any], prompts: Sequence[str]) -> torch.Tensor:
        ids = [
            tokenizer(
                list(prompts),
                padding="max_length",
                truncation=True,
                max_length=tokenizer.model_max_length,
                return_tensors="pt",
            ).input_ids
            for tokenizer in tokenizers
        ]
        return torch.stack(ids, dim=1)

    def too_long(self, tokenizers: Sequence[Any], prompt: str) -> int | None:
        counts = [(len(tokenizer(prompt).input_ids), tokenizer.model_max_length) for tokenizer in tokenizers]
        return max((count for count, most in counts if count > most), default=None)

    def empty_prompt_is_zero(self, folder: Path) -> bool:
        return False

    def denoise(
        self, unet: nn.Module, noisy: torch.Tensor, timesteps: torch.Tensor, conditioning: Conditioning
    ) -> torch.Tensor:
        return unet(  # type: ignore[no-any-return]
            noisy, timesteps, encoder_hidden_states=conditioning["hidden_states"], return_dict=False
        )[0]


def _config(folder: Path, component: str) -> dict[str, Any]:
    return json.loads((folder / component / "config.json").read_text())  # type: ignore[no-any-return]


def halvings(folder: Path, component: str) -> int:
    """The factor by which a component's resolution shrinks from its first to its last level."""
    return int(2 ** (len(_config(folder, component)["block_out_channels"]) - 1))


def loading(component: Path) -> dict[str, Any]:
    """Arguments for `from_pretrained`: safetensors only, nothing fetched, the fp16 variant where it is the only one."""
    return {
        "use_safetensors": True,
        "local_files_only": True,
        "low_cpu_mem_usage": True,
        "variant": variant_to_load(path.name for path in component.iterdir()),
    }
