"""`output.format: SingleFile`: the original layout, read back by diffusers' own converters and by `kubooth sample`."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from diffusers import AutoencoderKL, StableDiffusionPipeline, UNet2DConditionModel
from diffusers.loaders import single_file_utils as original
from PIL import Image, ImageChops
from safetensors.torch import load_file, save_file
from trainer.tiny_job import Launch, MakeConfig
from transformers import CLIPTextConfig, CLIPTextModel

from kubooth_cli.models import find_model
from kubooth_cli.sample import sample_command
from kubooth_trainer.config import StorageConfig
from kubooth_trainer.errors import ConfigError
from kubooth_trainer.publish import verify
from kubooth_trainer.single_file import CONFIGS, SINGLE_FILE, check_single_file, single_file_weights, write_single_file
from kubooth_trainer.storage import Storage
from kubooth_world import architecture

COMPONENTS = ("unet", "vae", "text_encoder")


@dataclass(frozen=True, kw_only=True)
class Shape:
    """What differs between the models that these tests convert; the rest is as in Stable Diffusion, but narrow."""

    down: tuple[str, ...] = (*("CrossAttnDownBlock2D",) * 3, "DownBlock2D")
    up: tuple[str, ...] = ("UpBlock2D", *("CrossAttnUpBlock2D",) * 3)
    unet_channels: tuple[int, ...] = (8, 16, 24, 24)
    layers: int = 2
    linear: bool = False
    vae_channels: tuple[int, ...] = (8, 8, 16, 16)
    vae_layers: int = 2
    vae_attention: bool = True
    activation: str = "quick_gelu"
    text_layers: int = 2
    prediction: str = "epsilon"


SHAPES = {
    "SD 1.x": Shape(),
    "SD 2.x": Shape(linear=True, activation="gelu", prediction="v_prediction"),
    "other counts": Shape(
        down=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        unet_channels=(8, 16, 24),
        layers=3,
        vae_channels=(8, 16),
        vae_layers=1,
        vae_attention=False,
        text_layers=3,
    ),
}


def build(shape: Shape, folder: Path) -> Path:
    """A model folder of random weights; latents are 4 x 8 x 8."""
    tokenizer = architecture.load_tokenizer(folder / "words")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        unet = UNet2DConditionModel(
            sample_size=8,
            down_block_types=shape.down,
            up_block_types=shape.up,
            block_out_channels=shape.unet_channels,
            layers_per_block=shape.layers,
            attention_head_dim=4,
            cross_attention_dim=16,
            norm_num_groups=4,
            use_linear_projection=shape.linear,
        )
        vae = AutoencoderKL(
            down_block_types=("DownEncoderBlock2D",) * len(shape.vae_channels),
            up_block_types=("UpDecoderBlock2D",) * len(shape.vae_channels),
            block_out_channels=shape.vae_channels,
            layers_per_block=shape.vae_layers,
            latent_channels=4,
            norm_num_groups=4,
            sample_size=8 * 2 ** (len(shape.vae_channels) - 1),
            mid_block_add_attention=shape.vae_attention,
        )
        text = CLIPTextModel(
            CLIPTextConfig(
                vocab_size=len(tokenizer),
                hidden_size=16,
                intermediate_size=32,
                num_hidden_layers=shape.text_layers,
                num_attention_heads=2,
                max_position_embeddings=tokenizer.model_max_length,
                hidden_act=shape.activation,
                bos_token_id=len(tokenizer) - 2,
                eos_token_id=len(tokenizer) - 1,
            )
        )
        for module in (unet, vae, text):  # norms and biases begin as ones and zeros: a mix-up would not show
            for parameter in module.parameters():
                parameter.data += 0.02 * torch.randn_like(parameter)
    pipeline = architecture.assemble(
        vae=vae, text_encoder=text, unet=unet, clip_tokenizer=tokenizer, prediction_type=shape.prediction
    )
    architecture.save(pipeline, folder / "model", torch.float32)
    return folder / "model"


@pytest.fixture(scope="module", params=SHAPES)
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(SHAPES[request.param], tmp_path_factory.mktemp("shape"))


@pytest.fixture(scope="module")
def sd1(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(SHAPES["SD 1.x"], tmp_path_factory.mktemp("sd1"))


def weights_of(folder: Path) -> dict[str, dict[str, torch.Tensor]]:
    return {name: load_file(next((folder / name).glob("*.safetensors"))) for name in COMPONENTS}


def configs_of(folder: Path) -> dict[str, dict[str, Any]]:
    return {name: json.loads((folder / name / "config.json").read_text()) for name in COMPONENTS}


def read_back(single: dict[str, torch.Tensor], folder: Path) -> dict[str, dict[str, torch.Tensor]]:
    """What the converters of diffusers make of the original layout."""
    configs = configs_of(folder)
    if original.is_clip_model(single):
        text = original.convert_ldm_clip_checkpoint(single)
    else:
        assert original.is_open_clip_model(single)
        text = original.convert_open_clip_checkpoint(CLIPTextModel.from_pretrained(folder / "text_encoder"), single)
    return {
        "unet": original.convert_ldm_unet_checkpoint(single, configs["unet"]),
        "vae": original.convert_ldm_vae_checkpoint(single, configs["vae"]),
        "text_encoder": {name.removeprefix("text_model."): tensor for name, tensor in text.items()},
    }


def assert_equal(found: dict[str, dict[str, torch.Tensor]], expected: dict[str, dict[str, torch.Tensor]]) -> None:
    for component in COMPONENTS:
        assert found[component].keys() == expected[component].keys()
        for name, tensor in expected[component].items():
            assert torch.equal(found[component][name], tensor), f"{component}/{name}"


def test_diffusers_reads_back_every_weight(model: Path, tmp_path: Path) -> None:
    check_single_file(model)
    write_single_file(model, tmp_path / "single")
    assert_equal(read_back(load_file(tmp_path / "single" / SINGLE_FILE), model), weights_of(model))


def test_it_samples_offline_like_the_folder(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    write_single_file(model, tmp_path / "single")
    folder = StableDiffusionPipeline.from_pretrained(model, local_files_only=True)
    single = StableDiffusionPipeline.from_single_file(
        str(tmp_path / "single" / SINGLE_FILE), config=str(tmp_path / "single" / CONFIGS), local_files_only=True
    )
    assert type(single.scheduler) is type(folder.scheduler)
    assert single.scheduler.config["prediction_type"] == folder.scheduler.config["prediction_type"]
    side = folder.unet.config["sample_size"] * folder.vae_scale_factor
    pictures = [
        pipeline(
            "a photo of a dog",
            num_inference_steps=1,
            height=side,
            width=side,
            output_type="pt",
            generator=torch.Generator().manual_seed(0),
        ).images
        for pipeline in (folder, single)
    ]
    assert pictures[0].std() > 0
    # the weights are equal, but lie otherwise in memory, which the last bits of sums depend on
    torch.testing.assert_close(*pictures, rtol=0, atol=1e-5)


def test_tools_know_sd1_by_its_names(sd1: Path, tmp_path: Path) -> None:
    write_single_file(sd1, tmp_path / "single")
    single = load_file(tmp_path / "single" / SINGLE_FILE)
    assert original.infer_diffusers_model_type(single) == "v1"
    assert single["first_stage_model.encoder.mid.attn_1.q.weight"].shape == (16, 16, 1, 1)
    assert {
        "model.diffusion_model.input_blocks.3.0.op.weight",
        "model.diffusion_model.output_blocks.2.1.conv.weight",
        "model.diffusion_model.output_blocks.5.2.conv.weight",
        "model.diffusion_model.middle_block.1.transformer_blocks.0.attn2.to_k.weight",
        "first_stage_model.decoder.up.3.upsample.conv.weight",
        "cond_stage_model.transformer.text_model.final_layer_norm.weight",
    } <= single.keys()
    assert {key.split(".")[0] for key in single} == {"model", "first_stage_model", "cond_stage_model"}


def test_beside_it_stand_the_configs_and_no_weights(sd1: Path, tmp_path: Path) -> None:
    (tmp_path / "single").mkdir()
    (tmp_path / "single" / "left over").write_text("")
    write_single_file(sd1, tmp_path / "single")
    names = {path.relative_to(sd1).as_posix() for path in sd1.rglob("*") if path.is_file()}
    configs = {f"{CONFIGS}/{name}" for name in names if not name.endswith(".safetensors")}
    written = {path.relative_to(tmp_path / "single").as_posix() for path in (tmp_path / "single").rglob("*.*")}
    assert written == {SINGLE_FILE, *configs}
    assert {f"{CONFIGS}/{name}/config.json" for name in COMPONENTS} < configs


def drawn(model: Path, picture: Path) -> Image.Image:
    """One picture of `kubooth sample`."""
    done = CliRunner().invoke(
        sample_command, [str(model), "a photo of a dog", "-n", "1", "--steps", "1", "-o", str(picture)]
    )
    assert done.exit_code == 0, done.output
    return Image.open(picture).convert("RGB")


def test_kubooth_sample_draws_from_it(sd1: Path, tmp_path: Path) -> None:
    write_single_file(sd1, tmp_path / "single")
    assert find_model(str(tmp_path / "single"), {}).path == tmp_path / "single" / SINGLE_FILE
    folder, single = drawn(sd1, tmp_path / "folder.png"), drawn(tmp_path / "single", tmp_path / "single.png")
    assert max(ImageChops.difference(folder, single).tobytes()) <= 1


def test_folders_of_older_releases_read_the_same(sd1: Path) -> None:
    """Published SD 1.x: attention of the autoencoder under older names, a prefix and a buffer in the text encoder."""
    older = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    weights = weights_of(sd1)

    def aged(name: str) -> str:
        for new, old in older.items():
            name = name.replace(f".attentions.0.{new}.", f".attentions.0.{old}.")
        return name

    text = {f"text_model.{name}": tensor for name, tensor in weights["text_encoder"].items()}
    old_weights = {
        "unet": weights["unet"],
        "vae": {aged(name): tensor for name, tensor in weights["vae"].items()},
        "text_encoder": {**text, "text_model.embeddings.position_ids": torch.arange(32)},
    }
    assert old_weights["vae"].keys() != weights["vae"].keys()
    new, old = (single_file_weights(configs_of(sd1), each) for each in (weights, old_weights))
    assert new.keys() == old.keys()
    assert all(torch.equal(new[name], old[name]) for name in new)


def test_weights_in_parts_and_in_half_precision(sd1: Path, tmp_path: Path) -> None:
    write_single_file(sd1, tmp_path / "whole")
    weights = weights_of(sd1)
    parts = tmp_path / "parts"
    for name in COMPONENTS:
        (parts / name).mkdir(parents=True)
        (parts / name / "config.json").write_bytes((sd1 / name / "config.json").read_bytes())
        half = {key: tensor.half() for key, tensor in weights[name].items()}
        for number in range(2):
            part = dict(sorted(half.items())[number::2])
            save_file(part, parts / name / f"model.fp16-{number + 1:05}-of-00002.safetensors")
        (parts / name / "model.safetensors.index.fp16.json").write_text("{}")
    write_single_file(parts, tmp_path / "single")
    whole, single = (load_file(tmp_path / name / SINGLE_FILE) for name in ("whole", "single"))
    assert whole.keys() == single.keys()
    assert all(torch.equal(whole[name].half(), single[name]) for name in whole)
    assert not list((tmp_path / "single" / CONFIGS).rglob("*.safetensors*"))


@pytest.mark.parametrize(
    ("changed", "added", "sentence"),
    [
        ({"unet": {"layers_per_block": [2, 2, 2, 1]}}, {}, "needs equally many layers in all blocks of the unet"),
        ({}, {"unet": "add_embedding.linear_1.weight"}, "no place for unet/add_embedding.linear_1.weight"),
        ({}, {"unet": "class_embedding.weight"}, "no place for unet/class_embedding.weight"),
        ({}, {"unet": "mid_block.resnets.2.conv1.weight"}, "no place for unet/mid_block.resnets.2.conv1.weight"),
        ({}, {"vae": "encoder.down_blocks.0.attentions.0.to_q.bias"}, "no place for vae/encoder.down_blocks.0.att"),
        ({}, {"text_encoder": "adapter.weight"}, "no place for text_encoder/adapter.weight"),
        (
            {"text_encoder": {"hidden_size": 768, "num_hidden_layers": 11}},
            {},
            "is read with 12 layers in the text encoder, and this model's has 11; use Diffusers",
        ),
        (
            {"text_encoder": {"hidden_size": 1024, "num_hidden_layers": 22, "hidden_act": "gelu"}},
            {},
            "is read with 23 layers in the text encoder, and this model's has 22; use Diffusers",
        ),
        (
            {"text_encoder": {"hidden_act": "gelu"}},
            {"text_encoder": "encoder.layers.23.layer_norm1.bias"},
            "no place for text_encoder/encoder.layers.23",
        ),
    ],
)
def test_what_the_layout_cannot_hold_is_refused(
    sd1: Path, changed: dict[str, dict[str, Any]], added: dict[str, str], sentence: str
) -> None:
    configs, weights = configs_of(sd1), weights_of(sd1)
    for component, values in changed.items():
        configs[component] |= values
    for component, name in added.items():
        weights[component][name] = torch.zeros(1)
    with pytest.raises(ConfigError, match=r"^output\.format: SingleFile ") as refusal:
        single_file_weights(configs, weights)
    assert sentence in str(refusal.value)


def test_another_family_is_refused(tmp_path: Path) -> None:
    (tmp_path / "model_index.json").write_text('{"_class_name": "FluxPipeline"}')
    with pytest.raises(ConfigError, match=r"^output\.format: SingleFile is not written for FluxPipeline; use Diff"):
        check_single_file(tmp_path)


def test_a_job_whose_model_does_not_fit_ends_before_anything_is_spent(
    launch: Launch, make_config: MakeConfig, tmp_path: Path
) -> None:
    """The bundled architecture feeds the pooled caption to its UNet, for which the layout has no name."""
    run = launch(make_config(output__format="SingleFile")).finish()
    assert (run.code, run.failure.reason) == (2, "ConfigError")
    assert run.failure.message.startswith("output.format: SingleFile has no place for unet/add_embedding.")
    assert not (tmp_path / "output").exists()
    assert not (tmp_path / "work" / "prior").exists()


def test_a_job_publishes_one_file(launch: Launch, make_config: MakeConfig, tmp_path: Path) -> None:
    base = build(SHAPES["other counts"], tmp_path / "base")
    index = json.loads((base / "model_index.json").read_text())
    index["safety_checker"] = ["stable_diffusion", "StableDiffusionSafetyChecker"]  # as published models say
    index["feature_extractor"] = ["transformers", "CLIPImageProcessor"]
    (base / "model_index.json").write_text(json.dumps(index))
    config = make_config(
        model__uri=base.as_uri(),
        output__format="SingleFile",
        prior__enabled=False,
        training__steps=1,
        evaluation__images_per_prompt=1,
    )
    run = launch(config).finish()
    output = tmp_path / "output"
    assert run.result.model == f"{config['output']['uri']}/{SINGLE_FILE}"
    assert verify(Storage(StorageConfig(endpoint=None, region=None)), config["output"]["uri"]) == []
    manifest = json.loads((output / "manifest.json").read_text())
    names = {file["name"] for file in manifest["files"]}
    assert {SINGLE_FILE, f"{CONFIGS}/model_index.json", "report.html", "README.md"} <= names
    assert [name for name in names if name.endswith(".safetensors")] == [SINGLE_FILE]

    trained = load_file(output / SINGLE_FILE)
    assert_equal(read_back(trained, base), weights_of(tmp_path / "work" / "output"))
    before = single_file_weights(configs_of(base), weights_of(base))
    changed = {name.split(".")[0] for name in before if not torch.equal(trained[name], before[name])}
    assert changed == {"model", "cond_stage_model"}
    for model in (output, tmp_path / "work" / "output"):
        drawn(model, tmp_path / "picture.png")
    StableDiffusionPipeline.from_pretrained(tmp_path / "work" / "output", local_files_only=True)
