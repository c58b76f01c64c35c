"""How training runs: the `training`, `parallelism` and `checkpoints` groups of a job.

A runtime's `defaults` use the same models, so every field here is a `setting`.
"""

from __future__ import annotations

from typing import ClassVar, Literal

from kubooth_operator.api.fields import PAPER, SCRIPT, Part, group, setting
from kubooth_operator.api.rules import Rule
from kubooth_operator.api.scalars import Accumulation
from kubooth_trainer.config import LrSchedule, Precision, Switch


class EmaSpec(Part):
    """Exponential moving average of the trained weights."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            cel="!has(self.decay) || has(self.enabled)",
            message="decay is given without enabled: say enabled: true (or false) beside it",
            holds=lambda ema: ema.decay is None or ema.enabled is not None,
        ),
    )

    enabled: bool | None = setting("Whether the average is kept; it is then what the output holds.", builtin=False)
    decay: float | None = setting(
        "Share of the average that is kept at each step.", builtin=0.999, gt=0, lt=1, source="for some 1000 steps"
    )


class TrainingSpec(Part):
    """Hyper-parameters. The built-in values are for Stable Diffusion 1.x and 2.x."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            field="batchSize",
            cel=(
                "!has(self.batchSize) || !has(self.gradientAccumulation) || type(self.gradientAccumulation) != int || "
                "self.batchSize % int(self.gradientAccumulation) == 0"
            ),
            message="must be divisible by gradientAccumulation",
            holds=lambda training: (
                training.batch_size is None
                or not isinstance(training.gradient_accumulation, int)
                or training.batch_size % training.gradient_accumulation == 0
            ),
        ),
        Rule(
            field="warmupSteps",
            cel="!has(self.warmupSteps) || !has(self.steps) || self.warmupSteps <= self.steps",
            message="must not be more than steps",
            holds=lambda training: (
                training.warmup_steps is None or training.steps is None or training.warmup_steps <= training.steps
            ),
        ),
    )

    steps: int | None = setting(
        "Optimizer steps.",
        builtin=800,
        unit="steps",
        source=SCRIPT,
        ge=1,
        le=1_000_000,
    )
    learning_rate: float | None = setting(
        "Learning rate of the UNet (and of the text encoder, unless it has its own).",
        builtin=5e-6,
        source="DreamBooth paper, Stable Diffusion",
        gt=0,
        le=1,
    )
    train_text_encoder: bool | None = setting(
        "Whether the text encoder is trained too; the paper tunes all layers for best fidelity.",
        builtin=True,
        source=PAPER,
    )
    text_encoder_learning_rate: float | None = setting(
        "Learning rate of the text encoder.", same_as="learningRate", gt=0, le=1
    )
    resolution: int | None = setting(
        "Width and height that photos are brought to. Also a multiple of what the model asks for: 64 for Stable "
        "Diffusion 1.x and 2.x.",
        absent="the model's own",
        unit="pixels",
        ge=32,
        le=2048,
        multiple_of=8,
    )
    batch_size: int | None = setting(
        "Photos in one optimizer step over all devices together, each with one class image beside it. It is shared "
        "out over devices and accumulation, so the result does not depend on how many devices there are.",
        builtin=1,
        unit="photos",
        source="diffusers' README",
        ge=1,
        le=4096,
    )
    gradient_accumulation: Accumulation | None = setting(
        "Into how many micro-batches each device splits its share of a step; Auto fits them to memory.",
        builtin="Auto",
    )
    precision: Precision | None = setting(
        "Number format of the arithmetic. Auto takes BF16 where the hardware multiplies it faster, FP32 elsewhere.",
        builtin="Auto",
    )
    gradient_checkpointing: Switch | None = setting(
        "Whether activations are computed again in the backward pass: slower, but it needs less memory.",
        builtin="Auto",
    )
    optimizer: Literal["AdamW", "AdamW8bit"] | None = setting(
        "The optimizer. AdamW8bit keeps its moments in 8 bits: 2 bytes for each trained parameter in place of 8; a job "
        "of it resumes only on as many devices and at the same zeroStage. Not together with parallelism.offload.",
        builtin="AdamW",
        source=SCRIPT,
    )
    adam_beta1: float | None = setting("Decay of AdamW's first moment.", builtin=0.9, source=SCRIPT, ge=0, lt=1)
    adam_beta2: float | None = setting("Decay of AdamW's second moment.", builtin=0.999, source=SCRIPT, ge=0, lt=1)
    adam_epsilon: float | None = setting(
        "What AdamW adds to the root of the second moment.", builtin=1e-8, source=SCRIPT, gt=0, le=1
    )
    weight_decay: float | None = setting("AdamW's weight decay.", builtin=0.01, source=SCRIPT, ge=0, le=1)
    ema: EmaSpec = group(EmaSpec, "An exponential moving average of the trained weights.")
    snr_gamma: float | None = setting(
        "Gamma of min-SNR loss weights (arXiv 2303.09556 uses 5); 0 leaves the loss unweighted.",
        builtin=0.0,
        ge=0,
        le=100,
    )
    offset_noise: float | None = setting(
        "Strength of a noise offset that is constant over a picture, so that dark and bright pictures are learned; 0 "
        "for none.",
        builtin=0.0,
        ge=0,
        le=1,
    )
    zero_terminal_snr: bool | None = setting(
        "Whether the noise schedule is rescaled to end in pure noise (arXiv 2305.08891). Needs a model that predicts "
        "v: with any other the job fails.",
        builtin=False,
    )
    compile: bool | None = setting(
        "Whether the UNet is compiled (torch.compile): minutes at the start, faster steps.", builtin=False
    )
    captions: bool | None = setting(
        "Whether NAME.txt beside a photo NAME.jpg takes the place of subject.promptTemplate for that photo.",
        builtin=False,
    )
    lr_schedule: LrSchedule | None = setting(
        "Course of the learning rate after warm-up.", builtin="Constant", source=SCRIPT
    )
    warmup_steps: int | None = setting(
        "Steps over which the learning rate rises from 0.", builtin=0, unit="steps", ge=0, le=1_000_000
    )
    max_grad_norm: float | None = setting(
        "Gradients are scaled down to at most this norm; 0 leaves them as they are.",
        builtin=1.0,
        source=SCRIPT,
        ge=0,
        le=1e6,
    )
    seed: int | None = setting(
        "Seed of every random draw: the same job with the same seed gives the same result.",
        builtin=0,
        ge=0,
        le=2**32 - 1,
    )


