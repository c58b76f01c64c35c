"""The objective: DreamBooth's loss with prior preservation, pure functions of tensors.

Source: arXiv 2208.12242, equation 2; min-SNR weighting: arXiv 2303.09556; zero-terminal SNR: arXiv 2305.08891.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch

Prediction = Literal["epsilon", "v_prediction"]


@dataclass(frozen=True)
class NoiseSchedule:
    """alpha_bar [train_timesteps] (fp32) and what the denoiser predicts."""

    alpha_bar: torch.Tensor
    prediction: Prediction

    @staticmethod
    def from_config(config: Mapping[str, Any], *, zero_terminal_snr: bool) -> NoiseSchedule:
        """From a diffusers scheduler config. `zero_terminal_snr` rescales the betas so that alpha_bar ends at 0."""
        steps = int(config.get("num_train_timesteps", 1000))
        start, end = float(config.get("beta_start", 0.0001)), float(config.get("beta_end", 0.02))
        kind, trained = config.get("beta_schedule", "linear"), config.get("trained_betas")
        if trained is not None:  # as every solver of diffusers: then the other three say nothing
            betas = torch.tensor(trained, dtype=torch.float32)
            if betas.shape != (steps,):
                raise ValueError(
                    f"scheduler/scheduler_config.json: trained_betas has {betas.numel()} values,"
                    f" num_train_timesteps says {steps}"
                )
        elif kind == "scaled_linear":
            betas = torch.linspace(start**0.5, end**0.5, steps, dtype=torch.float32) ** 2
        elif kind == "linear":
            betas = torch.linspace(start, end, steps, dtype=torch.float32)
        else:
            raise ValueError(f"scheduler/scheduler_config.json: beta_schedule {kind!r} is not supported")
        alpha_bar = torch.cumprod(1.0 - betas, dim=0)
        if zero_terminal_snr or config.get("rescale_betas_zero_snr"):
            root = alpha_bar.sqrt()
            root = (root - root[-1]) * root[0] / (root[0] - root[-1])
            alpha_bar = root**2
        prediction = config.get("prediction_type", "epsilon")
        if prediction not in ("epsilon", "v_prediction"):
            raise ValueError(f"scheduler/scheduler_config.json: prediction_type {prediction!r} is not supported")
        return NoiseSchedule(alpha_bar=alpha_bar, prediction=prediction)

    def snr(self, timesteps: torch.Tensor) -> torch.Tensor:
        """Signal-to-noise ratio alpha_bar / (1 - alpha_bar) at timesteps [n]."""
        alpha_bar = self.alpha_bar[timesteps]
        return alpha_bar / (1.0 - alpha_bar)


def add_noise(
    schedule: NoiseSchedule, clean: torch.Tensor, noise: torch.Tensor, timesteps: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """(noisy, target) in fp32 for clean latents and noise [n, c, h, w] at timesteps [n].

    The target is the noise (epsilon) or alpha * noise - sigma * clean (v).
    """
    alpha_bar = schedule.alpha_bar[timesteps].view(-1, 1, 1, 1)
    alpha, sigma = alpha_bar.sqrt(), (1.0 - alpha_bar).sqrt()
    noisy = alpha * clean + sigma * noise
    target = noise if schedule.prediction == "epsilon" else alpha * noise - sigma * clean
    return noisy, target


def min_snr_weights(schedule: NoiseSchedule, timesteps: torch.Tensor, *, gamma: float | None) -> torch.Tensor:
    """Loss weights [n]: min(snr, gamma) / snr for epsilon, / (snr + 1) for v; ones where gamma is None.

    Where the SNR is 0 (zero-terminal schedules) that is 1 for epsilon, as wherever the SNR is at most gamma, 0 for v.
    """
    if gamma is None:
        return torch.ones(timesteps.shape, dtype=torch.float32, device=timesteps.device)
    snr = schedule.snr(timesteps)
    if schedule.prediction == "epsilon":
        return torch.full_like(snr, gamma) / snr.clamp(min=gamma)
    return snr.clamp(max=gamma) / (snr + 1.0)


@dataclass(frozen=True)
class LossTerms:
    """Scalars: `total` = instance + prior_weight * prior. `prior` is 0 without class images."""

    total: torch.Tensor
    instance: torch.Tensor
    prior: torch.Tensor


def dreambooth_loss(
    prediction: torch.Tensor, target: torch.Tensor, weights: torch.Tensor, *, instances: int, prior_weight: float
) -> LossTerms:
    """Mean squared errors of a batch whose first `instances` samples are the subject, the rest the class.

    prediction, target: [n, c, h, w]; weights: [n], applied to both halves.
    """
    errors = (prediction.float() - target.float()).square().mean(dim=(1, 2, 3)) * weights
    instance = errors[:instances].mean()
    if instances == errors.shape[0]:
        return LossTerms(total=instance, instance=instance, prior=torch.zeros_like(instance))
    prior = errors[instances:].mean()
    return LossTerms(total=instance + prior_weight * prior, instance=instance, prior=prior)
