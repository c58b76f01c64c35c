"""A working folder that begins with trained weights: to go on from the bundled model where no checkpoint is left.

Optimizer moments do not ship, so a denoiser that starts here warms up again.
"""

from pathlib import Path
from typing import Any

from diffusers import AutoencoderKL, UNet2DConditionModel
from safetensors.torch import save_file
from transformers import CLIPTextModel

START = "unet-start.safetensors"


def begin_with(model: Path, folder: Path) -> None:
    """Put autoencoder, denoiser and text encoder of `model` into `folder`, unless checkpoints are there."""
    parts: dict[str, dict[str, Any]] = {
        "vae.safetensors": {"vae": AutoencoderKL.from_pretrained(model / "vae")},
        START: {
            "unet": UNet2DConditionModel.from_pretrained(model / "unet"),
            "text": CLIPTextModel.from_pretrained(model / "text_encoder"),
        },
    }
    for name, modules in parts.items():
        if not (folder / name).exists():
            tensors = {
                f"ema/{part}.{key}": parameter.detach().float().contiguous()
                for part, module in modules.items()
                for key, parameter in module.named_parameters()
            }
            save_file(tensors, folder / name)
