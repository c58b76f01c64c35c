"""The networks that figures are measured with: DINO, CLIP and LPIPS, each from a folder of safetensors.

`check_encoder` judges from names and config.json alone, before anything is fetched; `load_encoders` loads. Which
encoders there are is the runtime's word (`spec.encoders`).
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image

from kubooth_trainer.config import EncoderRole
from kubooth_trainer.encoders.base import CONFIG, WEIGHTS, ImageEncoder, PairEncoder, PerceptualDistance
from kubooth_trainer.encoders.clip import Clip
from kubooth_trainer.encoders.domain import DOMAIN, STATISTICS
from kubooth_trainer.encoders.lpips import Lpips
from kubooth_trainer.encoders.vit import Dino
from kubooth_trainer.errors import BadModelError

__all__ = [
    "Encoders",
    "ImageEncoder",
    "PairEncoder",
    "PerceptualDistance",
    "check_encoder",
    "field_of",
    "load_encoders",
]

ROLES: Mapping[str, str] = {"dino": "vit", "clip": "clip", "lpips": "lpips"}  # to model_type in config.json
PICKLED = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
_TOKENIZER = ("tokenizer.json", "tokenizer_config.json", "vocab.json", "merges.txt", "special_tokens_map.json")


@dataclass(frozen=True, kw_only=True)
class Encoders:
    """What there is to measure with; None where the runtime names no such encoder."""

    dino: Dino | None = None
    clip: Clip | None = None
    lpips: Lpips | None = None

    def all(self) -> list[Dino | Clip | Lpips]:
        return [encoder for encoder in (self.dino, self.clip, self.lpips) if encoder is not None]

    def why_not(self, photos: Sequence[Image.Image]) -> str | None:
        """A sentence where an encoder of a narrow domain cannot speak of these photos; None where all can."""
        for encoder in self.all():
            if encoder.domain is not None and not encoder.domain.has(photos):
                return (
                    f"the encoders of this runtime know {encoder.domain.description} alone, and the photos show "
                    "something else: figures would mean nothing. A runtime whose spec.encoders names DINO, CLIP and "
                    "LPIPS for photos gives them"
                )
        return None


def field_of(role: str) -> str:
    """How errors name an encoder."""
    return f"spec.encoders.{role} of the runtime"


def check_encoder(role: str, uri: str, names: Collection[str], config: bytes | None) -> list[str]:
    """The files to fetch of the encoder at `uri`, from its file names and its config.json. Raises BadModelError."""
    field = f"{field_of(role)}: {uri}"
    if config is None:
        raise BadModelError(f"{field}: no {CONFIG} in this folder: point it at a model in Hugging Face layout")
    try:
        kind = json.loads(config)["model_type"]
    except (ValueError, KeyError, TypeError) as error:
        raise BadModelError(f"{field}: {CONFIG} names no model_type ({error})") from error
    if kind != ROLES[role]:
        raise BadModelError(f"{field}: is of model_type {kind!r}; {role} needs {ROLES[role]!r}")
    if WEIGHTS not in names:
        pickled = next((name for name in sorted(names) if name.endswith(PICKLED)), None)
        if pickled is not None:
            raise BadModelError(
                f"{field}: {pickled} is a pickle, which is never loaded: convert the weights to {WEIGHTS}"
            )
        raise BadModelError(f"{field}: holds no {WEIGHTS}: upload the model again, whole")
    wanted = {CONFIG, WEIGHTS, DOMAIN, STATISTICS, *(_TOKENIZER if role == "clip" else ())}
    return sorted(wanted & set(names))


def load_encoders(
    folders: Mapping[EncoderRole, Path], uris: Mapping[EncoderRole, str], device: torch.device
) -> Encoders:
    """The encoders in `folders` (role to folder), in fp32 on `device`. Raises BadModelError."""
    kinds = {"dino": Dino, "clip": Clip, "lpips": Lpips}
    loaded = {
        role: kinds[role](folder, uri=uris[role], field=field_of(role), device=device)
        for role, folder in folders.items()
    }
    return Encoders(**loaded)  # type: ignore[arg-type]
