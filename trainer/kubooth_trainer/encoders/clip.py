"""CLIP (arXiv 2103.00020): pictures and texts in one space, for CLIP-I and CLIP-T. ViT-B/32 is the usual one."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from PIL import Image

from kubooth_trainer.encoders.base import digest, pretrained
from kubooth_trainer.encoders.domain import Domain, load_domain
from kubooth_trainer.encoders.pictures import clip_transform
from kubooth_trainer.errors import BadModelError
from kubooth_trainer.portions import Portions
from kubooth_trainer.quality import EncoderFacts


class Clip:
    """A `CLIPModel` with its tokenizer in Hugging Face layout; the projected embeddings of both towers."""

    def __init__(self, folder: Path, *, uri: str, field: str, device: torch.device) -> None:
        from transformers import CLIPModel, CLIPTokenizer

        self._model = pretrained(CLIPModel, folder, field, device)
        try:
            self._tokenizer = CLIPTokenizer.from_pretrained(folder, local_files_only=True)
        except (OSError, ValueError) as error:
            raise BadModelError(f"{field}: has no tokenizer: {str(error).splitlines()[0]}") from error
        vision, text = self._model.config.vision_config, self._model.config.text_config
        self._length = int(text.max_position_embeddings)
        self._device = device
        self.portions = Portions()
        self._transform = clip_transform(int(vision.image_size))
        self.width = int(self._model.config.projection_dim)
        self.scale = float(self._model.logit_scale.exp())
        self.domain: Domain | None = load_domain(folder, field)
        self.facts = EncoderFacts(
            role="clip",
            uri=uri,
            architecture=f"CLIP, ViT of {vision.num_hidden_layers} layers of {vision.hidden_size}, "
            f"patches of {vision.patch_size}; text of {text.num_hidden_layers} layers",
            preprocessing=f"{self._transform}; texts without the identifier, cut at {self._length} tokens",
            digest=digest(folder),
            domain=self.domain.name if self.domain else "",
        )

    def embed(self, images: Sequence[Image.Image]) -> torch.Tensor:
        return self.portions.run(self._embed, images)

    @torch.inference_mode()
    def _embed(self, images: Sequence[Image.Image]) -> torch.Tensor:
        states = self._model.vision_model(pixel_values=self._transform(images).to(self._device)).pooler_output
        return self._model.visual_projection(states).float().cpu()  # type: ignore[no-any-return]

    @torch.inference_mode()
    def read(self, texts: Sequence[str]) -> torch.Tensor:
        tokens = self._tokenizer(
            list(texts), padding="max_length", truncation=True, max_length=self._length, return_tensors="pt"
        ).to(self._device)
        states = self._model.text_model(input_ids=tokens.input_ids).pooler_output
        return self._model.text_projection(states).float().cpu()  # type: ignore[no-any-return]
