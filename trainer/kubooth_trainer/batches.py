"""What a training learns from, as micro-batches: cached latents, indexed draws, prompts. Used by the loop."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from kubooth_trainer.config import TrainConfig
from kubooth_trainer.distributed import World
from kubooth_trainer.draws import HalfBatch, draw_half
from kubooth_trainer.families import Conditioning, Family
from kubooth_trainer.latents import Latents
from kubooth_trainer.loss import NoiseSchedule, add_noise, min_snr_weights
from kubooth_trainer.plan import Plan


@dataclass(frozen=True, kw_only=True)
class TrainInputs:
    """What the stages before training have prepared.

    `token_ids` [prompts, encoders, tokens] of the distinct prompts; `instance_prompts` says which one each photo has,
    `class_prompt` which one the class images have. `class_latents` is None without prior preservation.
    """

    family: Family
    model_folder: Path
    instance_latents: Latents
    class_latents: Latents | None
    token_ids: torch.Tensor
    instance_prompts: list[int]
    class_prompt: int


@dataclass(frozen=True)
class Batch:
    """One micro-batch on the device: instance samples first, then class samples."""

    noisy: torch.Tensor
    timesteps: torch.Tensor
    target: torch.Tensor
    weights: torch.Tensor
    prompts: list[int]


class Batches:
    """Makes this rank's micro-batches from the latent cache and the indexed draws."""

    def __init__(self, config: TrainConfig, plan: Plan, inputs: TrainInputs, world: World) -> None:
        self._training = config.training
        self._plan = plan
        self._inputs = inputs
        self._world = world
        schedule = NoiseSchedule.from_config(
            inputs.family.load_schedule(inputs.model_folder), zero_terminal_snr=config.training.zero_terminal_snr
        )
        self._schedule = NoiseSchedule(schedule.alpha_bar.to(world.device), schedule.prediction)
        self._instance = inputs.instance_latents.to(world.device)
        self._class = inputs.class_latents.to(world.device) if inputs.class_latents else None

    def make(self, step: int, micro: int) -> Batch:
        """The samples of the global batch that belong to this rank in this micro-step."""
        start = (micro * self._world.size + self._world.rank) * self._plan.micro_batch
        samples = range(start, start + self._plan.micro_batch)
        instance = self._half("instance", self._instance, step, samples)
        halves = [(self._instance, instance)]
        prompts = [self._inputs.instance_prompts[item] for item in instance.items]
        if self._class is not None:
            drawn = self._half("class", self._class, step, samples)
            halves.append((self._class, drawn))
            prompts += [self._inputs.class_prompt] * len(drawn.items)
        clean = torch.cat([self._clean(latents, half) for latents, half in halves])
        noise = self._send(torch.cat([half.noise for _, half in halves]))
        timesteps = self._send(torch.cat([half.timesteps for _, half in halves]))
        noisy, target = add_noise(self._schedule, clean, noise, timesteps)
        weights = min_snr_weights(self._schedule, timesteps, gamma=self._training.snr_gamma)
        return Batch(noisy.to(self._plan.dtype), timesteps, target, weights, prompts)

    def select(
        self, prompts: torch.Tensor | Conditioning, wanted: list[int]
    ) -> tuple[torch.Tensor | Conditioning, torch.Tensor]:
        """The distinct prompts among the wanted ones, and which of them each sample has: each is encoded once."""
        distinct = sorted(set(wanted))
        index = self._send(torch.tensor([distinct.index(prompt) for prompt in wanted]))
        chosen = self._send(torch.tensor(distinct))
        if isinstance(prompts, torch.Tensor):
            return prompts[chosen], index
        return {key: value[chosen] for key, value in prompts.items()}, index

    def _clean(self, latents: Latents, half: HalfBatch) -> torch.Tensor:
        items, views = self._send(torch.tensor(half.items)), self._send(torch.tensor(half.views))
        return latents.sample(items, views, self._send(half.latent_noise))

    def _send(self, drawn: torch.Tensor) -> torch.Tensor:
        """On the device, without waiting for it: from other than pinned memory, a copy waits for all before it."""
        if self._world.device.type == "cpu":
            return drawn
        return drawn.pin_memory().to(self._world.device, non_blocking=True)

    def _half(self, half: Any, latents: Latents, step: int, samples: range) -> HalfBatch:
        return draw_half(
            half,
            seed=self._training.seed,
            step=step,
            samples=samples,
            batch_size=self._training.batch_size,
            items=latents.items,
            views=latents.views,
            shape=latents.shape,
            train_timesteps=self._schedule.alpha_bar.numel(),
            offset_noise=self._training.offset_noise,
        )
