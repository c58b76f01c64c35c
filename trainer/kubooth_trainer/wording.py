"""How a result is used, in words and ready-made code, for the report and the model card. Pure."""

from __future__ import annotations

import json
import shlex
from pathlib import PurePosixPath
from urllib.parse import unquote, urlsplit

from kubooth_trainer.config import TrainConfig, fill_prompt


def example_prompt(config: TrainConfig, *, identifier: str) -> str:
    """A prompt that shows the subject: the one that the photos were trained with."""
    return fill_prompt(config.subject.prompt_template, identifier=identifier, class_name=config.subject.class_name)


def model_folder(config: TrainConfig) -> tuple[str, bool]:
    """Where code finds the model, and whether it has to be copied there first (it lies in a bucket)."""
    parts = urlsplit(config.output.uri)
    if parts.scheme == "file":
        return unquote(parts.path) or "/", False
    if parts.scheme:
        return PurePosixPath(parts.path).name or parts.netloc, True
    return config.output.uri, False


def diffusers_code(config: TrainConfig, *, identifier: str) -> str:
    """The lines of Python that load the model with diffusers and draw the subject."""
    folder, is_copy = model_folder(config)
    prompt = json.dumps(example_prompt(config, identifier=identifier), ensure_ascii=False)
    single = config.output.format == "SingleFile"
    loader = "from_single_file" if single else "from_pretrained"
    comment = f"  # a copy of {config.output.uri}" if is_copy else ""
    name = "StableDiffusionPipeline" if single else "DiffusionPipeline"
    return (
        f"from diffusers import {name}\n\n"
        f"pipeline = {name}.{loader}({_arguments(folder, single=single)}){comment}\n"
        f'pipeline({prompt}).images[0].save("subject.png")\n'
    )


def _arguments(folder: str, *, single: bool) -> str:
    """A single file comes with its configs beside it, so that nothing is guessed or fetched."""
    names = ["model.safetensors", "config"] if single else [""]
    paths = [json.dumps(folder.rstrip("/") + "/" + name if name else folder, ensure_ascii=False) for name in names]
    return ", config=".join(paths)


def sample_command(config: TrainConfig) -> str:
    """The same on the command line; the identifier is filled in from the manifest."""
    prompt = shlex.quote(config.subject.prompt_template)
    return f"kubooth sample {shlex.quote(model_folder(config)[0])} {prompt} -n 4 -o grid.png"
