"""A Stable Diffusion folder as one safetensors file, in the layout of the original code (latent diffusion).

The Download stage calls `check_single_file` before time is spent, the Upload stage `write_single_file`. Names follow
from the components' own configs. A weight that the layout has no name for is refused: dropped, it would leave a file
that loads and draws noise.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file

from kubooth_trainer.errors import ConfigError

SINGLE_FILE = "model.safetensors"
CONFIGS = "config"

Config = Mapping[str, Any]
Tensors = Mapping[str, torch.Tensor]

_INDEX = "model_index.json"
_COMPONENTS = ("unet", "vae", "text_encoder")

_UNET_ENDS = {
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "conv_in": "input_blocks.0.0",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
}
_UNET_RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
_VAE_ENDS = {"conv_in": "conv_in", "conv_norm_out": "norm_out", "conv_out": "conv_out"}
_VAE_RESNET = {"norm1": "norm1", "conv1": "conv1", "norm2": "norm2", "conv2": "conv2", "conv_shortcut": "nin_shortcut"}
_VAE_ATTENTION = {
    "group_norm": "norm",
    "to_q": "q",
    "to_k": "k",
    "to_v": "v",
    "to_out.0": "proj_out",
    # as diffusers named them until 0.16: the published folders of SD 1.x still do
    "query": "q",
    "key": "k",
    "value": "v",
    "proj_attn": "proj_out",
}
_OPEN_CLIP_ENDS = {
    "embeddings.token_embedding.weight": "token_embedding.weight",
    "embeddings.position_embedding.weight": "positional_embedding",
    "final_layer_norm.weight": "ln_final.weight",
    "final_layer_norm.bias": "ln_final.bias",
}
_OPEN_CLIP_LAYER = {
    "layer_norm1": "ln_1",
    "layer_norm2": "ln_2",
    "mlp.fc1": "mlp.c_fc",
    "mlp.fc2": "mlp.c_proj",
    "self_attn.out_proj": "attn.out_proj",
}
_OPEN_CLIP_LAYERS = 23  # SD 2.x uses the last layer but one of 24: readers ignore what is called layer 23
_LAYERS = {768: 12, 1024: _OPEN_CLIP_LAYERS}  # by width: the text encoders of SD 1.x and 2.x, as readers build them


def check_single_file(folder: Path) -> None:
    """Judges the model folder from its configs and the names of its weights. Raises ConfigError."""
    kind = _read_json(folder / _INDEX).get("_class_name")
    if kind != "StableDiffusionPipeline":
        raise ConfigError(f"output.format: SingleFile is not written for {kind}; use Diffusers")
    single_file_weights(_configs(folder), {name: _weights(folder / name, _shape_only) for name in _COMPONENTS})


def write_single_file(folder: Path, target: Path) -> None:
    """Writes `target`, whole or not at all: model.safetensors, and config/ with all of `folder` but its weights.

    `StableDiffusionPipeline.from_single_file(target / SINGLE_FILE, config=target / CONFIGS)` loads it offline.
    Tensors keep their dtype. Raises ConfigError as `check_single_file` does.
    """
    partial = target.with_name(target.name + ".partial")
    for path in (partial, target):
        shutil.rmtree(path, ignore_errors=True)
    weights = {name: _weights(folder / name, _whole) for name in _COMPONENTS}
    shutil.copytree(folder, partial / CONFIGS, ignore=shutil.ignore_patterns("*.safetensors", "*.safetensors.*"))
    save_file(single_file_weights(_configs(folder), weights), partial / SINGLE_FILE, metadata={"format": "pt"})
    partial.replace(target)


def single_file_weights(configs: Mapping[str, Config], weights: Mapping[str, Tensors]) -> dict[str, torch.Tensor]:
    """All weights under their names in the original layout; `configs` and `weights` are by component.

    Raises ConfigError for the first weight that has no place there.
    """
    return {
        **_unet(weights["unet"], configs["unet"]),
        **_vae(weights["vae"], configs["vae"]),
        **_text(weights["text_encoder"], configs["text_encoder"]),
    }


def _unet(tensors: Tensors, config: Config) -> dict[str, torch.Tensor]:
    if not isinstance(config["layers_per_block"], int):
        raise ConfigError(
            "output.format: SingleFile needs equally many layers in all blocks of the unet, which this model has not; "
            "use Diffusers"
        )
    names = _renamed("unet", tensors, lambda module: _unet_module(module, config))
    return {f"model.diffusion_model.{names[name]}": tensor for name, tensor in tensors.items()}


def _unet_module(module: str, config: Config) -> str | None:
    """The original name of a UNet module. There the layers of all blocks are numbered through.

    Each block has `layers_per_block` + 1 numbers: on the way down its last is the downsampler, on the way up the
    upsampler shares the number of the block's last layer.
    """
    step = config["layers_per_block"] + 1
    match module.split("."):
        case ["down_blocks", block, "resnets", layer, part] if part in _UNET_RESNET:
            return f"input_blocks.{1 + int(block) * step + int(layer)}.0.{_UNET_RESNET[part]}"
        case ["down_blocks", block, "attentions", layer, *rest]:
            return ".".join([f"input_blocks.{1 + int(block) * step + int(layer)}.1", *rest])
        case ["down_blocks", block, "downsamplers", "0", "conv"]:
            return f"input_blocks.{(int(block) + 1) * step}.0.op"
        case ["mid_block", "resnets", ("0" | "1") as layer, part] if part in _UNET_RESNET:
            return f"middle_block.{2 * int(layer)}.{_UNET_RESNET[part]}"
        case ["mid_block", "attentions", "0", *rest]:
            return ".".join(["middle_block.1", *rest])
        case ["up_blocks", block, "resnets", layer, part] if part in _UNET_RESNET:
            return f"output_blocks.{int(block) * step + int(layer)}.0.{_UNET_RESNET[part]}"
        case ["up_blocks", block, "attentions", layer, *rest]:
            return ".".join([f"output_blocks.{int(block) * step + int(layer)}.1", *rest])
        case ["up_blocks", block, "upsamplers", "0", "conv"]:
            place = 2 if "Attn" in config["up_block_types"][int(block)] else 1
            return f"output_blocks.{(int(block) + 1) * step - 1}.{place}.conv"
    return _UNET_ENDS.get(module)


def _vae(tensors: Tensors, config: Config) -> dict[str, torch.Tensor]:
    names = _renamed("vae", tensors, lambda module: _vae_module(module, levels=len(config["block_out_channels"])))
    # attention was a 1x1 convolution there and is a linear layer in diffusers
    return {
        f"first_stage_model.{names[name]}": tensor[..., None, None]
        if tensor.ndim == 2 and ".mid.attn_1." in names[name]
        else tensor
        for name, tensor in tensors.items()
    }


def _vae_module(module: str, *, levels: int) -> str | None:
    """The original name of an autoencoder module. There the decoder's levels count from the finest."""
    match module.split("."):
        case ["quant_conv" | "post_quant_conv"]:
            return module
        case [("encoder" | "decoder") as half, end] if end in _VAE_ENDS:
            return f"{half}.{_VAE_ENDS[end]}"
        case ["encoder", "down_blocks", level, "resnets", layer, part] if part in _VAE_RESNET:
            return f"encoder.down.{level}.block.{layer}.{_VAE_RESNET[part]}"
        case ["encoder", "down_blocks", level, "downsamplers", "0", "conv"]:
            return f"encoder.down.{level}.downsample.conv"
        case ["decoder", "up_blocks", level, "resnets", layer, part] if part in _VAE_RESNET:
            return f"decoder.up.{levels - 1 - int(level)}.block.{layer}.{_VAE_RESNET[part]}"
        case ["decoder", "up_blocks", level, "upsamplers", "0", "conv"]:
            return f"decoder.up.{levels - 1 - int(level)}.upsample.conv"
        case [half, "mid_block", "resnets", ("0" | "1") as layer, part] if part in _VAE_RESNET:
            return f"{half}.mid.block_{int(layer) + 1}.{_VAE_RESNET[part]}"
        case [half, "mid_block", "attentions", "0", *rest] if ".".join(rest) in _VAE_ATTENTION:
            return f"{half}.mid.attn_1.{_VAE_ATTENTION['.'.join(rest)]}"
    return None


