"""The registry of model families, and the check that a model folder is one of them.

`check_model` judges from names and `model_index.json` alone, so that a wrong model is refused before gigabytes move.
"""

from __future__ import annotations

import json
from collections.abc import Collection
from typing import Any

from kubooth_trainer.errors import BadModelError
from kubooth_trainer.families.base import Conditioning, Family, Parts, TextStack, load_parts
from kubooth_trainer.families.stable_diffusion import StableDiffusion
from kubooth_trainer.families.stable_diffusion_xl import StableDiffusionXL
from kubooth_trainer.families.weight_files import is_weights, variant_of, variant_to_load

__all__ = ["FAMILIES", "Conditioning", "Family", "Parts", "TextStack", "check_model", "load_parts", "wanted_files"]

FAMILIES: tuple[Family, ...] = (StableDiffusion(), StableDiffusionXL())

INDEX = "model_index.json"
PICKLED = (".bin", ".ckpt", ".pt", ".pth")
NEEDED = (".safetensors", ".json", ".txt", ".model", ".md", "LICENSE")  # to load a model, and to know its terms


def check_model(uri: str, names: Collection[str], index: bytes | None) -> Family:
    """The family of the model at `uri`, from its file names (relative) and the bytes of its model_index.json.

    Raises BadModelError with one sentence that names the missing or unsuitable file.
    """
    if index is None:
        raise BadModelError(
            f"{uri}: no {INDEX} in this folder: point model.uri at a model in diffusers layout "
            "(the folder that holds model_index.json, unet/, vae/, text_encoder/, tokenizer/, scheduler/)"
        )
    try:
        content: Any = json.loads(index)
        pipeline = str(content["_class_name"])
    except (ValueError, KeyError, TypeError) as error:
        raise BadModelError(f"{uri}/{INDEX}: not a diffusers index ({error}): save the model again") from error
    family = next((known for known in FAMILIES if known.pipeline == pipeline), None)
    if family is None:
        supported = ", ".join(f"{known.pipeline} ({known.name})" for known in FAMILIES)
        raise BadModelError(f"{uri}: the family {pipeline} is not supported; supported: {supported}")
    for component, classes in family.components.items():
        entry = content.get(component)
        kind = entry[1] if isinstance(entry, list) and len(entry) == 2 else None
        if kind not in classes:
            raise BadModelError(
                f"{uri}/{INDEX}: {component} is {kind!r}; {family.pipeline} needs {' or '.join(classes)}"
            )
    for component in family.components:
        if component in family.weighted:
            _check_weights(uri, component, names)
        elif not any(name.startswith(f"{component}/") for name in names):
            raise BadModelError(f"{uri}/{component}/ is missing: upload the model again, whole")
    return family


def _check_weights(uri: str, component: str, names: Collection[str]) -> None:
    files = [name for name in names if name.startswith(f"{component}/")]
    if any(name.endswith(".safetensors") for name in files):
        if f"{component}/config.json" not in files:
            raise BadModelError(f"{uri}/{component}/config.json is missing: save the model again with diffusers")
        return
    pickled = next((name for name in files if name.endswith(PICKLED)), None)
    if pickled is not None:
        raise BadModelError(
            f"{uri}/{pickled} is a pickle, which is never loaded: convert the model to safetensors "
            "(pipeline.save_pretrained(folder, safe_serialization=True)) and point model.uri at the result"
        )
    raise BadModelError(f"{uri}/{component}/ holds no .safetensors weights: upload the model again, whole")


def wanted_files(names: Collection[str], family: Family) -> list[str]:
    """Which files of a model folder are needed: those of the family's components that are loaded, one variant of each
    weight. Not the same weights for other libraries (ONNX, OpenVINO, Flax), which are gigabytes."""
    wanted = {INDEX}
    for component in family.components:
        files = [name for name in names if name.startswith(f"{component}/") and name.endswith(NEEDED)]
        variant = variant_to_load(files)
        wanted.update(name for name in files if not is_weights(name) or variant_of(name) == variant)
    return sorted(wanted & set(names))
