"""pytest plugin: tiny encoders of random weights, in the layouts that the real ones have."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image

if TYPE_CHECKING:  # every process of the tests loads this file, and most of them no model
    import torch

WIDTHS = (4, 6, 5, 4, 3)
Noise = Callable[..., Image.Image]


@pytest.fixture(scope="session")
def encoder_folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Role to folder: a ViT and a CLIP of two narrow layers, and LPIPS on an AlexNet of few channels."""
    import torch
    from safetensors.torch import save_file
    from transformers import CLIPConfig, CLIPModel, ViTConfig, ViTModel

    from kubooth_world import tokenizer

    root = tmp_path_factory.mktemp("encoders")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        small = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
        ViTModel(ViTConfig(**small, image_size=28, patch_size=7), add_pooling_layer=False).save_pretrained(
            root / "dino"
        )
        tokenizer.write(root / "clip")
        vocabulary, _ = tokenizer.build()
        text = {"vocab_size": len(vocabulary), "max_position_embeddings": tokenizer.MAX_LENGTH}
        ends = {
            "bos_token_id": vocabulary[tokenizer.START],
            "eos_token_id": vocabulary[tokenizer.END],
            "pad_token_id": vocabulary[tokenizer.END],
        }
        CLIPModel(
            CLIPConfig(
                text_config={**small, **text, **ends},
                vision_config={**small, "image_size": 32, "patch_size": 8},
                projection_dim=12,
            )
        ).save_pretrained(root / "clip")
        save_file(lpips_weights(), root_of(root, "lpips") / "model.safetensors")
    (root / "lpips" / "config.json").write_text(json.dumps({"model_type": "lpips"}))
    return {role: root / role for role in ("dino", "clip", "lpips")}


def root_of(root: Path, name: str) -> Path:
    folder = root / name
    folder.mkdir(exist_ok=True)
    return folder


def lpips_weights() -> dict[str, torch.Tensor]:
    """As the state dict of the `lpips` package has them, with fewer channels."""
    import torch

    from kubooth_trainer.encoders.lpips import LAYERS

    weights, channels = {}, 3
    for layer, (index, kernel, *_) in enumerate(LAYERS):
        width = WIDTHS[layer]
        name = f"net.slice{layer + 1}.{index}"
        weights[f"{name}.weight"] = torch.randn(width, channels, kernel, kernel) * 0.1
        weights[f"{name}.bias"] = torch.randn(width) * 0.1
        weights[f"lin{layer}.model.1.weight"] = torch.rand(1, width, 1, 1)
        channels = width
    return weights


@pytest.fixture
def noise() -> Noise:
    """`noise(seed, width, height)`: a smooth random picture."""

    def make(seed: int, width: int = 64, height: int = 64) -> Image.Image:
        coarse = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), dtype=np.uint8)
        return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)

    return make
