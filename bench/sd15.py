"""A model of Stable Diffusion 1.5's shapes with random weights, and the arithmetic that it asks for. Used by `gpu.py`.

Shapes are those of the published model: UNet 860 million parameters, text encoder 123, VAE 84; 512 pixels, prompts of
77 tokens. The tokenizer is that of the bundled model: its ids are the first of the vocabulary of 49,408.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, StableDiffusionPipeline, UNet2DConditionModel
from torch.utils.flop_counter import FlopCounterMode
from transformers import CLIPTextConfig, CLIPTextModel

from kubooth_world import architecture, tokenizer

TOKENS = 77
BACKWARD = 2  # times the arithmetic of forward
PARTS = ("unet", "text_encoder")
TEXT: dict[str, Any] = {
    "vocab_size": 49408,
    "hidden_size": 768,
    "intermediate_size": 3072,
    "projection_dim": 768,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "max_position_embeddings": TOKENS,
}
UNET: dict[str, Any] = {
    "sample_size": 64,
    "block_out_channels": (320, 640, 1280, 1280),
    "layers_per_block": 2,
    "attention_head_dim": 8,
    "cross_attention_dim": 768,
}
VAE: dict[str, Any] = {
    "block_out_channels": (128, 256, 512, 512),
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "layers_per_block": 2,
    "sample_size": 512,
}


def write(folder: Path) -> Path:
    """Writes the model in diffusers layout as fp32 (4.3 GB) and returns its folder. The same weights each time."""
    torch.manual_seed(0)
    clip_tokenizer = architecture.load_tokenizer(folder / "tokenizer")
    ends = {"bos_token_id": clip_tokenizer.bos_token_id, "eos_token_id": clip_tokenizer.eos_token_id}
    pipeline: StableDiffusionPipeline = architecture.assemble(
        vae=AutoencoderKL(**VAE),
        text_encoder=CLIPTextModel(CLIPTextConfig(**TEXT, **ends)),
        unet=UNet2DConditionModel(**UNET),
        clip_tokenizer=clip_tokenizer,
        prediction_type="epsilon",
    )
    pipeline.save_pretrained(folder, safe_serialization=True)
    tokenizer.write(folder / "tokenizer")
    settings = folder / "tokenizer" / "tokenizer_config.json"
    settings.write_text(json.dumps({**json.loads(settings.read_text()), "model_max_length": TOKENS}))
    return folder


def unet_flops(model: Path, samples: int) -> int:
    """Floating-point operations of one pass of that many samples through the UNet of a model in diffusers layout."""
    unet_config, text_config = (json.loads((model / part / "config.json").read_text()) for part in PARTS)
    with torch.device("meta"), torch.no_grad(), FlopCounterMode(display=False) as counter:
        unet = UNet2DConditionModel.from_config(unet_config)
        size = unet_config["sample_size"]
        latents = torch.empty(samples, unet_config["in_channels"], size, size)
        text = torch.empty(samples, text_config["max_position_embeddings"], unet_config["cross_attention_dim"])
        unet(latents, torch.zeros(samples), encoder_hidden_states=text)
    return int(counter.get_total_flops())


def text_flops(model: Path, prompts: int) -> int:
    """The same for prompts through the text encoder."""
    config = CLIPTextConfig.from_pretrained(model / "text_encoder")
    with torch.device("meta"), torch.no_grad(), FlopCounterMode(display=False) as counter:
        CLIPTextModel(config)(torch.zeros(prompts, config.max_position_embeddings, dtype=torch.long))
    return int(counter.get_total_flops())


def step_flops(model: Path, samples: int, prompts: int) -> int:
    """Those of one training step: forward and backward, what is computed again for want of memory not counted."""
    return (1 + BACKWARD) * (unet_flops(model, samples) + text_flops(model, prompts))
