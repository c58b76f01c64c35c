"""A second shape of model through the same code: Stable Diffusion XL, against diffusers' own pipeline."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import EulerDiscreteScheduler, StableDiffusionXLPipeline
from safetensors.torch import load_file
from trainer import tiny_xl
from trainer.test_matrix import Matrix
from trainer.tiny_job import Launch, MakeConfig

from kubooth_trainer.config import SamplerConfig
from kubooth_trainer.draws import generator_for
from kubooth_trainer.families import FAMILIES, check_model, load_parts, wanted_files
from kubooth_trainer.sampling import Sampler

pytestmark = pytest.mark.filterwarnings("ignore:__array__:DeprecationWarning")  # of diffusers' Euler scheduler
PROMPTS = ["a red dog in the snow", "a cat"]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_xl.write(tmp_path_factory.mktemp("xl") / "model", tmp_path_factory.mktemp("tokenizer"))


WANTED = [
    "model_index.json", "scheduler/scheduler_config.json", "text_encoder/config.json", "text_encoder/model.safetensors",
    "text_encoder_2/config.json", "text_encoder_2/model-00001-of-00002.safetensors",
    "text_encoder_2/model-00002-of-00002.safetensors", "text_encoder_2/model.safetensors.index.json",
    "tokenizer/merges.txt", "tokenizer/special_tokens_map.json", "tokenizer/tokenizer_config.json",
    "tokenizer/vocab.json", "tokenizer_2/spiece.model", "tokenizer_2/tokenizer.json", "unet/LICENSE", "unet/README.md",
    "unet/config.json", "unet/diffusion_pytorch_model.safetensors", "vae/config.json",
    "vae/diffusion_pytorch_model.fp16.safetensors",
]  # fmt: skip
LEFT = [
    "sd_xl_base_1.0.safetensors", "text_encoder/flax_model.msgpack", "text_encoder/model.fp16.safetensors",
    "text_encoder/model.onnx", "text_encoder/openvino_model.bin", "text_encoder/openvino_model.xml",
    "text_encoder_2/model.onnx_data", "unet/diffusion_pytorch_model.non_ema.safetensors", "unet/model.onnx",
    "unet/model.onnx_data", "unet/openvino_model.xml", "unet/pipeline.py", "vae/tf_model.h5", "vae_decoder/config.json",
    "vae_decoder/model.onnx",
]  # fmt: skip


def test_of_a_public_repository_only_what_is_loaded_is_fetched() -> None:
    """In vae/ there is one variant only, which is taken then."""
    family = next(each for each in FAMILIES if each.pipeline == "StableDiffusionXLPipeline")
    assert wanted_files([*LEFT, *WANTED], family) == WANTED


def test_conditioning_and_prediction_are_those_of_the_pipeline(model: Path) -> None:
    pipeline = StableDiffusionXLPipeline.from_pretrained(model, local_files_only=True)
    names = [path.relative_to(model).as_posix() for path in model.rglob("*") if path.is_file()]
    family = check_model(str(model), names, (model / "model_index.json").read_bytes())
    parts = load_parts(family, model, torch.float32)
    with torch.no_grad():
        ours = parts.text(family.tokenize(family.load_tokenizers(model), PROMPTS))
        hidden, _, pooled, _ = pipeline.encode_prompt(PROMPTS, device="cpu", do_classifier_free_guidance=False)
        torch.testing.assert_close(ours["hidden_states"], hidden)
        torch.testing.assert_close(ours["text_embeds"], pooled)
        noisy, timesteps = torch.randn(2, 4, 8, 8), torch.tensor([10, 900])
        sizes = torch.tensor([[tiny_xl.SIDE, tiny_xl.SIDE, 0, 0, tiny_xl.SIDE, tiny_xl.SIDE]] * 2)
        told = {"text_embeds": pooled, "time_ids": sizes}
        theirs = pipeline.unet(noisy, timesteps, hidden, added_cond_kwargs=told).sample
        torch.testing.assert_close(family.denoise(parts.unet, noisy, timesteps, ours), theirs)


def test_samples_are_those_of_the_pipeline(model: Path) -> None:
    """With guidance, and zeros where there is no negative prompt, as the model's index asks for."""
    pipeline = StableDiffusionXLPipeline.from_pretrained(model, local_files_only=True)
    pipeline.set_progress_bar_config(disable=True)
    names = [path.relative_to(model).as_posix() for path in model.rglob("*") if path.is_file()]
    family = check_model(str(model), names, (model / "model_index.json").read_bytes())
    config = SamplerConfig(name="Euler", steps=4, guidance_scale=5.0)
    sampler = Sampler(
        family, model, load_parts(family, model, torch.float32), config, resolution=tiny_xl.SIDE, negative_prompt=""
    )
    ours = sampler.sample(PROMPTS[:1], [("test", 0)]).numpy()
    pipeline.scheduler = EulerDiscreteScheduler.from_config(pipeline.scheduler.config)
    noise = torch.randn((1, 4, 8, 8), generator=generator_for("test", 0))
    theirs = pipeline(
        PROMPTS[0],
        height=tiny_xl.SIDE,
        width=tiny_xl.SIDE,
        num_inference_steps=4,
        guidance_scale=5.0,
        latents=noise,
        output_type="np",
    ).images
    assert np.abs(ours.astype(int) - np.round(theirs * 255).astype(int)).max() <= 1


@pytest.mark.soak
def test_gradient_checkpointing_changes_no_loss(model: Path, photos: Path, tmp_path: Path) -> None:
    """With both text encoders trained, and weights gathered anew for what is computed again."""
    matrix = Matrix(tmp_path, model, photos)
    again = {"training": {"steps": 3, "gradient_checkpointing": "Enabled"}}
    matrix.run(1, {"plain": 3, "again": 3}, training={"steps": 3}, changes={"again": again})
    assert matrix.losses("again") == pytest.approx(matrix.losses("plain"), abs=1e-5)
    assert len(set(matrix.losses("plain").values())) == 3


def test_from_photos_to_a_model_that_plain_diffusers_loads(
    launch: Launch, make_config: MakeConfig, model: Path
) -> None:
    config = make_config(model__uri=model.as_uri(), parallelism__devices_per_node=2, parallelism__zero_stage=2)
    run = launch(config).finish()
    assert run.result.model == config["output"]["uri"]
    output = Path(config["output"]["uri"].removeprefix("file://"))
    for component in ("unet", "text_encoder", "text_encoder_2"):
        (name,) = [path.name for path in (model / component).glob("*.safetensors")]
        before, after = load_file(model / component / name), load_file(output / component / name)
        changed = {key for key in before if not torch.equal(before[key], after[key])}
        idle = {key for key in before if component == "text_encoder" and (".layers.2." in key or "final_layer" in key)}
        assert changed and not changed & idle, component
    pipeline = StableDiffusionXLPipeline.from_pretrained(output, local_files_only=True)
    pipeline.set_progress_bar_config(disable=True)
    (image,) = pipeline("a dog", num_inference_steps=2).images
    assert image.size == (tiny_xl.SIDE, tiny_xl.SIDE)