class ParallelismSpec(Part):
    """How many devices train, and how DeepSpeed shares the work."""

    nodes: int | None = setting("Nodes, one pod on each. `kubooth run` always uses one.", builtin=1, ge=1, le=1024)
    devices_per_node: int | None = setting(
        "Devices on each node, one process each. `kubooth run` takes what it finds or --devices.",
        builtin=1,
        unit="devices",
        ge=1,
        le=64,
    )
    zero_stage: Literal["Auto", 0, 1, 2, 3] | None = setting(
        "DeepSpeed ZeRO stage: what is partitioned over devices (0 nothing, 1 optimizer state, 2 also gradients, 3 "
        "also parameters). Auto takes the lowest that fits.",
        builtin="Auto",
    )
    offload: Literal["None", "Optimizer"] | None = setting(
        "What is moved to main memory when device memory is short; Optimizer takes zeroStage 2 or 3.", builtin="None"
    )


class CheckpointsSpec(Part):
    """How often the state of training is kept, so that an interrupted job goes on where it was."""

    every_steps: int | None = setting(
        "Least steps between checkpoints: one that is due while the one before is still being written is left out.",
        builtin=100,
        unit="steps",
        ge=1,
        le=1_000_000,
    )
    keep: int | None = setting("How many of the newest checkpoints are kept.", builtin=2, ge=1, le=100)
