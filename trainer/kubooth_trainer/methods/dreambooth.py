"""DreamBooth: fine-tune every layer of the denoiser and, by choice, of the text encoder (arXiv 2208.12242)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

from kubooth_trainer.config import TrainingConfig
from kubooth_trainer.families import Conditioning, Family, TextStack


class Trainee(nn.Module):
    """Denoiser and text encoder(s) in one module, so that one DeepSpeed engine holds both.

    Children are named as component folders: parameters are `unet.…` and `text.text_encoder.…`.
    With a frozen text encoder, `text` is absent and prompts come as precomputed conditioning.
    """

    def __init__(self, family: Family, unet: nn.Module, text: TextStack | None) -> None:
        super().__init__()
        self._family = family
        self.unet = unet
        if text is not None:
            self.text = text

    def encoders(self) -> list[Any]:
        """The text encoders that are trained."""
        return list(self.text.children()) if hasattr(self, "text") else []

    def forward(
        self,
        noisy: torch.Tensor,
        timesteps: torch.Tensor,
        prompts: torch.Tensor | Conditioning,
        prompt_index: torch.Tensor,
    ) -> torch.Tensor:
        """The prediction for noisy latents [n, c, h, w].

        `prompts` are token ids [p, encoders, tokens] of the distinct prompts (each encoded once), or their frozen
        conditioning; `prompt_index` [n] says which prompt each sample has.
        """
        conditioning = self.text(prompts) if isinstance(prompts, torch.Tensor) else prompts
        chosen = {key: value[prompt_index] for key, value in conditioning.items()}
        return self._family.denoise(self.unet, noisy, timesteps, chosen)


def parameter_groups(trainee: Trainee, training: TrainingConfig) -> list[dict[str, Any]]:
    """AdamW groups: the denoiser and, where it is trained, the text encoder with its own learning rate.

    `initial_lr` is a group's peak learning rate, which stays with it where an optimizer cuts it.
    """
    trainee.requires_grad_(True)
    groups = [_group(list(trainee.unet.parameters()), training.learning_rate)]
    if training.train_text_encoder:
        for module in trainee.text.idle_modules():
            module.requires_grad_(False)
        trained = [parameter for parameter in trainee.text.parameters() if parameter.requires_grad]
        groups.append(_group(trained, training.text_encoder_learning_rate))
    return groups


def _group(parameters: list[nn.Parameter], rate: float) -> dict[str, Any]:
    return {"params": parameters, "lr": rate, "initial_lr": rate}


def component_of(name: str) -> tuple[str, str]:
    """('unet', 'conv_in.weight') for a parameter name of the trainee: its component folder and its name there."""
    if name.startswith("text."):
        name = name.removeprefix("text.")
    component, _, rest = name.partition(".")
    return component, rest


def export_weights(
    family: Family, base: Path, weights: dict[str, torch.Tensor], dtype: torch.dtype
) -> dict[str, nn.Module]:
    """The trained components, loaded from the base model and filled with the trained weights, in `dtype`.

    Returns component folder -> module. Raises KeyError where a weight has no place, which would be a bug.
    """
    unet = family.load_denoiser(base, dtype)
    text = family.load_text(base, dtype)
    modules: dict[str, nn.Module] = {family.denoiser: unet, **dict(text.named_children())}
    by_component: dict[str, dict[str, torch.Tensor]] = {}
    for name, value in weights.items():
        component, rest = component_of(name)
        by_component.setdefault(family.denoiser if component == "unet" else component, {})[rest] = value.to(dtype)
    for component, state in by_component.items():
        result = modules[component].load_state_dict(state, strict=False)
        if result.unexpected_keys:
            raise KeyError(f"{component}: no place for {result.unexpected_keys[0]}")
    return {component: modules[component] for component in by_component}
