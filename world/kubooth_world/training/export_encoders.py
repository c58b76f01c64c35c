"""Stage `export-encoders`: the three metric encoders in fp16, in the layouts that public weights have.

Beside each lie statistics of the texture of this world's pictures, at the sizes in which photos of it come.
"""

import json
from pathlib import Path
from typing import Final

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor

from kubooth_world import architecture, measuring
from kubooth_world.render import SIZE, render
from kubooth_world.scene import sample_instance, sample_scene
from kubooth_world.training.encoders import build_clip
from kubooth_world.training.loop import load_average
from kubooth_world.vocabulary import CLASSES

INSTANCES: Final = 240
SIZES: Final = (64, 128, 256, 512)
CHANNEL_WEIGHT: Final = 0.1
"""No judgements by people stand behind it: all channels count alike, and unlike pictures come out below 1."""
_SEED: Final = 777
_SHRINKAGE: Final = 0.005


def export_encoders(folder: Path, target: Path) -> None:
    """Write what was trained in `folder` to `target`/dino, clip and lpips."""
    domain = statistics()
    vit = measuring.build_vit()
    load_average(folder / "dino.safetensors", {"vit": vit})
    vit.half().save_pretrained(target / "dino")
    _save_domain(target / "dino", domain)

    clip_tokenizer = architecture.load_tokenizer(folder / "tokenizer")
    clip = build_clip(clip_tokenizer)
    load_average(folder / "clip.safetensors", {"clip": clip})
    clip.half().save_pretrained(target / "clip")
    clip_tokenizer.save_pretrained(target / "clip")
    _save_domain(target / "clip", domain)

    net = measuring.AlexFeatures()
    load_average(folder / "lpips.safetensors", {"net": net})
    weights = {f"net.{name}": tensor.half().contiguous() for name, tensor in net.state_dict().items()}
    for layer, states in enumerate(net(torch.zeros(1, 3, SIZE, SIZE))):
        channels = states.shape[1]
        weights[f"lin{layer}.model.1.weight"] = torch.full((1, channels, 1, 1), CHANNEL_WEIGHT).half()
    (target / "lpips").mkdir(parents=True, exist_ok=True)
    save_file(weights, target / "lpips" / "model.safetensors", metadata={"format": "pt"})
    (target / "lpips" / "config.json").write_text(json.dumps({"model_type": "lpips", "net": "alex"}, indent=2) + "\n")
    _save_domain(target / "lpips", domain)


def statistics() -> dict[str, Tensor]:
    """Return mean, whitening and bound of the texture of renders, of which 99 in 100 are within."""
    rng = np.random.default_rng(_SEED)
    images = []
    for number in range(INSTANCES):
        instance, size = sample_instance(rng), SIZES[number % len(SIZES)]
        for _ in range(4):
            image = Image.fromarray(render(sample_scene(rng, instance), size))
            images.append(np.asarray(image.resize((SIZE, SIZE), Image.Resampling.BICUBIC)))
    rows = measuring.texture(torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).float() / 255)
    centred = rows - rows.mean(0)
    values, vectors = torch.linalg.eigh(centred.T @ centred / len(rows))
    whitening = vectors / (values + _SHRINKAGE * values.mean()).sqrt()
    distances = (centred @ whitening).square().mean(1).sqrt()
    return {"mean": rows.mean(0), "whitening": whitening, "bound": torch.quantile(distances, 0.99)}


def _save_domain(target: Path, found: dict[str, Tensor]) -> None:
    said = {"name": measuring.DOMAIN, "description": measuring.DOMAIN_TEXT, "classes": CLASSES}
    (target / "domain.json").write_text(json.dumps(said, indent=2) + "\n")
    save_file({name: tensor.contiguous() for name, tensor in found.items()}, target / "domain.safetensors")