def _text(tensors: Tensors, config: Config) -> dict[str, torch.Tensor]:
    """SD 1.x holds CLIP as transformers names it, SD 2.x holds OpenCLIP: its activation tells which."""
    layers = config["num_hidden_layers"]
    expected = _LAYERS.get(config["hidden_size"], layers)
    if layers != expected:
        raise ConfigError(
            f"output.format: SingleFile is read with {expected} layers in the text encoder, and this model's has "
            f"{layers}; use Diffusers"
        )
    bare = {name.removeprefix("text_model."): tensor for name, tensor in tensors.items()}
    bare.pop("embeddings.position_ids", None)  # 0, 1, 2, …: a buffer that older releases saved
    if config.get("hidden_act") == "gelu":
        return _open_clip(bare)
    for name in bare:
        if not name.startswith(("embeddings.", "encoder.layers.", "final_layer_norm.")):
            raise _no_place("text_encoder", name)
    return {f"cond_stage_model.transformer.text_model.{name}": tensor for name, tensor in bare.items()}


def _open_clip(tensors: Tensors) -> dict[str, torch.Tensor]:
    """OpenCLIP's names; query, key and value are one matrix there."""
    prefix = "cond_stage_model.model."
    found = {prefix + _OPEN_CLIP_ENDS[name]: tensors[name] for name in tensors if name in _OPEN_CLIP_ENDS}
    for name, tensor in tensors.items():
        if name in _OPEN_CLIP_ENDS:
            continue
        match = re.fullmatch(r"encoder\.layers\.(\d+)\.(.+)\.(weight|bias)", name)
        if match is None or int(match[1]) >= _OPEN_CLIP_LAYERS:
            raise _no_place("text_encoder", name)
        layer, module, kind = match.groups()
        block = f"{prefix}transformer.resblocks.{layer}."
        if module in _OPEN_CLIP_LAYER:
            found[f"{block}{_OPEN_CLIP_LAYER[module]}.{kind}"] = tensor
        elif module == "self_attn.q_proj":
            parts = [tensors[f"encoder.layers.{layer}.self_attn.{part}_proj.{kind}"] for part in "qkv"]
            found[f"{block}attn.in_proj_{kind}"] = torch.cat(parts)
        elif module not in ("self_attn.k_proj", "self_attn.v_proj"):
            raise _no_place("text_encoder", name)
    return found


