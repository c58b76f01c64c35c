"""Stages `dino`, `clip` and `lpips`: the small metric encoders, trained on renders and on what the VAE makes of them.

The ViT learns to tell instances apart, by contrast and from the oracle. CLIP's two towers learn which captions are
true of which pictures; a caption that leaves things out is true of several. The convolutions of LPIPS learn what the
oracle sees.
"""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import CLIPModel, CLIPTokenizer

from kubooth_world import architecture, dataset, measuring, tokenizer
from kubooth_world import oracle as judge
from kubooth_world.pixels import to_tensor
from kubooth_world.training.loop import Fit, Plan, Worker, load_average
from kubooth_world.training.oracle import ROUND_TRIPS, attribute_loss, disturbed, instance_loss, round_trip
from kubooth_world.training.text import said, tokenize, with_foreign_words

Images = NDArray[np.uint8]
Figures = dict[str, float]
Objective = Callable[[Tensor, Tensor, dict[str, Tensor], Tensor], tuple[Tensor, Figures]]
"""Takes pictures in [-1, 1] (two views of each instance in turn), instances, labels and the oracle's embeddings."""

_SAID: Final = ("kind", "colour", "pattern", "context", "hat")


def train_dino(rank: int, count: int, folder: Path, scenes: int, plan: Plan) -> None:
    """Train the instance encoder in `folder`; one of `count` workers."""
    worker = _start(rank, count, folder, "dino", plan)
    vit = measuring.build_vit().train()
    heads = _heads(vit.config.hidden_size, judge.EMBEDDING)

    def objective(
        pixels: Tensor, instances: Tensor, labels: dict[str, Tensor], target: Tensor
    ) -> tuple[Tensor, Figures]:
        states = vit(vit_input(pixels)).last_hidden_state[:, 0].float()
        contrast = instance_loss(F.normalize(states, dim=1), instances)
        taught, figures = _taught(heads, states, target, labels)
        return 0.5 * contrast + taught, {"contrast": float(contrast.detach()), **figures}

    Fit(plan, worker, folder / "dino.safetensors", {"vit": vit, "heads": heads}).run(
        _on_pairs(folder, scenes, plan, objective)
    )


def train_lpips(rank: int, count: int, folder: Path, scenes: int, plan: Plan) -> None:
    """Train the feature maps of the perceptual distance in `folder`; one of `count` workers."""
    worker = _start(rank, count, folder, "lpips", plan)
    net = measuring.AlexFeatures().train()
    heads = _heads(sum(2 * m.out_channels for m in net.modules() if isinstance(m, nn.Conv2d)), judge.EMBEDDING)

    def objective(
        pixels: Tensor, instances: Tensor, labels: dict[str, Tensor], target: Tensor
    ) -> tuple[Tensor, Figures]:
        maps = net(pixels)
        pooled = torch.cat([states.mean((2, 3)) for states in maps] + [states.amax((2, 3)) for states in maps], dim=1)
        return _taught(heads, pooled.float(), target, labels)

    Fit(plan, worker, folder / "lpips.safetensors", {"net": net, "heads": heads}).run(
        _on_pairs(folder, scenes, plan, objective)
    )


def train_clip(rank: int, count: int, folder: Path, scenes: int, plan: Plan) -> None:
    """Train the encoder of pictures and captions in `folder`; one of `count` workers."""
    worker = _start(rank, count, folder, "clip", plan)
    clip_tokenizer = architecture.load_tokenizer(folder / f"tokenizer-{rank}")
    clip = build_clip(clip_tokenizer).train()
    heads = nn.ModuleDict({tower: _heads(int(clip.config.vision_config.hidden_size)) for tower in ("picture", "text")})
    data, _ = _data(folder, scenes)

    def loss(rng: np.random.Generator, step: int) -> tuple[Tensor, Figures]:
        picks = rng.integers(len(data.images), size=plan.batch)
        pixels = disturbed(to_tensor(data.images[picks]), rng)
        texts = [str(data.captions[i, int(rng.integers(dataset.CAPTIONS))]) for i in picks]
        texts = with_foreign_words(texts, rng)
        labels = {name: torch.from_numpy(data.labels[name][picks]) for name in _SAID}
        spoken = {name: torch.tensor([said(text)[name] for text in texts]) for name in _SAID}
        seen = clip.vision_model(pixel_values=normalized(pixels, "clip")).pooler_output
        read = clip.text_model(input_ids=tokenize(clip_tokenizer, texts)).pooler_output
        pictures = F.normalize(clip.visual_projection(seen), dim=1)
        captions = F.normalize(clip.text_projection(read), dim=1)
        logits = clip.logit_scale.exp().clamp(max=50) * captions @ pictures.T
        true = (is_true(spoken, labels) | torch.eye(len(texts), dtype=torch.bool)).float()
        pair_loss = (_multi(logits, true) + _multi(logits.T, true.T)) / 2
        told, right = attribute_loss(_read(heads["picture"], seen), labels)
        unsaid = {name: spoken[name] >= len(dataset.ATTRIBUTES[name]) for name in _SAID}
        targets = {name: spoken[name].masked_fill(unsaid[name], -100) for name in _SAID}
        heard, _ = attribute_loss(_read(heads["text"], read), targets)
        hit = float(true[torch.arange(len(true)), logits.argmax(1)].mean())
        return pair_loss + 0.3 * (told + heard), {"hit": hit, **right}

    Fit(plan, worker, folder / "clip.safetensors", {"clip": clip, "heads": heads}).run(loss)


def build_clip(clip_tokenizer: CLIPTokenizer) -> CLIPModel:
    """Return CLIP for the world's own tokenizer."""
    return measuring.build_clip(
        len(clip_tokenizer),
        start=clip_tokenizer.bos_token_id,
        end=clip_tokenizer.eos_token_id,
        length=tokenizer.MAX_LENGTH,
    )


