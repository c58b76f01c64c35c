"""`README.md` of the output folder: a model card in the form that model hubs read.

Called by the Upload stage with the same data as the report. Says what the model is, how to prompt and load it, how
it was made and what to be careful about. It names no licence: the base model's applies, and it is not known here.
"""

from __future__ import annotations

import re
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import urlsplit

import yaml

from kubooth_trainer.config import TrainConfig
from kubooth_trainer.figures import duration, number
from kubooth_trainer.report import ReportData
from kubooth_trainer.wording import diffusers_code, example_prompt

_MARKDOWN = re.compile(r"([\\`*_{}\[\]()#+!|<>~$&])")


def render_model_card(data: ReportData) -> str:
    """The card as Markdown with a YAML front matter. Pure; text from users is escaped or fenced."""
    config, subject = data.config, f"{data.identifier} {data.config.subject.class_name}"
    prompt = example_prompt(config, identifier=data.identifier)
    parts = [
        f"---\n{yaml.safe_dump(_front_matter(config, prompt), sort_keys=False, allow_unicode=True)}---",
        f"# {_plain(subject)}",
        f"A text-to-image model that knows one particular {_plain(config.subject.class_name)}. It was made from "
        f"{_plain(_base_model(config))} by {config.method} ([arXiv 2208.12242](https://arxiv.org/abs/2208.12242)) "
        f"from {len(data.photos)} photo{'s' * (len(data.photos) != 1)}. Pictures before and after training are in "
        "`report.html`, sizes and digests of all files in `manifest.json`.",
        "## How to prompt it",
        f"Write _{_plain(subject)}_ where a prompt should mean the subject:",
        _fenced(prompt, "text"),
        "## How to load it",
        _fenced(diffusers_code(config, identifier=data.identifier), "python"),
        "## How it was trained",
        _table(_settings(data)),
        "## What to be careful about",
        _caveats(config),
    ]
    return "\n\n".join(parts) + "\n"


def _front_matter(config: TrainConfig, prompt: str) -> dict[str, Any]:
    return {
        "library_name": "diffusers",
        "pipeline_tag": "text-to-image",
        "base_model": _base_model(config),
        "instance_prompt": prompt,
        "tags": ["text-to-image", "stable-diffusion", "diffusers", "diffusers-training", "dreambooth", "kubooth"],
    }


def _base_model(config: TrainConfig) -> str:
    """A name for people. The location itself may be private, and is in the manifest."""
    parts = urlsplit(config.model.uri)
    return config.model.name or PurePosixPath(parts.path).name or parts.netloc or "the base model"


def _settings(data: ReportData) -> list[tuple[str, str]]:
    training, prior = data.config.training, data.config.prior
    weight = f"{prior.images:,} images, weight {number(prior.weight)}" if prior.enabled else "none"
    text_encoder = number(training.text_encoder_learning_rate) if training.train_text_encoder else "frozen"
    return [
        ("Steps", f"{data.selection.step:,} of {training.steps:,}" if data.selection else f"{training.steps:,}"),
        ("Photos per step", f"{training.batch_size:,}"),
        ("Learning rate, UNet", number(training.learning_rate)),
        ("Learning rate, text encoder", text_encoder),
        ("Prior preservation", weight),
        ("Precision", data.precision),
        ("Ranks", f"{data.world_size} (ZeRO stage {data.zero_stage})"),
        ("Seed", str(training.seed)),
        ("Time", duration(data.seconds)),
        ("Date", data.created.date().isoformat()),
        ("Versions", ", ".join(f"{name} {version}" for name, version in sorted(data.versions.items()))),
    ]


def _caveats(config: TrainConfig) -> str:
    name = _plain(config.subject.class_name)
    return "\n".join(
        (
            f"- Whoever has this model can draw the {name} of the photos in any situation. Pass it on only as far as "
            "the people shown, or the owner of what is shown, have agreed.",
            "- The licence and the terms of use of the base model apply to this model too.",
            f"- It was trained on very few photos: it may repeat their backgrounds and poses, and its idea of any "
            f"other {name} may have shifted. The report shows both.",
        )
    )


def _table(rows: list[tuple[str, str]]) -> str:
    return "\n".join(["| setting | value |", "|---|---|", *(f"| {_plain(a)} | {_plain(b)} |" for a, b in rows)])


def _plain(text: str) -> str:
    """Text that Markdown shows as it is, on one line."""
    return _MARKDOWN.sub(r"\\\1", " ".join(text.split()))


def _fenced(text: str, language: str) -> str:
    """A code block whose fence no text can close."""
    longest = max((len(run) for run in re.findall("`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}{language}\n{text.rstrip()}\n{fence}"
