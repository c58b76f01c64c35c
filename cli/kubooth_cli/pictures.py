"""Pictures from a model: the heavy half of `kubooth sample` (torch, diffusers), imported when it is needed.

Before the import `sample` sets what keeps the libraries quiet and off the network.
"""

from __future__ import annotations

import inspect
import json
import math
import warnings
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from kubooth_cli.models import INDEX, Model, ModelError, Wish
from kubooth_trainer.company import without_company
from kubooth_trainer.families import check_model
from kubooth_trainer.families.weight_files import variant_to_load

LARGEST_BATCH = 4
GAP = 4  # pixels between the pictures of a grid
DEFAULT_GUIDANCE = 7.5


def draw(model: Model, wish: Wish, on_step: Callable[[int, int], None]) -> list[Image.Image]:
    """The pictures; picture `i` has seed `wish.seed + i`, whatever their number. `on_step` gets done and total.

    Raises:
        ModelError: the folder holds what is not loaded here.
        KuboothError: the model is incomplete or of an unsupported family.
    """
    pipeline = _load(model)
    guidance = wish.guidance
    if guidance is None:
        guidance = (model.subject.guidance_scale if model.subject else None) or DEFAULT_GUIDANCE
    batches = [range(at, min(at + LARGEST_BATCH, wish.count)) for at in range(0, wish.count, LARGEST_BATCH)]
    pictures: list[Image.Image] = []
    for turn, batch in enumerate(batches):

        def after_step(_: Any, step: int, __: Any, kept: dict[str, Any], turn: int = turn) -> dict[str, Any]:
            on_step(turn * wish.steps + min(step + 1, wish.steps), len(batches) * wish.steps)
            return kept

        with torch.inference_mode():
            made = pipeline(
                prompt=[wish.prompt] * len(batch),
                negative_prompt=[wish.negative] * len(batch) if wish.negative else None,
                num_inference_steps=wish.steps,
                guidance_scale=guidance,
                generator=[torch.Generator("cpu").manual_seed(wish.seed + index) for index in batch],
                callback_on_step_end=after_step,
            )
        pictures += made.images
        on_step((turn + 1) * wish.steps, len(batches) * wish.steps)
    return pictures


def grid(pictures: Sequence[Image.Image]) -> Image.Image:
    """All pictures on one sheet, about as wide as high, on white."""
    columns = math.ceil(math.sqrt(len(pictures)))
    rows = math.ceil(len(pictures) / columns)
    width, height = pictures[0].size
    sheet = Image.new("RGB", (columns * (width + GAP) - GAP, rows * (height + GAP) - GAP), "white")
    for index, picture in enumerate(pictures):
        row, column = divmod(index, columns)
        sheet.paste(picture, (column * (width + GAP), row * (height + GAP)))
    return sheet


def save(picture: Image.Image, path: Path) -> None:
    """Writes a PNG, whole or not at all."""
    part = path.with_name(f".{path.name}.part")
    try:
        picture.save(part, format="PNG")
        part.replace(path)
    except OSError as error:
        with suppress(OSError):
            part.unlink()
        raise ModelError(f"{path}: cannot be written: {error.strerror or error}") from error


def _load(model: Model) -> Any:
    cuda = torch.cuda.is_available()
    dtype = torch.bfloat16 if cuda else torch.float32
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what libraries announce is not for the one who wants a picture
        with without_company():
            import diffusers
            import transformers

        diffusers.utils.logging.set_verbosity_error()
        transformers.utils.logging.set_verbosity_error()
        diffusers.utils.logging.disable_progress_bar()
        transformers.utils.logging.disable_progress_bar()
        pipeline = _from_file(model, dtype) if model.path.is_file() else _from_folder(model, dtype)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline.to("cuda" if cuda else "cpu")


def _from_folder(model: Model, dtype: torch.dtype) -> Any:
    import diffusers

    names = [path.relative_to(model.path).as_posix() for path in model.path.rglob("*") if path.is_file()]
    family = check_model(str(model.path), names, (model.path / INDEX).read_bytes())
    pipeline = getattr(diffusers, family.pipeline)
    parts = [[name for name in names if name.startswith(f"{component}/")] for component in family.weighted]
    left_out = {"safety_checker", "feature_extractor", "image_encoder", "requires_safety_checker"}
    try:
        return pipeline.from_pretrained(
            model.path,
            torch_dtype=dtype,
            use_safetensors=True,
            local_files_only=True,
            variant=next(filter(None, map(variant_to_load, parts)), None),  # parts without it are loaded plain
            **dict.fromkeys(left_out & set(inspect.signature(pipeline).parameters)),
        )
    except ImportError as error:  # some solvers want a package that diffusers does without
        raise ModelError(f"{model.path}: {' '.join(str(error).split())}") from error


def _from_file(model: Model, dtype: torch.dtype) -> Any:
    """A single file holds weights alone: the shapes come from the model_index.json and configs saved beside it."""
    from diffusers import StableDiffusionPipeline

    beside = next((folder for folder in _config_folders(model.path) if (folder / INDEX).is_file()), None)
    if beside is None:
        raise ModelError(
            f"{model.path}: a single file needs its {INDEX} and configs beside it (or in {model.path.stem}/): "
            "train with output.format: Diffusers to get a folder that loads as it is"
        )
    kind = json.loads((beside / INDEX).read_text()).get("_class_name")
    if kind != "StableDiffusionPipeline":
        raise ModelError(f"{beside / INDEX}: {kind} is not supported")
    return StableDiffusionPipeline.from_single_file(
        str(model.path), config=str(beside), local_files_only=True, torch_dtype=dtype, safety_checker=None
    )


def _config_folders(file: Path) -> list[Path]:
    return [file.parent / "config", file.parent / file.stem, file.parent]