def is_true(spoken: dict[str, Tensor], labels: dict[str, Tensor]) -> Tensor:
    """Return (captions, pictures) of booleans: nothing that the caption says is false of the picture."""
    true = torch.ones(len(spoken["kind"]), len(labels["kind"]), dtype=torch.bool)
    for name, words in spoken.items():
        unsaid = words >= len(dataset.ATTRIBUTES[name])
        true &= unsaid[:, None] | (words[:, None] == labels[name][None, :])
    return true


def vit_input(pixels: Tensor) -> Tensor:
    """Cut the middle of (n, 3, 64, 64) pictures in [-1, 1] and normalize it as DINO does."""
    margin = (pixels.shape[-1] - measuring.VIT_SIDE) // 2
    return normalized(pixels[..., margin : margin + measuring.VIT_SIDE, margin : margin + measuring.VIT_SIDE], "vit")


def normalized(pixels: Tensor, kind: str) -> Tensor:
    """Bring pictures in [-1, 1] to the mean and deviation that an architecture expects."""
    mean = pixels.new_tensor(measuring.MEAN[kind])[:, None, None]
    return ((pixels + 1) / 2 - mean) / pixels.new_tensor(measuring.STD[kind])[:, None, None]


def _start(rank: int, count: int, folder: Path, name: str, plan: Plan) -> Worker:
    worker = Worker(rank=rank, count=count)
    worker.join(folder, name)
    torch.manual_seed(plan.seed)
    return worker


def _heads(width: int, embedding: int | None = None) -> nn.ModuleDict:
    heads = nn.ModuleDict({name: nn.Linear(width, len(dataset.ATTRIBUTES[name])) for name in _SAID})
    if embedding is not None:
        heads["embedding"] = nn.Linear(width, embedding)
    return heads


def _read(heads: nn.Module, states: Tensor) -> dict[str, Tensor]:
    return {name: heads.get_submodule(name)(states) for name in _SAID}


def _taught(heads: nn.ModuleDict, states: Tensor, target: Tensor, labels: dict[str, Tensor]) -> tuple[Tensor, Figures]:
    """The oracle's embedding by cosine, and the attributes."""
    likeness = F.cosine_similarity(heads["embedding"](states), target, dim=1).mean()
    told, right = attribute_loss(_read(heads, states), labels)
    return 2 * (1 - likeness) + 0.3 * told, {"likeness": float(likeness.detach()), **right}


def _multi(logits: Tensor, true: Tensor) -> Tensor:
    """Cross entropy against all that is true of each row, in equal parts."""
    return -(logits.log_softmax(1) * true).sum(1).div(true.sum(1)).mean()


def _data(folder: Path, scenes: int) -> tuple[dataset.Data, Tensor]:
    """Scenes of which the first went through the VAE, where there is one, and what the oracle says of each.

    Made once and kept: it takes longer than some of the stages do.
    """
    data = dataset.load(folder / "data", scenes)
    kept = folder / f"encoder-data-{scenes}.safetensors"
    if not kept.exists():
        whole = min(ROUND_TRIPS, scenes) // dataset.VIEWS * dataset.VIEWS
        data.images[:whole] = round_tripped(folder, data.images[:whole])
        trained = folder / "oracle.safetensors"
        teacher = judge.Oracle().eval() if trained.exists() else judge.load()
        if trained.exists():
            load_average(trained, {"oracle": teacher})
        embedded = []
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
            for start in range(0, scenes, 200):
                pixels = to_tensor(data.images[start : start + 200])
                embedded.append(teacher(pixels).embedding.float())
        aside = kept.with_suffix(f".{os.getpid()}.part")
        save_file({"trips": torch.from_numpy(data.images[:whole]), "oracle": torch.cat(embedded)}, aside)
        aside.replace(kept)
    made = load_file(kept)
    data.images[: len(made["trips"])] = made["trips"].numpy()
    return data, made["oracle"]


def round_tripped(folder: Path, images: Images) -> Images:
    """Return (n, 64, 64, 3) pictures as the VAE in `folder` gives them back; as they are where there is none."""
    if not (folder / "vae.safetensors").exists():
        return images
    vae = architecture.build_vae(architecture.SMALL_WORLD).eval()
    load_average(folder / "vae.safetensors", {"vae": vae})
    return round_trip(vae, images)


def _on_pairs(
    folder: Path, scenes: int, plan: Plan, objective: Objective
) -> Callable[[np.random.Generator, int], tuple[Tensor, Figures]]:
    """The loss of a step on two views of each of `plan.batch // 2` instances, half of them of one class."""
    data, oracle = _data(folder, scenes)
    kinds = data.labels["kind"][:: dataset.VIEWS]
    by_kind = [np.flatnonzero(kinds == kind) for kind in range(len(dataset.ATTRIBUTES["kind"]))]

    def loss(rng: np.random.Generator, step: int) -> tuple[Tensor, Figures]:
        half = plan.batch // 4
        alike = by_kind[int(rng.integers(len(by_kind)))]
        instances = np.concatenate([rng.choice(alike, half, replace=False), rng.integers(len(kinds), size=half)])
        views = np.array([rng.choice(dataset.VIEWS, 2, replace=False) for _ in instances])
        picks = (instances[:, None] * dataset.VIEWS + views).T.ravel()
        pixels = disturbed(to_tensor(data.images[picks]), rng)
        labels = {name: torch.from_numpy(data.labels[name][picks]) for name in _SAID}
        return objective(pixels, torch.from_numpy(instances), labels, oracle[picks])

    return loss
