"""Stage `export`: the averaged weights of all stages as a bf16 diffusers folder, and the oracle in fp16."""

from pathlib import Path

import torch
from safetensors.torch import save_file

from kubooth_world import architecture
from kubooth_world.oracle import Oracle
from kubooth_world.training.loop import load_average
from kubooth_world.training.unet import scaling_factor


def export_model(folder: Path, target: Path) -> None:
    """Write the model trained in `folder` to `target`, a `StableDiffusionPipeline` folder."""
    shape = architecture.SMALL_WORLD
    clip_tokenizer = architecture.load_tokenizer(folder / "tokenizer")
    vae = architecture.build_vae(shape)
    text = architecture.build_text_encoder(shape, len(clip_tokenizer))
    unet = architecture.build_unet(shape)
    load_average(folder / "vae.safetensors", {"vae": vae})
    load_average(folder / "unet.safetensors", {"unet": unet, "text": text})
    vae.register_to_config(scaling_factor=scaling_factor(folder))
    pipeline = architecture.assemble(vae=vae, text_encoder=text, unet=unet, clip_tokenizer=clip_tokenizer)
    architecture.save(pipeline, target, torch.bfloat16)


def export_oracle(folder: Path, target: Path) -> None:
    """Write the oracle trained in `folder` to the file `target`."""
    oracle = Oracle()
    load_average(folder / "oracle.safetensors", {"oracle": oracle})
    target.parent.mkdir(parents=True, exist_ok=True)
    weights = {name: tensor.half().contiguous() for name, tensor in oracle.state_dict().items()}
    save_file(weights, target)
