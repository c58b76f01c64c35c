"""What a model family must say about itself; the rest of the trainer is written against this Protocol only.

To add a family: one module with one class, one line in the registry of `families/__init__.py`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import nn

Conditioning = dict[str, torch.Tensor]
"""What the denoiser is conditioned on, by name; every tensor has the batch first."""


class TextStack(nn.Module):
    """The text encoder(s) of a family. Children are named as the model folder names its components."""

    def forward(self, token_ids: torch.Tensor) -> Conditioning:
        """Token ids [batch, encoders, tokens] (int64) to conditioning, batch first."""
        raise NotImplementedError

    def idle_modules(self) -> list[nn.Module]:
        """Parts whose output the conditioning does not hold: no gradient reaches them, they stay as they are."""
        return []


@dataclass(frozen=True)
class Parts:
    """A loaded model. `schedule` is the scheduler's config of the model folder (betas, prediction type)."""

    unet: nn.Module
    text: TextStack
    vae: nn.Module
    schedule: Mapping[str, Any]


class Family(Protocol):
    """One model family. Stateless."""

    @property
    def name(self) -> str: ...

    @property
    def pipeline(self) -> str:
        """`_class_name` in model_index.json."""
        ...

    @property
    def components(self) -> Mapping[str, tuple[str, ...]]:
        """Component folder -> accepted classes: an allow-list, so that no code comes with a model."""
        ...

    @property
    def weighted(self) -> tuple[str, ...]:
        """Components that hold weights."""
        ...

    @property
    def denoiser(self) -> str:
        """Component folder of the denoiser."""
        ...

    def resolution(self, folder: Path) -> int:
        """The side in pixels that the model was made for."""
        ...

    def resolution_multiple(self, folder: Path) -> int:
        """Sides must be a multiple of this many pixels."""
        ...

    def load_denoiser(self, folder: Path, dtype: torch.dtype) -> nn.Module: ...

    def load_text(self, folder: Path, dtype: torch.dtype) -> TextStack: ...

    def load_vae(self, folder: Path, dtype: torch.dtype) -> nn.Module: ...

    def load_schedule(self, folder: Path) -> Mapping[str, Any]: ...

    def load_tokenizers(self, folder: Path) -> tuple[Any, ...]: ...

    def tokenize(self, tokenizers: Sequence[Any], prompts: Sequence[str]) -> torch.Tensor:
        """Prompts to token ids [prompts, encoders, tokens], padded and cut to the model's length."""
        ...

    def too_long(self, tokenizers: Sequence[Any], prompt: str) -> int | None:
        """The number of tokens of a prompt that does not fit, or None."""
        ...

    def empty_prompt_is_zero(self, folder: Path) -> bool:
        """Whether this model was made to take zeros, and not the encoded text "", where there is no prompt."""
        ...

    def denoise(
        self, unet: nn.Module, noisy: torch.Tensor, timesteps: torch.Tensor, conditioning: Conditioning
    ) -> torch.Tensor:
        """The prediction (epsilon or v) for noisy latents [batch, c, h, w] at timesteps [batch]."""
        ...


def load_parts(family: Family, folder: Path, dtype: torch.dtype) -> Parts:
    """Every part of a model, on the CPU, in `dtype` and frozen."""
    parts = Parts(
        unet=family.load_denoiser(folder, dtype),
        text=family.load_text(folder, dtype),
        vae=family.load_vae(folder, dtype),
        schedule=family.load_schedule(folder),
    )
    for module in (parts.unet, parts.text, parts.vae):
        module.requires_grad_(False).eval()
    return parts
