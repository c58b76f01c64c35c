"""Between pictures as people see them and pictures as networks see them."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


def to_tensor(images: NDArray[np.uint8]) -> Tensor:
    """Turn (n, h, w, 3) uint8 into (n, 3, h, w) floats in [-1, 1]."""
    return torch.from_numpy(np.ascontiguousarray(images.transpose(0, 3, 1, 2))).float() / 127.5 - 1


def to_images(pixels: Tensor) -> NDArray[np.uint8]:
    """Turn (n, 3, h, w) in [-1, 1] into (n, h, w, 3) uint8."""
    scaled = (pixels.clamp(-1, 1) + 1) * 127.5
    images: NDArray[np.uint8] = scaled.round().to(torch.uint8).permute(0, 2, 3, 1).contiguous().numpy()
    return images
