"""LPIPS (arXiv 1801.03924): how different two pictures look, from the feature maps of AlexNet.

Features of each of five layers are scaled to unit length over channels; squared differences are weighted by channel
(the `lin` layers), averaged over positions and summed over layers. Version 0.1, `net="alex"`, as the authors' package
`lpips` computes it; its state dict, saved as safetensors, is the layout here. The widths follow from the weights.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path

import torch
from PIL import Image
from torch.nn import functional as F

from kubooth_trainer.encoders.base import WEIGHTS, digest
from kubooth_trainer.encoders.domain import Domain, load_domain
from kubooth_trainer.encoders.pictures import to_unit_range
from kubooth_trainer.errors import BadModelError
from kubooth_trainer.portions import Portions
from kubooth_trainer.quality import EncoderFacts

SHIFT = (-0.030, -0.088, -0.188)
SCALE = (0.458, 0.448, 0.450)
EPSILON = 1e-10
# (index in torchvision's AlexNet, kernel, stride, padding, whether pooling goes before) of each layer
LAYERS = ((0, 11, 4, 2, False), (3, 5, 1, 2, True), (6, 3, 1, 1, True), (8, 3, 1, 1, False), (10, 3, 1, 1, False))


class Lpips:
    """The distance from a folder with `model.safetensors` and a config.json of model_type "lpips"."""

    def __init__(self, folder: Path, *, uri: str, field: str, device: torch.device) -> None:
        from safetensors.torch import load_file

        tensors = load_file(folder / WEIGHTS)
        self._weights = {name: tensors[name].float().to(device) for name in _checked(tensors, field)}
        self._device = device
        self.portions = Portions()
        self.domain: Domain | None = load_domain(folder, field)
        widths = ", ".join(str(self._weights[_convolution(layer, "weight")].shape[0]) for layer in range(len(LAYERS)))
        self.facts = EncoderFacts(
            role="lpips",
            uri=uri,
            architecture=f"LPIPS 0.1 on AlexNet of {widths} channels",
            preprocessing="pictures as they are sampled, in [-1, 1]",
            digest=digest(folder),
            domain=self.domain.name if self.domain else "",
        )

    def distances(self, images: Sequence[Image.Image]) -> torch.Tensor:
        while True:
            try:
                return self._in_portions(images)
            except torch.OutOfMemoryError:
                most = min(self.portions.size or len(images), len(images))
                if most <= 2:
                    raise
            self.portions.halve(max(most, 4))  # a distance takes two pictures

    def _in_portions(self, images: Sequence[Image.Image]) -> torch.Tensor:
        """Of every two blocks of half a portion, so that no more than a portion is on the device."""
        most = self.portions.size or len(images)
        if len(images) <= most:
            return self._distances(images)
        result = torch.zeros(len(images), len(images))
        half = most // 2
        blocks = [torch.arange(start, min(start + half, len(images))) for start in range(0, len(images), half)]
        for one, other in combinations(blocks, 2):
            both = torch.cat([one, other])
            result[both[:, None], both] = self._distances([images[index] for index in both.tolist()])
        return result

    @torch.inference_mode()
    def _distances(self, images: Sequence[Image.Image]) -> torch.Tensor:
        maps = self._features(to_unit_range(images).to(self._device))
        result = torch.zeros(len(images), len(images), device=self._device)
        for first in range(len(images) - 1):
            rest = slice(first + 1, len(images))
            for layer, states in enumerate(maps):
                weighted = F.conv2d(
                    (states[rest] - states[first]).square(), self._weights[f"lin{layer}.model.1.weight"]
                )
                result[first, rest] += weighted.mean((1, 2, 3))
        return (result + result.T).cpu()

    def _features(self, pixels: torch.Tensor) -> list[torch.Tensor]:
        shift, scale = (pixels.new_tensor(values)[:, None, None] for values in (SHIFT, SCALE))
        states, maps = (pixels - shift) / scale, []
        for layer, (_, _, stride, padding, pools) in enumerate(LAYERS):
            if pools:
                states = F.max_pool2d(states, 3, stride=2)
            weight, bias = (self._weights[_convolution(layer, part)] for part in ("weight", "bias"))
            states = F.relu(F.conv2d(states, weight, bias, stride=stride, padding=padding))
            length = states.square().sum(1, keepdim=True).sqrt()
            maps.append(states / (length + EPSILON))
        return maps


def _convolution(layer: int, part: str) -> str:
    return f"net.slice{layer + 1}.{LAYERS[layer][0]}.{part}"


def _checked(tensors: Mapping[str, torch.Tensor], field: str) -> list[str]:
    """The names that are needed. Raises BadModelError where one is missing or its shape does not fit."""
    names, channels = [], 3
    for layer, (_, kernel, *_) in enumerate(LAYERS):
        weight, bias, lin = _convolution(layer, "weight"), _convolution(layer, "bias"), f"lin{layer}.model.1.weight"
        missing = next((name for name in (weight, bias, lin) if name not in tensors), None)
        if missing is not None:
            raise BadModelError(
                f"{field}: {WEIGHTS} has no {missing}: save the state dict of lpips.LPIPS(net='alex') there"
            )
        width = tensors[weight].shape[0]
        for name, shape in ((weight, (width, channels, kernel, kernel)), (bias, (width,)), (lin, (1, width, 1, 1))):
            if tuple(tensors[name].shape) != shape:
                raise BadModelError(f"{field}: {name} has shape {tuple(tensors[name].shape)}, must be {shape}")
        channels = width
        names += [weight, bias, lin]
    return names
