"""A Stable Diffusion XL model with random weights and tiny shapes, written once for the tests that need it."""

from __future__ import annotations

from pathlib import Path

import torch
from diffusers import AutoencoderKL, EulerDiscreteScheduler, StableDiffusionXLPipeline, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from kubooth_world.architecture import load_tokenizer

WIDTHS = (16, 24)  # of the two text encoders
SIDE = 32  # pixels


def write(folder: Path, scratch: Path, *, seed: int = 0) -> Path:
    """Writes the model to `folder` and returns it; latents are 4 x 8 x 8."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        tokenizer = load_tokenizer(scratch)
        configs = [
            CLIPTextConfig(
                vocab_size=len(tokenizer),
                hidden_size=width,
                intermediate_size=2 * width,
                num_hidden_layers=3,
                num_attention_heads=2,
                max_position_embeddings=tokenizer.model_max_length,
                projection_dim=width,
                bos_token_id=tokenizer.bos_token_id,
                eos_token_id=tokenizer.eos_token_id,
                pad_token_id=tokenizer.pad_token_id,
            )
            for width in WIDTHS
        ]
        unet = UNet2DConditionModel(
            sample_size=SIDE // 4,
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
            block_out_channels=(16, 32),
            layers_per_block=1,
            transformer_layers_per_block=(1, 2),
            attention_head_dim=(2, 4),
            use_linear_projection=True,
            cross_attention_dim=sum(WIDTHS),
            addition_embed_type="text_time",
            addition_time_embed_dim=8,
            projection_class_embeddings_input_dim=WIDTHS[1] + 6 * 8,
            norm_num_groups=4,
        )
        vae = AutoencoderKL(
            down_block_types=("DownEncoderBlock2D",) * 3,
            up_block_types=("UpDecoderBlock2D",) * 3,
            block_out_channels=(8, 16, 16),
            layers_per_block=1,
            norm_num_groups=4,
            sample_size=SIDE,
            scaling_factor=0.13025,
        )
        StableDiffusionXLPipeline(
            vae=vae,
            text_encoder=CLIPTextModel(configs[0]),
            text_encoder_2=CLIPTextModelWithProjection(configs[1]),
            tokenizer=tokenizer,
            tokenizer_2=tokenizer,
            unet=unet,
            scheduler=EulerDiscreteScheduler(
                beta_start=0.00085,
                beta_end=0.012,
                beta_schedule="scaled_linear",
                timestep_spacing="leading",
                steps_offset=1,
            ),
        ).save_pretrained(folder)
    return folder
