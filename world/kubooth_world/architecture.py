"""Shapes of the small text-to-image models and their folder layout.

Called by training (which builds the real shapes), by `tiny_model` (which builds tiny ones) and by
export. Everything is a plain diffusers or transformers class, so that the saved folder loads with
`StableDiffusionPipeline.from_pretrained` and nothing else.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Final

import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    StableDiffusionPipeline,
    UNet2DConditionModel,
)
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from kubooth_world import tokenizer


@dataclass(frozen=True, kw_only=True)
class Shape:
    """Sizes of one model; resolutions in pixels, the rest in channels or counts."""

    resolution: int
    vae_channels: tuple[int, ...]
    latent_channels: int
    text_hidden: int
    text_layers: int
    text_heads: int
    unet_channels: tuple[int, ...]
    unet_heads: int
    norm_groups: int

    @property
    def factor(self) -> int:
        """Pixels per latent cell, along one side."""
        return int(2 ** (len(self.vae_channels) - 1))


SMALL_WORLD: Final = Shape(
    resolution=64,
    vae_channels=(32, 48, 96),
    latent_channels=8,
    text_hidden=192,
    text_layers=4,
    text_heads=4,
    unet_channels=(96, 192),
    unet_heads=4,
    norm_groups=16,
)

TINY: Final = Shape(
    resolution=32,
    vae_channels=(8, 16, 16),
    latent_channels=4,
    text_hidden=32,
    text_layers=2,
    text_heads=2,
    unet_channels=(16, 32),
    unet_heads=2,
    norm_groups=4,
)


def build_vae(shape: Shape) -> AutoencoderKL:
    """Build the autoencoder: (n, 3, r, r) in [-1, 1] to (n, latent, r / factor, r / factor)."""
    depth = len(shape.vae_channels)
    return AutoencoderKL(
        in_channels=3,
        out_channels=3,
        down_block_types=("DownEncoderBlock2D",) * depth,
        up_block_types=("UpDecoderBlock2D",) * depth,
        block_out_channels=shape.vae_channels,
        layers_per_block=1,
        latent_channels=shape.latent_channels,
        norm_num_groups=shape.norm_groups,
        sample_size=shape.resolution,
        scaling_factor=1.0,
        mid_block_add_attention=False,
    )


def build_text_encoder(shape: Shape, vocabulary_size: int) -> CLIPTextModel:
    """Build the text encoder: (n, MAX_LENGTH) token ids to (n, MAX_LENGTH, text_hidden) states."""
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=vocabulary_size,
            hidden_size=shape.text_hidden,
            intermediate_size=4 * shape.text_hidden,
            projection_dim=shape.text_hidden,
            num_hidden_layers=shape.text_layers,
            num_attention_heads=shape.text_heads,
            max_position_embeddings=tokenizer.MAX_LENGTH,
            bos_token_id=vocabulary_size - 2,
            eos_token_id=vocabulary_size - 1,
            pad_token_id=vocabulary_size - 1,
        )
    )


def build_unet(shape: Shape) -> UNet2DConditionModel:
    """Build the denoiser over latents of (n, latent, r / factor, r / factor).

    Besides cross-attention, the pooled caption joins the time embedding (`addition_embed_type`), which modulates
    every block: a small denoiser learns to listen several times sooner. Its call stays that of Stable Diffusion.
    """
    return UNet2DConditionModel(
        sample_size=shape.resolution // shape.factor,
        in_channels=shape.latent_channels,
        out_channels=shape.latent_channels,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        block_out_channels=shape.unet_channels,
        layers_per_block=1,
        attention_head_dim=shape.unet_heads,
        cross_attention_dim=shape.text_hidden,
        addition_embed_type="text",
        addition_embed_type_num_heads=shape.text_heads,
        resnet_time_scale_shift="scale_shift",
        norm_num_groups=shape.norm_groups,
    )


def build_scheduler(prediction_type: str = "v_prediction") -> DDIMScheduler:
    """Build Stable Diffusion's noise schedule; `prediction_type` is `v_prediction` or `epsilon`."""
    return DDIMScheduler(
        num_train_timesteps=1000,
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
        prediction_type=prediction_type,
        timestep_spacing="trailing",
    )


def load_tokenizer(folder: Path) -> CLIPTokenizer:
    """Write the tokenizer into `folder` and load it from there."""
    tokenizer.write(folder)
    return CLIPTokenizer.from_pretrained(folder)


def assemble(
    *,
    vae: AutoencoderKL,
    text_encoder: CLIPTextModel,
    unet: UNet2DConditionModel,
    clip_tokenizer: CLIPTokenizer,
    prediction_type: str = "v_prediction",
) -> StableDiffusionPipeline:
    """Put the parts together as a pipeline without a safety checker."""
    return StableDiffusionPipeline(
        vae=vae,
        text_encoder=text_encoder,
        tokenizer=clip_tokenizer,
        unet=unet,
        scheduler=build_scheduler(prediction_type),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def save(pipeline: StableDiffusionPipeline, folder: Path, dtype: torch.dtype) -> None:
    """Write the pipeline as safetensors of `dtype`, with the tokenizer's own files beside."""
    pipeline.to(dtype=dtype)
    pipeline.save_pretrained(folder, safe_serialization=True)
    tokenizer.write(folder / "tokenizer")
