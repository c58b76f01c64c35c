"""Images from a model: used for class images (prior) and for the pictures before and after (evaluation).

Each image has its own generator, and work is handed out as whole batches of fixed composition: the same images come
out at any number of ranks.
"""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from kubooth_trainer.config import SamplerConfig
from kubooth_trainer.distributed import World
from kubooth_trainer.draws import generator_for
from kubooth_trainer.families import Conditioning, Family, Parts
from kubooth_trainer.portions import Portions

SCHEDULERS = {
    "EulerAncestral": "EulerAncestralDiscreteScheduler",
    "Euler": "EulerDiscreteScheduler",
    "DDIM": "DDIMScheduler",
    "DDPM": "DDPMScheduler",
    "DPMSolverMultistep": "DPMSolverMultistepScheduler",
}


@dataclass(frozen=True)
class Picture:
    """One image to make: where it goes and which randomness it has (`seed` is a path for `draws.seed_for`)."""

    path: Path
    prompt: str
    seed: tuple[int | str, ...]


class Sampler:
    """Samples with classifier-free guidance from loaded parts on one device."""

    def __init__(
        self,
        family: Family,
        folder: Path,
        parts: Parts,
        config: SamplerConfig,
        *,
        resolution: int,
        negative_prompt: str,
    ) -> None:
        self._family = family
        self._parts = parts
        self._config = config
        self.resolution = resolution
        self._tokenizers = family.load_tokenizers(folder)
        self._negative_prompt = negative_prompt
        self._empty_is_zero = family.empty_prompt_is_zero(folder)
        self._encoded: dict[str, Conditioning] = {}
        self._device = next(parts.unet.parameters()).device
        self._dtype = next(parts.unet.parameters()).dtype
        self._decoding = Portions()
        if self._device.type == "cuda":  # the layout that its convolutions want; on CPUs it gains nothing
            modules: tuple[Any, ...] = (parts.unet, parts.vae)
            for module in modules:
                module.to(memory_format=torch.channels_last)

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """[c, h, w] of one latent."""
        unet: Any = self._parts.unet
        vae: Any = self._parts.vae
        side = self.resolution // 2 ** (len(vae.config.block_out_channels) - 1)
        return int(unet.config.in_channels), side, side

    def sample(self, prompts: Sequence[str], seeds: Sequence[tuple[int | str, ...]]) -> torch.Tensor:
        """uint8 images [n, height, width, 3] on the CPU, one per prompt and seed."""
        return self.decode(self.sample_latents(prompts, seeds))

    @torch.inference_mode()
    def sample_latents(self, prompts: Sequence[str], seeds: Sequence[tuple[int | str, ...]]) -> torch.Tensor:
        """fp32 latents [n, c, h, w] on the device, one per prompt and seed, in the scale the UNet sees."""
        import diffusers

        scheduler = getattr(diffusers, SCHEDULERS[self._config.name]).from_config(_inference(self._parts.schedule))
        scheduler.set_timesteps(self._config.steps, device=self._device)
        generators = [generator_for(*seed) for seed in seeds]
        latents: torch.Tensor = torch.stack([torch.randn(self.latent_shape, generator=each) for each in generators])
        latents = latents.to(self._device) * scheduler.init_noise_sigma
        guided = self._config.guidance_scale != 1.0
        conditioning = self._conditioning(prompts, guided=guided)
        accepts = scheduler.step.__code__.co_varnames
        extra = {"generator": generators} if "generator" in accepts else {}
        for timestep in scheduler.timesteps:
            doubled = torch.cat([latents, latents]) if guided else latents
            scaled = scheduler.scale_model_input(doubled, timestep).to(self._dtype)
            output = self._family.denoise(
                self._parts.unet, scaled, timestep.expand(scaled.shape[0]), conditioning
            ).float()
            if guided:
                empty, prompted = output.chunk(2)
                output = empty + self._config.guidance_scale * (prompted - empty)
            latents = scheduler.step(output, timestep, latents, return_dict=False, **extra)[0]
        return latents

    @torch.inference_mode()
    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        """uint8 images [n, height, width, 3] on the CPU of `sample_latents`.

        In portions where the device has not the memory for all: a VAE may take more for eight images than training.
        """
        whole: Any = latents
        return self._decoding.run(self._decode, whole)

    def _decode(self, latents: Any) -> torch.Tensor:
        vae: Any = self._parts.vae
        shift = getattr(vae.config, "shift_factor", None) or 0.0
        decoded = vae.decode((latents / vae.config.scaling_factor + shift).to(self._dtype), return_dict=False)[0]
        pixels: torch.Tensor = ((decoded.float() / 2 + 0.5).clamp(0, 1) * 255).round().to(torch.uint8)
        return pixels.permute(0, 2, 3, 1).cpu()

    def _conditioning(self, prompts: Sequence[str], *, guided: bool) -> Conditioning:
        rows = [self._encode(prompt) for prompt in prompts]
        if guided:
            empty = self._encode(self._negative_prompt)
            if not self._negative_prompt and self._empty_is_zero:
                empty = {key: torch.zeros_like(value) for key, value in empty.items()}
            rows = [empty] * len(prompts) + rows
        return {key: torch.cat([row[key] for row in rows]) for key in rows[0]}

    def _encode(self, prompt: str) -> Conditioning:
        if prompt not in self._encoded:
            ids = self._family.tokenize(self._tokenizers, [prompt]).to(self._device)
            self._encoded[prompt] = self._parts.text(ids)
        return self._encoded[prompt]


