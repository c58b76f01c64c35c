"""DINO (arXiv 2104.14294): the class token of a ViT, as the DreamBooth paper measures subjects. ViT-S/16 there."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from PIL import Image

from kubooth_trainer.encoders.base import digest, pretrained
from kubooth_trainer.encoders.domain import Domain, load_domain
from kubooth_trainer.encoders.pictures import dino_transform
from kubooth_trainer.portions import Portions
from kubooth_trainer.quality import EncoderFacts


class Dino:
    """A `ViTModel` in Hugging Face layout; the last layer's class token after the final norm."""

    def __init__(self, folder: Path, *, uri: str, field: str, device: torch.device) -> None:
        from transformers import ViTModel

        self._model = pretrained(ViTModel, folder, field, device, add_pooling_layer=False)
        config = self._model.config
        self._device = device
        self.portions = Portions()
        self._transform = dino_transform(int(config.image_size))
        self.width = int(config.hidden_size)
        self.domain: Domain | None = load_domain(folder, field)
        self.facts = EncoderFacts(
            role="dino",
            uri=uri,
            architecture=f"ViT, {config.num_hidden_layers} layers of {self.width}, patches of {config.patch_size}",
            preprocessing=str(self._transform),
            digest=digest(folder),
            domain=self.domain.name if self.domain else "",
        )

    def embed(self, images: Sequence[Image.Image]) -> torch.Tensor:
        return self.portions.run(self._embed, images)

    @torch.inference_mode()
    def _embed(self, images: Sequence[Image.Image]) -> torch.Tensor:
        states = self._model(pixel_values=self._transform(images).to(self._device)).last_hidden_state
        return states[:, 0].float().cpu()  # type: ignore[no-any-return]
