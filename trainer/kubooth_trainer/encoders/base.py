"""What a metric encoder must do; the figures are computed against these protocols only.

Implementations: `vit` (DINO), `clip` and `lpips`, loaded from folders by `encoders.load_encoders`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
from PIL import Image

from kubooth_trainer.errors import BadModelError
from kubooth_trainer.quality import EncoderFacts

CONFIG = "config.json"
WEIGHTS = "model.safetensors"


class ImageEncoder(Protocol):
    """Pictures to vectors whose cosine says how alike the subjects are."""

    @property
    def facts(self) -> EncoderFacts: ...

    @property
    def width(self) -> int: ...

    def embed(self, images: Sequence[Image.Image]) -> torch.Tensor:
        """RGB pictures to float32 [n, width] on the CPU."""
        ...


class PairEncoder(ImageEncoder, Protocol):
    """An image encoder with a text tower in the same space. `scale` makes logits of cosines, as it was trained."""

    @property
    def scale(self) -> float: ...

    def read(self, texts: Sequence[str]) -> torch.Tensor:
        """Texts to float32 [n, width] on the CPU. A text longer than the encoder reads is cut."""
        ...


class PerceptualDistance(Protocol):
    """How different pictures look, pair by pair."""

    @property
    def facts(self) -> EncoderFacts: ...

    def distances(self, images: Sequence[Image.Image]) -> torch.Tensor:
        """RGB pictures of one size to float32 [n, n] on the CPU: symmetric, zero on the diagonal."""
        ...


def pretrained(kind: Any, folder: Path, field: str, device: torch.device, **options: Any) -> Any:
    """A transformers model in fp32 from safetensors alone, whole or refused, frozen, on `device`."""
    try:
        model, found = kind.from_pretrained(
            folder,
            dtype=torch.float32,
            use_safetensors=True,
            local_files_only=True,
            output_loading_info=True,
            **options,
        )
    except (OSError, ValueError, RuntimeError) as error:
        raise BadModelError(f"{field}: cannot be loaded: {str(error).splitlines()[0]}") from error
    if found["missing_keys"]:
        some = ", ".join(sorted(found["missing_keys"])[:3])
        raise BadModelError(f"{field}: {WEIGHTS} lacks weights ({some}): save the model again, whole")
    return model.requires_grad_(False).eval().to(device)


def digest(folder: Path) -> str:
    """SHA-256 (hex) of the weights."""
    with (folder / WEIGHTS).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