def _renamed(component: str, tensors: Tensors, rename: Callable[[str], str | None]) -> dict[str, str]:
    """Original name by diffusers' name; `rename` maps modules."""
    names = {}
    for name in tensors:
        module, _, kind = name.rpartition(".")
        renamed = rename(module)
        if renamed is None:
            raise _no_place(component, name)
        names[name] = f"{renamed}.{kind}"
    return names


def _no_place(component: str, name: str) -> ConfigError:
    return ConfigError(f"output.format: SingleFile has no place for {component}/{name} of this model; use Diffusers")


def _configs(folder: Path) -> dict[str, Config]:
    return {name: _read_json(folder / name / "config.json") for name in _COMPONENTS}


def _read_json(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text())  # type: ignore[no-any-return]


def _weights(component: Path, read: Callable[[Any, str], torch.Tensor]) -> dict[str, torch.Tensor]:
    found: dict[str, torch.Tensor] = {}
    for path in sorted(component.glob("*.safetensors")):
        with safe_open(path, framework="pt") as file:
            found |= {name: read(file, name) for name in file.keys()}  # noqa: SIM118 (it is no mapping)
    return found


def _whole(file: Any, name: str) -> torch.Tensor:
    tensor: torch.Tensor = file.get_tensor(name)
    return tensor


def _shape_only(file: Any, name: str) -> torch.Tensor:
    return torch.empty(file.get_slice(name).get_shape(), device="meta")
