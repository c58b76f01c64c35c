"""The personalized model as a folder: plain diffusers and `kubooth sample` load it, whatever the base looked like."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
from click.testing import CliRunner
from diffusers import AutoencoderKL, DiffusionPipeline
from safetensors.torch import load_file, save_file
from transformers import CLIPTextModel

from kubooth_cli.sample import sample_command
from kubooth_trainer.checkpoint import Checkpoint
from kubooth_trainer.export import ExportOptions, export_model
from kubooth_trainer.families import FAMILIES, wanted_files
from kubooth_trainer.families.stable_diffusion import loading
from kubooth_trainer.loss import NoiseSchedule
from kubooth_trainer.methods.dreambooth import Trainee

pytestmark = pytest.mark.filterwarnings("ignore:__array__:DeprecationWarning")  # of diffusers' solvers
SD = FAMILIES[0]
SMALL = "30KB"  # the parts that weights are cut into
PARTS = {"unet": "diffusion_pytorch_model", "vae": "diffusion_pytorch_model", "text_encoder": "model"}


@pytest.fixture
def base(tiny_model: Path, tmp_path: Path) -> Path:
    return shutil.copytree(tiny_model, tmp_path / "base")


def export(base: Path, *, text_encoder: bool = False, zero_terminal_snr: bool = False) -> Path:
    """What a training makes of `base` that has added 0.25 to every weight, as a folder beside it."""
    unet, text = SD.load_denoiser(base, torch.float32), SD.load_text(base, torch.float32)
    trainee = Trainee(SD, unet, text if text_encoder else None)
    trained = {name: weight.detach() + 0.25 for name, weight in trainee.named_parameters()}
    save_file(trained, base.parent / "weights.safetensors")
    checkpoint = Checkpoint(step=1, folder=base.parent, uri="", time=0.0, history=[], sharding=None)
    options = ExportOptions(dtype=torch.bfloat16, zero_terminal_snr=zero_terminal_snr)
    export_model(SD, base, checkpoint, base.parent / "output", options)
    return base.parent / "output"


def as_fp16(component: Path, *, parts: bool) -> None:
    """The component as its library saves the variant, in place of the plain one."""
    kind = CLIPTextModel if component.name == "text_encoder" else AutoencoderKL
    model = kind.from_pretrained(component, local_files_only=True).half()
    for path in component.glob("*.safetensors"):
        path.unlink()
    model.save_pretrained(component, variant="fp16", **({"max_shard_size": SMALL} if parts else {}))


def whole_vae(base: Path) -> None:
    as_fp16(base / "vae", parts=False)


def vae_in_parts(base: Path) -> None:
    as_fp16(base / "vae", parts=True)


def vae_in_parts_named_as_before(base: Path) -> None:
    """By earlier releases of diffusers."""
    vae_in_parts(base)
    name = PARTS["vae"]
    index = base / "vae" / f"{name}.safetensors.index.fp16.json"
    content = index.read_text()
    for path in (base / "vae").glob("*.safetensors"):
        former = path.name.replace(".fp16", "").replace(".safetensors", ".fp16.safetensors")
        content = content.replace(path.name, former)
        path.rename(path.with_name(former))
    index.with_name(f"{name}.safetensors.fp16.index.json").write_text(content)
    index.unlink()


def whole_text_encoder(base: Path) -> None:
    as_fp16(base / "text_encoder", parts=False)


def text_encoder_in_parts(base: Path) -> None:
    as_fp16(base / "text_encoder", parts=True)


def text_encoder_that_says_no_dtype(base: Path) -> None:
    whole_text_encoder(base)
    path = base / "text_encoder" / "config.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps({key: value for key, value in config.items() if "dtype" not in key}))


def all_but_the_unet(base: Path) -> None:
    vae_in_parts(base)
    text_encoder_in_parts(base)


HALF: list[Callable[[Path], None]] = [
    whole_vae, vae_in_parts, vae_in_parts_named_as_before, whole_text_encoder, text_encoder_in_parts,
    text_encoder_that_says_no_dtype, all_but_the_unet,
]  # fmt: skip


@pytest.mark.parametrize("change", HALF, ids=lambda change: change.__name__)
def test_of_a_base_that_is_partly_in_fp16_alone_the_result_loads_as_any(
    base: Path, tmp_path: Path, change: Callable[[Path], None]
) -> None:
    change(base)
    output = export(base)
    assert [path for path in output.rglob("*") if "fp16" in path.name] == []
    pipeline = DiffusionPipeline.from_pretrained(output, local_files_only=True)
    modules = {name: getattr(pipeline, name) for name in PARTS}
    assert {module.dtype for module in modules.values()} == {torch.float32}
    for name in ("vae", "text_encoder"):
        given: dict[str, torch.Tensor] = {}
        for path in (base / name).glob("*.safetensors"):
            given |= load_file(path)
        found = modules[name].state_dict()
        assert all(torch.equal(found[key], tensor.float()) for key, tensor in given.items()) and len(given) > 10
    drawn = CliRunner().invoke(
        sample_command, [str(output), "a dog", "-n", "1", "-o", str(tmp_path / "dog.png"), "--steps", "1"]
    )
    assert drawn.exit_code == 0, drawn.output


@pytest.mark.parametrize("change", [vae_in_parts, text_encoder_in_parts], ids=lambda change: change.__name__)
def test_a_base_that_is_partly_in_fp16_alone_loads_and_samples(
    base: Path, tmp_path: Path, change: Callable[[Path], None]
) -> None:
    change(base)
    component = next(name for name in PARTS if loading(base / name)["variant"])
    assert len(list((base / component).glob("*.fp16-*"))) > 1
    assert SD.load_vae(base, torch.float32) and SD.load_text(base, torch.float32)
    drawn = CliRunner().invoke(
        sample_command, [str(base), "a dog", "-n", "1", "-o", str(tmp_path / "dog.png"), "--steps", "1"]
    )
    assert drawn.exit_code == 0, drawn.output


def use_scheduler(base: Path, name: str, config: dict[str, Any]) -> None:
    index = base / "model_index.json"
    index.write_text(json.dumps({**json.loads(index.read_text()), "scheduler": ["diffusers", name]}))
    content = {**config, "_class_name": name, "prediction_type": "v_prediction"}
    (base / "scheduler" / "scheduler_config.json").write_text(json.dumps(content))


BETAS = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "steps_offset": 1}
PNDM = {"skip_prk_steps": True, "set_alpha_to_one": False}


@pytest.mark.parametrize(
    ("name", "config", "exported"),
    [
        ("DDIMScheduler", {**BETAS, "clip_sample": False}, "DDIMScheduler"),
        ("EulerDiscreteScheduler", BETAS, "EulerDiscreteScheduler"),
        ("UniPCMultistepScheduler", BETAS, "UniPCMultistepScheduler"),
        ("PNDMScheduler", {**BETAS, **PNDM}, "DDIMScheduler"),
        ("LMSDiscreteScheduler", BETAS, "DDIMScheduler"),
        ("DEISMultistepScheduler", BETAS, "DDIMScheduler"),
        ("DPMSolverSDEScheduler", BETAS, "DDIMScheduler"),
        ("HeunDiscreteScheduler", {"beta_schedule": "scaled_linear"}, "DDIMScheduler"),  # these betas by default
    ],
)
def test_what_was_trained_with_zero_terminal_snr_is_sampled_so(
    base: Path, name: str, config: dict[str, Any], exported: str
) -> None:
    use_scheduler(base, name, config)
    output = export(base, zero_terminal_snr=True)
    entry = json.loads((output / "model_index.json").read_text())["scheduler"]
    about = json.loads((output / "scheduler" / "scheduler_config.json").read_text())
    assert (entry, about["_class_name"]) == (["diffusers", exported], exported)
    scheduler = getattr(diffusers, exported).from_pretrained(output, subfolder="scheduler", local_files_only=True)
    trained = NoiseSchedule.from_config(SD.load_schedule(base), zero_terminal_snr=True).alpha_bar
    assert trained[-1] == 0.0 and scheduler.alphas_cumprod[-1] <= 2**-24
    torch.testing.assert_close(scheduler.alphas_cumprod, trained, rtol=0, atol=1e-6)
    scheduler.set_timesteps(4)
    assert scheduler.timesteps[0] == 999
    assert scheduler.config["prediction_type"] == "v_prediction" and not scheduler.config.get("clip_sample")


def test_without_zero_terminal_snr_the_scheduler_is_the_bases(base: Path) -> None:
    use_scheduler(base, "PNDMScheduler", {**BETAS, **PNDM})
    name = "scheduler/scheduler_config.json"
    output = export(base)
    assert (output / name).read_bytes() == (base / name).read_bytes()
    assert type(DiffusionPipeline.from_pretrained(output, local_files_only=True).scheduler).__name__ == "PNDMScheduler"


def test_a_pipeline_with_another_scheduler_draws(base: Path, tmp_path: Path) -> None:
    use_scheduler(base, "PNDMScheduler", {**BETAS, **PNDM})
    pipeline = DiffusionPipeline.from_pretrained(export(base, zero_terminal_snr=True), local_files_only=True)
    pipeline.set_progress_bar_config(disable=True)
    (image,) = pipeline("a dog", num_inference_steps=2, output_type="pt").images
    assert image.isfinite().all() and image.std() > 0


def test_a_scheduler_that_wants_another_package_is_said(base: Path) -> None:
    use_scheduler(base, "DPMSolverSDEScheduler", BETAS)
    drawn = CliRunner().invoke(sample_command, [str(base), "a dog", "-n", "1", "--steps", "1"])
    assert drawn.exit_code == 2
    assert drawn.stderr.startswith(f"error: {base}: DPMSolverSDEScheduler requires the torchsde library")
    assert len(drawn.stderr.splitlines()) == 1


FP16 = {
    "whole": ["{}.fp16.safetensors"],
    "in parts": ["{}.fp16-00001-of-00001.safetensors", "{}.safetensors.index.fp16.json"],
    "in parts, as before": ["{}-00001-of-00001.fp16.safetensors", "{}.safetensors.fp16.index.json"],
}
PLAIN = {
    "whole": ["{}.safetensors"],
    "in parts": ["{}-00001-of-00001.safetensors", "{}.safetensors.index.json"],
}


@pytest.mark.parametrize("half", FP16)
@pytest.mark.parametrize("plain", [*PLAIN, None])
def test_of_the_variants_of_a_component_one_is_fetched(plain: str | None, half: str) -> None:
    stem = "unet/diffusion_pytorch_model"
    others = [f"{stem}.non_ema.safetensors", f"{stem}.non_ema-00001-of-00001.safetensors"]
    fp16 = [name.format(stem) for name in FP16[half]]
    wanted = [name.format(stem) for name in PLAIN[plain]] if plain else fp16
    found = wanted_files({*fp16, *wanted, *others, "unet/config.json"}, SD)
    assert found == sorted([*wanted, "unet/config.json"])
