"""A device without the memory for a batch: the work goes on in halves, and gives the same figures."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from bed.tiny_encoders import Noise
from PIL import Image

from kubooth_trainer import latents
from kubooth_trainer.config import SamplerConfig
from kubooth_trainer.distributed import World
from kubooth_trainer.encoders import load_encoders
from kubooth_trainer.families import FAMILIES, load_parts
from kubooth_trainer.outcome import failure_of
from kubooth_trainer.portions import Portions
from kubooth_trainer.sampling import Picture, Sampler, make_pictures

ALONE = World(rank=0, size=1, local_rank=0, local_size=1, device=torch.device("cpu"))


def short_of_memory(
    work: Callable[[Sequence[Any]], torch.Tensor], most: int
) -> Callable[[Sequence[Any]], torch.Tensor]:
    """`work` on a device that holds `most` items."""

    def limited(items: Sequence[Any]) -> torch.Tensor:
        if len(items) > most:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return work(items)

    return limited


HALVES = [(16, 16, None), (16, 15, 8), (16, 3, 2), (7, 1, 1), (1, 1, None)]


@pytest.mark.parametrize(("count", "most", "portion"), HALVES)
def test_rows_come_in_order_at_any_size(count: int, most: int, portion: int | None) -> None:
    portions = Portions()
    items = list(range(count))
    made = portions.run(short_of_memory(lambda part: torch.tensor([[item] for item in part]), most), items)
    assert made.flatten().tolist() == items
    assert portions.size == portion


def test_where_not_even_one_fits_it_is_an_error() -> None:
    with pytest.raises(torch.OutOfMemoryError):
        Portions().run(short_of_memory(torch.tensor, 0), [1, 2, 3])


@pytest.mark.parametrize("role", ["dino", "clip"])
def test_embeddings_are_the_same_in_portions(
    encoder_folders: dict[str, Path], noise: Noise, monkeypatch: pytest.MonkeyPatch, role: str
) -> None:
    encoder: Any = getattr(load_encoders(encoder_folders, dict.fromkeys(encoder_folders, "x"), ALONE.device), role)  # type: ignore[arg-type]
    images = [noise(seed) for seed in range(7)]
    whole = encoder.embed(images)
    monkeypatch.setattr(encoder, "_embed", short_of_memory(encoder._embed, 2))
    assert torch.allclose(encoder.embed(images), whole, atol=1e-6)
    assert encoder.portions.size == 1


@pytest.mark.parametrize(("most", "portion"), [(7, None), (6, 3), (3, 3), (2, 3)])
def test_distances_are_the_same_in_portions(
    encoder_folders: dict[str, Path], noise: Noise, monkeypatch: pytest.MonkeyPatch, most: int, portion: int | None
) -> None:
    lpips = load_encoders(encoder_folders, dict.fromkeys(encoder_folders, "x"), ALONE.device).lpips  # type: ignore[arg-type]
    assert lpips is not None
    images = [noise(seed) for seed in range(7)]
    whole = lpips.distances(images)
    monkeypatch.setattr(lpips, "_distances", short_of_memory(lpips._distances, most))
    assert torch.allclose(lpips.distances(images), whole, atol=1e-6)
    assert lpips.portions.size == portion


def test_a_pair_that_does_not_fit_is_an_error(
    encoder_folders: dict[str, Path], noise: Noise, monkeypatch: pytest.MonkeyPatch
) -> None:
    lpips = load_encoders(encoder_folders, dict.fromkeys(encoder_folders, "x"), ALONE.device).lpips  # type: ignore[arg-type]
    assert lpips is not None
    monkeypatch.setattr(lpips, "_distances", short_of_memory(lpips._distances, 1))
    with pytest.raises(torch.OutOfMemoryError):
        lpips.distances([noise(seed) for seed in range(5)])


def test_pictures_are_the_same_in_portions(tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    family = FAMILIES[0]
    parts = load_parts(family, tiny_model, torch.float32)
    config = SamplerConfig(name="DDIM", steps=2, guidance_scale=3.0)
    sampler = Sampler(family, tiny_model, parts, config, resolution=family.resolution(tiny_model), negative_prompt="")

    def made(folder: Path) -> tuple[list[Any], int | None]:
        pictures = [Picture(path=folder / f"{i}.png", prompt="a dog", seed=(0, i)) for i in range(6)]
        portion = make_pictures(sampler, pictures, batch=4, world=ALONE, on_progress=lambda _: None)
        return [np.asarray(Image.open(each.path), dtype=int) for each in pictures], portion

    whole, none = made(tmp_path / "whole")
    sample = sampler.sample

    def limited(prompts: Sequence[str], seeds: Sequence[tuple[int | str, ...]]) -> torch.Tensor:
        return short_of_memory(lambda part: sample([p for p, _ in part], [s for _, s in part]), 2)(
            list(zip(prompts, seeds, strict=True))
        )

    monkeypatch.setattr(sampler, "sample", limited)
    halved, two = made(tmp_path / "halved")
    assert (none, two) == (None, 2)
    assert all(np.abs(a - b).max() <= 1 for a, b in zip(whole, halved, strict=True))


@pytest.mark.parametrize(("most", "portion"), [(8, None), (7, 4), (1, 1)])
def test_the_vae_takes_smaller_portions_and_gives_the_same(
    tiny_model: Path, noise: Noise, monkeypatch: pytest.MonkeyPatch, most: int, portion: int | None
) -> None:
    """Ten images, in batches of eight; what is sampled is one whole batch all the same."""
    family = FAMILIES[0]
    parts = load_parts(family, tiny_model, torch.float32)
    vae: Any = parts.vae
    side = family.resolution(tiny_model)
    config = SamplerConfig(name="DDIM", steps=2, guidance_scale=3.0)
    sampler = Sampler(family, tiny_model, parts, config, resolution=side, negative_prompt="")
    sampled = sampler.sample_latents(["a dog"] * 8, [(0, i) for i in range(8)])
    images = [noise(seed).convert("RGB").resize((side, side)) for seed in range(10)]

    def made() -> tuple[torch.Tensor, latents.Latents, list[int]]:
        done: list[int] = []
        encoded = latents.encode(vae, images, views=1, on_progress=done.append)
        return sampler.decode(sampled), encoded, done

    pixels, encoded, done = made()
    sizes: list[int] = []
    for name in ("encode", "decode"):
        work = getattr(vae, name)

        def limited(batch: torch.Tensor, work: Any = work, **options: Any) -> Any:
            if len(batch) > most:
                raise torch.OutOfMemoryError("CUDA out of memory.")
            sizes.append(len(batch))
            return work(batch, **options)

        monkeypatch.setattr(vae, name, limited)
    halved, again, progress = made()
    assert max(sizes) == (portion or 8)
    assert progress == done == [8, 10]
    assert (halved.int() - pixels.int()).abs().max() <= 1
    assert torch.allclose(again.mean, encoded.mean, atol=1e-5) and torch.allclose(again.std, encoded.std, atol=1e-5)
    assert portion is not None or (halved.equal(pixels) and again.mean.equal(encoded.mean))


def test_one_image_that_the_vae_cannot_hold_is_told_of_by_its_resolution(
    tiny_model: Path, noise: Noise, monkeypatch: pytest.MonkeyPatch
) -> None:
    vae: Any = FAMILIES[0].load_vae(tiny_model, torch.float32)
    monkeypatch.setattr(vae, "encode", short_of_memory(vae.encode, 0))
    with pytest.raises(torch.OutOfMemoryError) as failure:
        latents.encode(vae, [noise(0).convert("RGB")] * 3, views=1, on_progress=lambda _: None)
    _, reason, message = failure_of(failure.value)
    assert reason == "DeviceOutOfMemory"
    assert message.startswith("training.resolution: the device's memory did not suffice")
