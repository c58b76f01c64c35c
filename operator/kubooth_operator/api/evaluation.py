"""Pictures and figures about a result: the `evaluation` group of a job. Every field is a `setting`."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from kubooth_operator.api.fields import PAPER, Part, group, setting
from kubooth_operator.api.prior import SamplerSpec
from kubooth_operator.api.prompt_packs import CLASS_PROMPT, PromptPack
from kubooth_operator.api.rules import Rule
from kubooth_operator.api.scalars import Template
from kubooth_trainer.config import Metric

BUILTIN_PROMPTS = (
    "a photo of {identifier} {class}",
    "a photo of {identifier} {class} in the jungle",
    "a photo of {identifier} {class} in the snow",
    "a photo of {identifier} {class} on the beach",
    "a painting of {identifier} {class}",
    CLASS_PROMPT,
)

_EACH_PROMPT_NAMES_SOMETHING = Rule(
    field="prompts",
    cel="!has(self.prompts) || self.prompts.all(p, p.contains('{identifier}') || p.contains('{class}'))",
    message="every prompt must hold {identifier} or {class}",
    holds=lambda group: all("{identifier}" in prompt or "{class}" in prompt for prompt in group.prompts or ()),
)


class GateSpec(Part):
    """Thresholds that a result has to meet."""

    action: Literal["Warn", "Fail"] | None = setting(
        "What happens to a job whose result misses a threshold.", builtin="Warn"
    )
    identity_gain: float | None = setting(
        "Least gain in similarity to the photos: Dino after less before.", absent="not judged", ge=-1, le=1
    )
    max_class_drift: float | None = setting(
        "Most that pictures of the class may move towards the subject: Pres after less before.",
        absent="not judged",
        ge=0,
        le=1,
    )
    min_prompt_fidelity: float | None = setting(
        "Least similarity of pictures to their prompts: ClipT after.", absent="not judged", ge=-1, le=1
    )


class BestCheckpointSpec(Part):
    """States of the training that are measured on the way, of which the best becomes the result.

    The score of a state is Dino - Pres + 2 ClipT, without ClipT where the runtime names no CLIP.
    """

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            field="prompts",
            cel="!has(self.prompts) || self.prompts.exists(p, p.contains('{identifier}'))",
            message="one prompt at least must hold {identifier}",
            holds=lambda best: not best.prompts or any("{identifier}" in prompt for prompt in best.prompts),
        ),
        _EACH_PROMPT_NAMES_SOMETHING,
    )

    every_steps: int | None = setting(
        "Steps from one measured state to the next; the last step is measured too.",
        absent="off: the last step is the result",
        unit="steps",
        ge=1,
        le=1_000_000,
    )
    prompts: Annotated[tuple[Template, ...], Field(min_length=1, max_length=16)] | None = setting(
        "Prompts to sample each state with. One without {identifier} shows how far the class has drifted.",
        absent="subject.promptTemplate, the same in the snow, and a photo of a {class}",
    )
    images_per_prompt: int | None = setting("Pictures for each prompt.", builtin=4, unit="images", ge=1, le=64)
    early_stop: bool | None = setting(
        "Ends training where, twice in a row, Dino is less than 0.01 above the best before and Pres has grown.",
        builtin=False,
    )


class EvaluationSpec(Part):
    """Pictures from the same prompts and seeds before and after training, and figures about them."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            cel="!(has(self.prompts) && has(self.promptPack))",
            message="give prompts or promptPack, not both",
            holds=lambda evaluation: evaluation.prompts is None or evaluation.prompt_pack is None,
        ),
        _EACH_PROMPT_NAMES_SOMETHING,
    )
    one_of: ClassVar[tuple[str, ...]] = ("prompts", "promptPack")

    prompts: Annotated[tuple[Template, ...], Field(min_length=1, max_length=64)] | None = setting(
        "Prompts to sample; {identifier} and {class} are filled in.",
        builtin=BUILTIN_PROMPTS,
        source="places from google/dreambooth; the last one shows whether the class was kept",
    )
    prompt_pack: PromptPack | None = setting("A named set of prompts, instead of `prompts`.", absent="none")
    images_per_prompt: int | None = setting(
        "Pictures for each prompt, before and after.", builtin=4, unit="images", source=PAPER, ge=1, le=64
    )
    sampler: SamplerSpec = group(SamplerSpec, "How the pictures are sampled.")
    metrics: Annotated[tuple[Metric, ...], Field(max_length=5)] | None = setting(
        "Figures to compute: Dino and ClipI (similarity to the photos), ClipT (to the prompt), Pres (how far the class "
        "became the subject), Div (diversity).",
        absent="all that the runtime's encoders can measure",
    )
    gate: GateSpec = group(GateSpec, "Thresholds that a result has to meet; none are set by default.")
    best_checkpoint: BestCheckpointSpec = group(
        BestCheckpointSpec, "Choice of the best state on the way, instead of the last; off by default."
    )
