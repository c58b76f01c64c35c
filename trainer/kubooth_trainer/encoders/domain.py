"""For which pictures an encoder speaks. One that was trained on drawn scenes says nothing about photos.

An encoder of a narrow domain has a `domain.json` with a name and a description in its folder, and, where it embeds
pictures, `domain.safetensors`: mean and whitening of its embeddings over the domain, and the distance up to which a
picture counts as part of it. An encoder without `domain.json` speaks for photos in general.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from kubooth_trainer.errors import BadModelError

DOMAIN = "domain.json"
STATISTICS = "domain.safetensors"


@dataclass(frozen=True, kw_only=True)
class Domain:
    """`mean` [d] and `whitening` [d, d] make a typical picture's distance about 1; None: it cannot tell pictures."""

    name: str
    description: str
    statistics: Mapping[str, torch.Tensor] | None

    def can_tell(self, name: str) -> bool:
        """Whether pictures can be held against the domain of this name."""
        return self.name == name and self.statistics is not None

    def distances(self, embeddings: torch.Tensor) -> torch.Tensor:
        """How far each embedding [n, d] is from the domain: root mean square of its whitened parts, [n]."""
        assert self.statistics is not None
        whitened = (embeddings.float() - self.statistics["mean"]) @ self.statistics["whitening"]
        return whitened.square().mean(1).sqrt()

    def has(self, embeddings: torch.Tensor) -> bool:
        """Whether most of these pictures belong to the domain: their median is within its bound."""
        assert self.statistics is not None
        return bool(self.distances(embeddings).median() <= self.statistics["bound"])


def load_domain(folder: Path, field: str) -> Domain | None:
    """The domain of the encoder in `folder`; None where it has none. Raises BadModelError."""
    from safetensors.torch import load_file

    if not (folder / DOMAIN).exists():
        return None
    try:
        said = json.loads((folder / DOMAIN).read_text())
        statistics = load_file(folder / STATISTICS) if (folder / STATISTICS).exists() else None
        return Domain(name=str(said["name"]), description=str(said["description"]), statistics=statistics)
    except (ValueError, KeyError, TypeError) as error:
        raise BadModelError(f"{field}: {DOMAIN} is damaged: {error}") from error
