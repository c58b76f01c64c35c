"""Class images, and how pictures are sampled: the `prior` group of a job, and the sampler that `evaluation` shares.

A runtime's `defaults` use the same models, so every field here is a `setting`.
"""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import Field

from kubooth_operator.api.fields import PAPER, SCRIPT, Part, group, setting
from kubooth_operator.api.rules import Rule, location_rule
from kubooth_operator.api.scalars import Template, Uri
from kubooth_trainer.config import SamplerName


class SamplerSpec(Part):
    """How pictures are sampled from a model."""

    name: SamplerName | None = setting(
        "The sampler. The paper draws class images with the ancestral one.",
        builtin="EulerAncestral",
        source="DreamBooth paper, section 3.3",
    )
    steps: int | None = setting("Denoising steps for each picture.", builtin=25, unit="steps", ge=1, le=1000)
    guidance_scale: float | None = setting(
        "Weight of classifier-free guidance; 1 switches guidance off.",
        builtin=7.5,
        source="diffusers' StableDiffusionPipeline",
        ge=0,
        le=100,
    )


class PriorSpec(Part):
    """Prior preservation: class images made by the frozen model keep the class from becoming the subject."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            field="prompt",
            cel="!has(self.prompt) || !self.prompt.contains('{identifier}')",
            message="must not hold {identifier}: class images show the class, not the subject",
            holds=lambda prior: prior.prompt is None or "{identifier}" not in prior.prompt,
        ),
        location_rule("uri"),
    )

    enabled: bool | None = setting(
        "Whether class images take part in training. Without them the class drifts towards the subject.",
        builtin=True,
    )
    images: int | None = setting(
        "How many class images are generated, or taken from `uri`.",
        builtin=200,
        unit="images",
        source="diffusers' README",
        ge=1,
        le=100_000,
    )
    weight: float | None = setting(
        "Weight of the class images' loss beside the photos' loss (lambda).",
        builtin=1.0,
        source=PAPER,
        ge=0,
        le=100,
    )
    prompt: Template | None = setting(
        "The prompt that class images are generated from and trained with. {class} stands for subject.className.",
        builtin="a photo of a {class}",
        source=SCRIPT,
    )
    negative_prompt: Annotated[str, Field(max_length=512)] | None = setting(
        "What class images should not show; empty for none.", builtin=""
    )
    sampler: SamplerSpec = group(SamplerSpec, "How class images are sampled from the frozen model.")
    uri: Uri | None = setting(
        "Class images of your own, instead of generated ones: a folder, prefix or archive (s3:// or file:).",
        absent="none, class images are generated",
    )