def make_pictures(
    sampler: Sampler, pictures: Sequence[Picture], *, batch: int, world: World, on_progress: Callable[[int], None]
) -> int | None:
    """Makes what is missing of the pictures, spread over all ranks, as PNG files on every node. Collective.

    Batches are cut from the whole list, so that their composition never depends on what is missing or on the ranks.
    A rank whose device has not the memory for one goes on in portions of it. `on_progress` gets the number of pictures
    that stand. Returns the smallest portion on any rank; None: whole batches.
    """
    portions = Portions()
    batches = [pictures[start : start + batch] for start in range(0, len(pictures), batch)]
    whole = world.all_true([all(picture.path.exists() for picture in group) for group in batches])
    todo = [group for group, is_whole in zip(batches, whole, strict=True) if not is_whole]
    done = len(pictures) - sum(len(group) for group in todo)
    on_progress(done)
    for start in range(0, len(todo), world.size):
        turn = todo[start : start + world.size]
        mine = turn[world.rank] if world.rank < len(turn) else []
        images = portions.run(_sample_with(sampler), mine) if mine else None
        side = sampler.resolution
        padded = torch.zeros((batch, side, side, 3), dtype=torch.uint8)
        if images is not None:
            padded[: len(mine)] = images
        for group, made in zip(turn, world.gather(padded)[: len(turn)], strict=True):
            if world.leads_node:
                for picture, image in zip(group, made, strict=False):
                    write_png(picture.path, image)
            done += len(group)
        on_progress(done)
    world.barrier()
    return smallest_portion([portions], world)


def smallest_portion(portions: Sequence[Portions], world: World) -> int | None:
    """The smallest on any rank; None where none was halved. Collective."""
    mine = [each.size for each in portions if each.size is not None]
    sizes = [int(size) for size in world.gather(torch.tensor(min(mine, default=0)))]
    return min((size for size in sizes if size), default=None)


def _sample_with(sampler: Sampler) -> Callable[[Sequence[Picture]], torch.Tensor]:
    return lambda group: sampler.sample([each.prompt for each in group], [each.seed for each in group])


def write_png(path: Path, image: torch.Tensor) -> None:
    """Writes a uint8 image [height, width, 3], whole or not at all."""
    write_whole(path, png_bytes(image))


def png_bytes(image: torch.Tensor) -> bytes:
    """A uint8 image [height, width, 3] as a PNG file."""
    buffer = io.BytesIO()
    Image.fromarray(image.numpy()).save(buffer, format="PNG")
    return buffer.getvalue()


def write_whole(path: Path, data: bytes) -> None:
    """Writes a file, whole or not at all, also where the machine goes down: a restart takes it for whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    with partial.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)


def _inference(schedule: Mapping[str, Any]) -> dict[str, Any]:
    """The part of a scheduler's config that describes the model, not one solver's options."""
    keys = (
        "num_train_timesteps", "beta_start", "beta_end", "beta_schedule", "trained_betas", "prediction_type",
        "rescale_betas_zero_snr", "timestep_spacing", "steps_offset", "set_alpha_to_one",
    )  # fmt: skip
    kept = {key: schedule[key] for key in keys if key in schedule}
    return {**kept, "clip_sample": False}
