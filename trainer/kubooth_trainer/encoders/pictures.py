"""Pictures as the published encoders were shown them: resized, cut, normalized.

The transforms are those of the original code; tests hold them against transformers' own processors.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
CLIP = ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))


@dataclass(frozen=True, kw_only=True)
class Transform:
    """Shorter side to `resize` pixels (bicubic), the middle square of `crop` pixels, then mean and deviation."""

    resize: int
    crop: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]

    def __call__(self, images: Sequence[Image.Image]) -> torch.Tensor:
        """RGB pictures of any size to float32 [n, 3, crop, crop]."""
        pixels = torch.from_numpy(np.stack([np.asarray(self._cut(image)) for image in images])).float() / 255
        pixels = (pixels - torch.tensor(self.mean)) / torch.tensor(self.std)
        return pixels.permute(0, 3, 1, 2).contiguous()

    def _cut(self, image: Image.Image) -> Image.Image:
        short = min(image.size)
        if short != self.resize:
            width, height = (int(self.resize * side / short) for side in image.size)
            image = image.convert("RGB").resize((width, height), Image.Resampling.BICUBIC)
        left, top = ((side - self.crop) // 2 for side in image.size)
        return image.convert("RGB").crop((left, top, left + self.crop, top + self.crop))

    def __str__(self) -> str:
        return f"shorter side to {self.resize} pixels (bicubic), centre crop of {self.crop}, mean {self.mean}"


def dino_transform(side: int) -> Transform:
    """As facebookresearch/dino evaluates (`eval_knn.py`): 256, then the middle 224; in proportion for other sides."""
    mean, std = IMAGENET
    return Transform(resize=round(side * 256 / 224), crop=side, mean=mean, std=std)


def clip_transform(side: int) -> Transform:
    """As openai/CLIP (`clip.py`, `_transform`)."""
    mean, std = CLIP
    return Transform(resize=side, crop=side, mean=mean, std=std)


def to_unit_range(images: Sequence[Image.Image]) -> torch.Tensor:
    """RGB pictures of one size, as they are, to float32 [n, 3, h, w] in [-1, 1]: what LPIPS takes."""
    pixels = np.stack([np.asarray(image.convert("RGB"), dtype=np.float32) for image in images])
    return torch.from_numpy(np.ascontiguousarray(pixels.transpose(0, 3, 1, 2))) / 127.5 - 1
