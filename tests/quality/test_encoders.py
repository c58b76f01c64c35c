"""Encoders from folders: their transforms, their definitions, and what is refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from bed.tiny_encoders import Noise
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import BitImageProcessorPil, CLIPImageProcessorPil, CLIPModel, CLIPTokenizer, ViTModel

from kubooth_trainer.encoders import Encoders, check_encoder, load_encoders
from kubooth_trainer.encoders.domain import texture
from kubooth_trainer.encoders.pictures import IMAGENET, Transform, clip_transform, dino_transform
from kubooth_trainer.errors import BadModelError

CPU = torch.device("cpu")
SIZES = [(512, 512), (640, 480), (301, 455), (224, 224), (64, 64), (256, 700)]


def load(folders: dict[str, Path]) -> Encoders:
    return load_encoders(folders, {role: folder.as_uri() for role, folder in folders.items()}, CPU)  # type: ignore[arg-type]


@pytest.mark.parametrize(("width", "height"), SIZES)
def test_clip_sees_what_transformers_would_show_it(noise: Noise, width: int, height: int) -> None:
    image = noise(1, width, height)
    expected = CLIPImageProcessorPil()(image, return_tensors="pt").pixel_values
    assert torch.allclose(clip_transform(224)([image]), expected, atol=1e-6)


@pytest.mark.parametrize(("width", "height"), SIZES)
def test_dino_sees_what_its_own_evaluation_shows_it(noise: Noise, width: int, height: int) -> None:
    mean, std = IMAGENET
    published = BitImageProcessorPil(
        size={"shortest_edge": 256}, resample=3, crop_size={"height": 224, "width": 224}, image_mean=mean, image_std=std
    )
    image = noise(2, width, height)
    expected = published(image, return_tensors="pt").pixel_values
    assert torch.allclose(dino_transform(224)([image]), expected, atol=1e-6)


def test_dino_is_the_class_token(encoder_folders: dict[str, Path], noise: Noise) -> None:
    dino = load({"dino": encoder_folders["dino"]}).dino
    assert dino is not None and dino.width == 16
    images = [noise(1), noise(2, 90, 70)]
    with torch.no_grad():
        states = ViTModel.from_pretrained(encoder_folders["dino"], add_pooling_layer=False).eval()(
            pixel_values=dino_transform(28)(images)
        )
    assert torch.allclose(dino.embed(images), states.last_hidden_state[:, 0], atol=1e-6)


def test_clip_embeds_pictures_and_texts_as_transformers_does(encoder_folders: dict[str, Path], noise: Noise) -> None:
    clip = load({"clip": encoder_folders["clip"]}).clip
    assert clip is not None and clip.width == 12
    images, texts = [noise(1), noise(2)], ["a photo of a dog", "a red cat in the snow"]
    whole = CLIPModel.from_pretrained(encoder_folders["clip"]).eval()
    tokens = CLIPTokenizer.from_pretrained(encoder_folders["clip"])(texts, padding=True, return_tensors="pt")
    with torch.no_grad():
        expected = whole(**tokens, pixel_values=clip_transform(32)(images))
    for mine, theirs in ((clip.embed(images), expected.image_embeds), (clip.read(texts), expected.text_embeds)):
        assert torch.allclose(torch.nn.functional.normalize(mine, dim=1), theirs, atol=1e-5)


def test_a_text_longer_than_clip_reads_is_cut(encoder_folders: dict[str, Path]) -> None:
    clip = load({"clip": encoder_folders["clip"]}).clip
    assert clip is not None
    assert torch.isfinite(clip.read(["dog " * 200])).all()


def test_lpips_equals_its_definition_done_by_hand(encoder_folders: dict[str, Path], noise: Noise) -> None:
    lpips = load({"lpips": encoder_folders["lpips"]}).lpips
    assert lpips is not None
    images = [noise(1), noise(2), noise(3)]
    weights = {
        name: tensor.double().numpy()
        for name, tensor in load_file(encoder_folders["lpips"] / "model.safetensors").items()
    }
    features = [_alexnet(np.asarray(image, dtype=np.float64), weights) for image in images]
    for i in range(3):
        for j in range(3):
            by_hand = sum(
                float(((a - b) ** 2 * weights[f"lin{layer}.model.1.weight"].reshape(-1, 1, 1)).sum(0).mean())
                for layer, (a, b) in enumerate(zip(features[i], features[j], strict=True))
            )
            assert float(lpips.distances(images)[i, j]) == pytest.approx(by_hand, abs=1e-6)


def _alexnet(pixels: np.ndarray[Any, Any], weights: dict[str, np.ndarray[Any, Any]]) -> list[np.ndarray[Any, Any]]:
    """Unit-length feature maps, with loops instead of torch."""
    shift, scale = np.array([-0.030, -0.088, -0.188]), np.array([0.458, 0.448, 0.450])
    states = ((pixels / 127.5 - 1 - shift) / scale).transpose(2, 0, 1)
    maps = []
    for layer, (index, stride, padding) in enumerate(((0, 4, 2), (3, 1, 2), (6, 1, 1), (8, 1, 1), (10, 1, 1))):
        if layer in (1, 2):
            side = (states.shape[1] - 3) // 2 + 1
            states = np.stack(
                [
                    [states[:, 2 * y : 2 * y + 3, 2 * x : 2 * x + 3].max(axis=(1, 2)) for x in range(side)]
                    for y in range(side)
                ]
            ).transpose(2, 0, 1)
        kernel, bias = (weights[f"net.slice{layer + 1}.{index}.{part}"] for part in ("weight", "bias"))
        size = kernel.shape[2]
        padded = np.pad(states, ((0, 0), (padding, padding), (padding, padding)))
        side = (padded.shape[1] - size) // stride + 1
        out = np.empty((len(kernel), side, side))
        for y in range(side):
            for x in range(side):
                patch = padded[:, stride * y : stride * y + size, stride * x : stride * x + size]
                out[:, y, x] = np.maximum((kernel * patch).sum(axis=(1, 2, 3)) + bias, 0)
        states = out
        maps.append(states / (np.sqrt((states**2).sum(0)) + 1e-10))
    return maps


def test_a_picture_is_at_no_distance_from_itself(encoder_folders: dict[str, Path], noise: Noise) -> None:
    lpips = load({"lpips": encoder_folders["lpips"]}).lpips
    assert lpips is not None
    distances = lpips.distances([noise(1), noise(2), noise(1)])
    assert torch.equal(distances, distances.T)
    assert float(distances[0, 2]) == 0.0 and float(distances[0, 1]) > 0.0


def test_facts_name_the_network_and_its_weights(encoder_folders: dict[str, Path]) -> None:
    facts = {encoder.facts.role: encoder.facts for encoder in load(encoder_folders).all()}
    assert set(facts) == {"dino", "clip", "lpips"}
    assert all(len(each.digest) == 64 and each.preprocessing and each.domain == "" for each in facts.values())
    assert "4, 6, 5, 4, 3 channels" in facts["lpips"].architecture


VIT = json.dumps({"model_type": "vit"}).encode()
REFUSED = [
    ("no-config", "dino", ["model.safetensors"], None, "no config.json"),
    ("broken-config", "dino", ["config.json"], b"{", "names no model_type"),
    ("family", "clip", ["config.json", "model.safetensors"], VIT, "is of model_type 'vit'; clip needs 'clip'"),
    ("pickle", "dino", ["config.json", "pytorch_model.bin"], VIT, "pytorch_model.bin is a pickle"),
    ("no-weights", "dino", ["config.json"], VIT, "holds no model.safetensors"),
]


@pytest.mark.parametrize(("role", "names", "config", "words"), [c[1:] for c in REFUSED], ids=[c[0] for c in REFUSED])
def test_wrong_folders_are_refused_before_anything_is_fetched(
    role: str, names: list[str], config: bytes | None, words: str
) -> None:
    with pytest.raises(BadModelError, match=words) as error:
        check_encoder(role, "s3://models/x/", names, config)
    assert str(error.value).startswith(f"spec.encoders.{role} of the runtime: s3://models/x/")


def test_only_what_is_needed_is_fetched() -> None:
    names = [
        "config.json",
        "model.safetensors",
        "pytorch_model.bin",
        "README.md",
        "tokenizer.json",
        "flax_model.msgpack",
    ]
    assert check_encoder("dino", "u", names, VIT) == ["config.json", "model.safetensors"]


def test_weights_that_lack_a_part_are_refused(encoder_folders: dict[str, Path], tmp_path: Path) -> None:
    for role, part in (
        ("dino", "embeddings.cls_token"),
        ("clip", "text_projection.weight"),
        ("lpips", "net.slice2.3.bias"),
    ):
        folder = tmp_path / role
        shutil.copytree(encoder_folders[role], folder)
        weights = load_file(folder / "model.safetensors")
        del weights[part]
        save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
        with pytest.raises(BadModelError, match=rf"spec.encoders.{role} of the runtime.*{part.split('.')[-1]}"):
            load({role: folder})


def test_an_encoder_of_a_narrow_domain_tells_what_is_outside(
    encoder_folders: dict[str, Path], tmp_path: Path, noise: Noise
) -> None:
    folder = tmp_path / "dino"
    shutil.copytree(encoder_folders["dino"], folder)
    (folder / "domain.json").write_text(json.dumps({"name": "noise", "description": "smooth noise"}))
    with pytest.raises(BadModelError, match=r"domain\.json or domain\.safetensors is damaged"):
        load({"dino": folder})
    smooth = [noise(seed) for seed in range(40)]
    figures = texture(Transform(resize=64, crop=64, mean=(0, 0, 0), std=(1, 1, 1))(smooth))
    statistics = {
        "mean": figures.mean(0),
        "whitening": torch.diag(1 / figures.std(0)),
        "bound": torch.tensor(2.0),
    }
    save_file(statistics, folder / "domain.safetensors")
    known = load({"dino": folder, "clip": encoder_folders["clip"]})
    rough = [Image.fromarray(np.random.default_rng(1).integers(0, 256, (64, 64, 3), dtype=np.uint8))] * 2
    assert known.why_not([*smooth[:3], *rough]) is None  # most of them belong to it
    assert "know smooth noise alone" in (known.why_not([*rough, smooth[0]]) or "")
    assert load({"clip": encoder_folders["clip"]}).why_not(rough) is None
