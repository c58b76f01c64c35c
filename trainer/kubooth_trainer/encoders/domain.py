"""For which pictures an encoder speaks. One that was trained on drawn scenes says nothing about photos.

An encoder of a narrow domain has two files more in its folder: `domain.json` with a name, a description and, for one
that reads texts, `classes`, the nouns that it knows, and
`domain.safetensors` with statistics of the texture of its pictures, by which pictures of another kind are told: an
embedding cannot tell them, since it was trained to leave out what is common to all. An encoder without `domain.json`
speaks for photos in general.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image

from kubooth_trainer.encoders.pictures import Transform
from kubooth_trainer.errors import BadModelError

DOMAIN = "domain.json"
STATISTICS = "domain.safetensors"
SIDE = 64
QUANTILES = (0.1, 0.25, 0.5, 0.75, 0.9, 0.97)
SMALLEST_STEP = 3e-3  # of the range of a channel: about one level of 255
_PLAIN = Transform(resize=SIDE, crop=SIDE, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))


@dataclass(frozen=True, kw_only=True)
class Domain:
    """`mean` [18] and `whitening` [18, 18] bring a typical picture's distance to 1; `bound` is the largest allowed.

    `classes` are the nouns that its texts know; none: it does not say.
    """

    name: str
    description: str
    classes: tuple[str, ...]
    statistics: Mapping[str, torch.Tensor]

    def distances(self, images: Sequence[Image.Image]) -> torch.Tensor:
        """How far each picture is from the domain: root mean square of its whitened texture, [n]."""
        whitened = (texture(_PLAIN(images)) - self.statistics["mean"]) @ self.statistics["whitening"]
        return whitened.square().mean(1).sqrt()

    def has(self, images: Sequence[Image.Image]) -> bool:
        """Whether most of these pictures belong to the domain: their median is within its bound."""
        return bool(self.distances(images).median() <= self.statistics["bound"])


def texture(pixels: torch.Tensor) -> torch.Tensor:
    """Quantiles of steps between neighbours, of curvature (both as logarithms) and of saturation: [n, 18].

    `pixels`: [n, 3, h, w] in [0, 1].
    """
    steps = torch.cat([(pixels.diff(dim=dim).abs().mean(1)).flatten(1) for dim in (3, 2)], dim=1)
    inner = 4 * pixels[..., 1:-1, 1:-1]
    around = pixels[..., :-2, 1:-1] + pixels[..., 2:, 1:-1] + pixels[..., 1:-1, :-2] + pixels[..., 1:-1, 2:]
    curvature = (inner - around).abs().mean(1).flatten(1)
    saturation = (pixels.amax(1) - pixels.amin(1)).flatten(1)
    at = torch.tensor(QUANTILES)
    logarithms = [torch.quantile(values + SMALLEST_STEP, at, dim=1).log().T for values in (steps, curvature)]
    return torch.cat([*logarithms, torch.quantile(saturation, at, dim=1).T], dim=1)


def load_domain(folder: Path, field: str) -> Domain | None:
    """The domain of the encoder in `folder`; None where it has none. Raises BadModelError."""
    from safetensors.torch import load_file

    if not (folder / DOMAIN).exists():
        return None
    try:
        said, found = json.loads((folder / DOMAIN).read_text()), load_file(folder / STATISTICS)
        statistics = {name: found[name].float() for name in ("mean", "whitening", "bound")}
        return Domain(
            name=str(said["name"]),
            description=str(said["description"]),
            classes=tuple(map(str, said.get("classes", ()))),
            statistics=statistics,
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BadModelError(f"{field}: {DOMAIN} or {STATISTICS} is damaged: {error}") from error
