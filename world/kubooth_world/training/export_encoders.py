"""Stage `export-encoders`: the three metric encoders in fp16, in the layouts that public weights have.

Beside the instance encoder lie the statistics of its embeddings over fresh renders and round trips, by which
pictures of another world are told.
"""

import json
from pathlib import Path
from typing import Final

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor
from transformers import ViTModel

from kubooth_world import architecture, dataset, measuring
from kubooth_world.pixels import to_tensor
from kubooth_world.training.encoders import build_clip, round_tripped, vit_input
from kubooth_world.training.loop import load_average

FRESH: Final = 400
"""Instances whose views make the statistics; training saw none of them."""
_SEED: Final = 777
_SHRINKAGE: Final = 0.02
_MARGIN: Final = 1.15


def export_encoders(folder: Path, target: Path) -> None:
    """Write what was trained in `folder` to `target`/dino, clip and lpips."""
    vit = measuring.build_vit().eval()
    load_average(folder / "dino.safetensors", {"vit": vit})
    _save(vit.half(), target / "dino")
    _save_domain(target / "dino", statistics(vit.float(), folder))

    clip_tokenizer = architecture.load_tokenizer(folder / "tokenizer")
    clip = build_clip(clip_tokenizer).eval()
    load_average(folder / "clip.safetensors", {"clip": clip})
    _save(clip.half(), target / "clip")
    clip_tokenizer.save_pretrained(target / "clip")
    _save_domain(target / "clip")

    net = measuring.AlexFeatures()
    load_average(folder / "lpips.safetensors", {"net": net})
    weights = {f"net.{name}": tensor.half().contiguous() for name, tensor in net.state_dict().items()}
    for layer, states in enumerate(net(torch.zeros(1, 3, 64, 64))):
        channels = states.shape[1]  # no judgements by people stand behind these weights: all channels count alike
        weights[f"lin{layer}.model.1.weight"] = torch.full((1, channels, 1, 1), 1 / 5).half()
    (target / "lpips").mkdir(parents=True, exist_ok=True)
    save_file(weights, target / "lpips" / "model.safetensors", metadata={"format": "pt"})
    (target / "lpips" / "config.json").write_text(json.dumps({"model_type": "lpips", "net": "alex"}, indent=2) + "\n")
    _save_domain(target / "lpips")


@torch.no_grad()
def statistics(vit: ViTModel, folder: Path) -> dict[str, Tensor]:
    """Mean, whitening and bound of the class token: nearly all sets of four pictures of this world are within."""
    renders = dataset.sample(_SEED, FRESH, training=False).images
    images = np.concatenate([renders, round_tripped(folder, renders)])
    rows = torch.cat(
        [vit(pixel_values=vit_input(to_tensor(part))).last_hidden_state[:, 0] for part in np.array_split(images, 20)]
    )
    mean = rows.mean(0)
    centred = rows - mean
    values, vectors = torch.linalg.eigh(centred.T @ centred / len(rows))
    floor = _SHRINKAGE * values.mean()
    whitening = vectors / (values + floor).sqrt()
    distances = (centred @ whitening).square().mean(1).sqrt()
    bound = _MARGIN * torch.quantile(distances, 0.99)
    return {"mean": mean, "whitening": whitening.contiguous(), "bound": bound}


def _save(model: torch.nn.Module, target: Path) -> None:
    model.save_pretrained(target, safe_serialization=True)  # type: ignore[operator]


def _save_domain(target: Path, found: dict[str, Tensor] | None = None) -> None:
    said = {"name": measuring.DOMAIN, "description": measuring.DOMAIN_TEXT}
    (target / "domain.json").write_text(json.dumps(said, indent=2) + "\n")
    if found is not None:
        save_file({name: tensor.float().contiguous() for name, tensor in found.items()}, target / "domain.safetensors")
