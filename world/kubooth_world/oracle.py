"""The oracle: a small convolutional network that reads a picture's ground truth back.

It judges samples of the bundled model, and its embedding tells instances of one class apart, so that
it also serves as the metric encoder for the cartoon world. It says nothing about real photos.
"""

from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Final

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F

from kubooth_world import oracle_path
from kubooth_world.vocabulary import CLASSES, COLOURS, CONTEXTS, HATS, PATTERNS

SIDE: Final = 64
"""Side in pixels at which the oracle looks; other sizes are resampled."""
EMBEDDING: Final = 128
ATTRIBUTES: Final[dict[str, tuple[str, ...]]] = {
    "kind": CLASSES,
    "colour": tuple(COLOURS),
    "pattern": PATTERNS,
    "context": tuple(CONTEXTS),
    "hat": HATS,
}
_WIDTHS: Final = (32, 64, 128, 176)


@dataclass(frozen=True)
class Reading:
    """What the oracle sees in n pictures."""

    logits: dict[str, Tensor]
    """Attribute to (n, values); the values are listed in `ATTRIBUTES`."""
    embedding: Tensor
    """(n, EMBEDDING), unit length: the cosine of two pictures of one instance is near 1."""

    def words(self, attribute: str) -> list[str]:
        """Return the most likely value of an attribute for each picture."""
        return [ATTRIBUTES[attribute][index] for index in self.logits[attribute].argmax(1).tolist()]


class Oracle(nn.Module):
    """Pictures to attributes and an instance embedding; about 1.2 million parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, _WIDTHS[0], 5, stride=2, padding=2)
        stages: list[nn.Module] = [_Residual(_WIDTHS[0])]
        for narrow, wide in pairwise(_WIDTHS):
            stages += [nn.Conv2d(narrow, wide, 3, stride=2, padding=1), _Residual(wide)]
        self.stages = nn.Sequential(*stages)
        self.norm = nn.GroupNorm(8, _WIDTHS[-1])
        features = 2 * _WIDTHS[-1]
        self.heads = nn.ModuleDict({name: nn.Linear(features, len(values)) for name, values in ATTRIBUTES.items()})
        self.instance = nn.Linear(features, EMBEDDING)

    def forward(self, pixels: Tensor) -> Reading:
        """Read pictures of (n, 3, h, w) in [-1, 1]."""
        if pixels.shape[-1] != SIDE:
            pixels = F.interpolate(pixels, (SIDE, SIDE), mode="bilinear", antialias=True)
        states = F.silu(self.norm(self.stages(self.stem(pixels))))
        features = torch.cat([states.mean((2, 3)), states.amax((2, 3))], dim=1)
        return Reading(
            logits={name: head(features) for name, head in self.heads.items()},
            embedding=F.normalize(self.instance(features), dim=1),
        )


class _Residual(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norms = nn.ModuleList([nn.GroupNorm(8, channels) for _ in range(2)])
        self.convolutions = nn.ModuleList([nn.Conv2d(channels, channels, 3, padding=1) for _ in range(2)])

    def forward(self, states: Tensor) -> Tensor:
        update = states
        for norm, convolution in zip(self.norms, self.convolutions, strict=True):
            update = convolution(F.silu(norm(update)))
        return states + update


def load(path: Path | None = None) -> Oracle:
    """Load the bundled oracle (or the one at `path`) in fp32, ready to read."""
    oracle = Oracle()
    weights = {name: tensor.float() for name, tensor in load_file(path or oracle_path()).items()}
    oracle.load_state_dict(weights)
    return oracle.eval()
