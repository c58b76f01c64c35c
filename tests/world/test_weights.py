"""The bundled weights: they load in plain diffusers, sample, and are small; so is the test model."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline

import kubooth_world
from kubooth_world import evaluate, oracle, tiny_model, tokenizer
from kubooth_world.pixels import to_tensor

BUNDLED = kubooth_world.model_path("small-world")


def test_weights_are_safetensors_of_at_most_30_megabytes() -> None:
    files = [path for path in BUNDLED.parent.rglob("*") if path.is_file()]
    assert {path.suffix for path in files} <= {".safetensors", ".json", ".txt"}
    assert sum(path.stat().st_size for path in files) <= 30e6


def test_bundled_model_follows_a_prompt() -> None:
    """Eight pictures of one prompt: the oracle reads what was asked in most of them."""
    prompts = ["a photo of a red striped dog in the snow"] * 4 + ["a photo of a blue car on the beach"] * 4
    images = evaluate.sample(BUNDLED, prompts, steps=12)
    assert images.shape == (8, 64, 64, 3)
    with torch.no_grad():
        reading = oracle.load()(to_tensor(images))
    for attribute, words in {"kind": ("dog", "car"), "colour": ("red", "blue"), "context": ("snow", "beach")}.items():
        expected = [words[0]] * 4 + [words[1]] * 4
        right = sum(seen == asked for seen, asked in zip(reading.words(attribute), expected, strict=True))
        assert right >= 6, attribute
    striped = reading.words("pattern")[:4]
    assert sum(seen == "striped" for seen in striped) >= 3, striped


def test_bundled_layout() -> None:
    index = json.loads((BUNDLED / "model_index.json").read_text())
    assert index["_class_name"] == "StableDiffusionPipeline"
    assert index["safety_checker"] == [None, None]
    assert json.loads((BUNDLED / "scheduler/scheduler_config.json").read_text())["prediction_type"] == "v_prediction"
    vocabulary, _ = tokenizer.build()
    assert json.loads((BUNDLED / "tokenizer/vocab.json").read_text(encoding="utf-8")) == vocabulary


def test_oracle_reads_renders() -> None:
    asked = evaluate.held_out_prompts(80)
    shares = evaluate.agreement(oracle.load(), evaluate.renders_of(asked), asked)
    assert min(shares.values()) > 0.9, shares


def test_oracle_tells_instances_apart() -> None:
    """Two views of one dog are nearer to each other than views of two dogs are, nearly always."""
    from kubooth_world import dataset
    from kubooth_world.scene import sample_instance, sample_scene

    rng = np.random.default_rng(4)
    dogs = [sample_instance(rng, kind="dog") for _ in range(16)]
    scenes = [sample_scene(rng, dog) for _ in range(2) for dog in dogs]
    with torch.no_grad():
        first, second = oracle.load()(to_tensor(dataset.describe(scenes, rng).images)).embedding.chunk(2)
    likeness = first @ second.T
    own = likeness.diagonal()[:, None]
    other = likeness[~torch.eye(len(dogs), dtype=torch.bool)].reshape(len(dogs), -1)
    assert float((own > other).float().mean()) > 0.95


@pytest.mark.parametrize("prediction_type", ["v_prediction", "epsilon"])
def test_tiny_model_is_reproducible_and_samples(tmp_path: Path, prediction_type: str) -> None:
    before = torch.random.get_rng_state()
    for name in ("one", "two"):
        tiny_model.write(tmp_path / name, seed=3, prediction_type=prediction_type)
    assert torch.equal(before, torch.random.get_rng_state())
    for part in ("unet", "vae"):
        weights = [
            (tmp_path / name / part / "diffusion_pytorch_model.safetensors").read_bytes() for name in ("one", "two")
        ]
        assert weights[0] == weights[1]
    pipeline = StableDiffusionPipeline.from_pretrained(tmp_path / "one")
    pipeline.set_progress_bar_config(disable=True)
    assert pipeline.scheduler.config.prediction_type == prediction_type
    image = pipeline("a sks dog", num_inference_steps=2, output_type="np").images
    assert image.shape == (1, 32, 32, 3) and np.isfinite(image).all()
    parameters = sum(
        p.numel() for part in (pipeline.unet, pipeline.vae, pipeline.text_encoder) for p in part.parameters()
    )
    assert parameters < 1_000_000
