"""`TrainConfig`: the whole of what a training needs to know, fully resolved; and nothing heavier than pydantic.

The contract between the two halves: the operator (or `kubooth run`) resolves a job and a runtime into one of these,
writes it as JSON, and every training process reads it. `Auto` stays where only the training machine can decide.

Defaults belong to the API models, where users read about them, so a field has none here; but **a field that is added
after a release has one: its neutral value, with which training does what it did before there was the field**. It is the
field's built-in value in the API too, and never changes. For an upgrade meets jobs that run: what has its declared
default is left out of the digest, so they know their checkpoints and outputs again, and out of what the operator
writes, so a runtime's older trainer image reads it wherever the field is not used.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from kubooth_trainer.errors import ConfigError

if TYPE_CHECKING:
    from pydantic.main import IncEx

CONFIG_VERSION = 1

StageName = Literal["Download", "Prior", "Prepare", "Train", "Evaluate", "Upload"]
STAGES: tuple[StageName, ...] = ("Download", "Prior", "Prepare", "Train", "Evaluate", "Upload")

Precision = Literal["Auto", "FP32", "BF16"]
Switch = Literal["Auto", "Enabled", "Disabled"]
SamplerName = Literal["EulerAncestral", "DDIM", "DPMSolverMultistep", "Euler", "DDPM"]
LrSchedule = Literal["Constant", "Linear", "Cosine"]
Metric = Literal["Dino", "ClipI", "ClipT", "Pres", "Div"]
EncoderRole = Literal["dino", "clip", "lpips"]

ENCODER_OF: dict[Metric, EncoderRole] = {
    "Dino": "dino",
    "ClipI": "clip",
    "ClipT": "clip",
    "Pres": "dino",
    "Div": "lpips",
}
"""Which encoder measures what (DreamBooth paper, section 4.1 and table 3)."""


class Frozen(BaseModel):
    """Base of every config part: immutable, closed, compared by value."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    def without_defaults(self, *, exclude: IncEx | None = None) -> dict[str, Any]:
        """Its values as in JSON, without those that are their field's declared default: the same in every release
        that knows the fields in use. For whatever is compared, or read, by another release than it was written by."""
        return self.model_dump(mode="json", exclude=exclude, exclude_defaults=True)


class JobIdentity(Frozen):
    """Which job this is, for manifests, logs and status writes."""

    name: str
    namespace: str
    uid: str | None
    attempt: int


class ModelConfig(Frozen):
    """The base model: a folder in diffusers layout, safetensors only."""

    uri: str
    name: str | None  # catalogue name, when the job gave one


class SubjectConfig(Frozen):
    """The photos and the words for them. Templates hold `{identifier}` and `{class}`, replaced literally."""

    images: str  # URI of a folder, prefix or archive (.zip, .tar, .tar.gz)
    class_name: str
    identifier: str | None  # None: choose a rare token with the model's own tokenizer
    prompt_template: str
    crop: Literal["Center", "Random"]
    flip: bool


class SamplerConfig(Frozen):
    """How class images are sampled from the frozen model."""

    name: SamplerName
    steps: int
    guidance_scale: float


class PriorConfig(Frozen):
    """Prior preservation (DreamBooth, arXiv 2208.12242, section 3.3)."""

    enabled: bool
    images: int
    weight: float  # lambda
    prompt: str  # holds {class}
    negative_prompt: str
    sampler: SamplerConfig
    uri: str | None  # bring your own class images
    cache: str | None  # URI of the folder where jobs of the same prior share class images


class EmaConfig(Frozen):
    """Exponential moving average of the trained weights; the average is what is exported."""

    decay: float


class TrainingConfig(Frozen):
    """Hyper-parameters. `batch_size` is global: instance images per optimizer step over all ranks."""

    steps: int
    learning_rate: float
    train_text_encoder: bool
    text_encoder_learning_rate: float
    resolution: int | None  # pixels; None: the model's own
    batch_size: int
    gradient_accumulation: int | Literal["Auto"]
    precision: Precision
    gradient_checkpointing: Switch
    optimizer: Literal["AdamW", "AdamW8bit"]
    adam_beta1: float
    adam_beta2: float
    adam_epsilon: float
    weight_decay: float
    ema: EmaConfig | None
    snr_gamma: float | None
    offset_noise: float
    zero_terminal_snr: bool
    compile: bool
    captions: bool  # use NAME.txt beside NAME.jpg as that photo's prompt template
    lr_schedule: LrSchedule
    warmup_steps: int
    max_grad_norm: float
    seed: int


class ParallelismConfig(Frozen):
    """Ranks and how DeepSpeed partitions the optimizer over them."""

    nodes: int
    devices_per_node: int
    zero_stage: Annotated[int, Field(ge=0, le=3)] | Literal["Auto"]
    offload: Literal["None", "Optimizer"]


class CheckpointConfig(Frozen):
    """Where and how often training state is kept."""

    uri: str
    every_steps: int
    keep: int


class GateConfig(Frozen):
    """Thresholds for the figures of a result; docs/evaluation.md has the formulas. None: not judged."""

    action: Literal["Warn", "Fail"]
    identity_gain: float | None
    max_class_drift: float | None
    min_prompt_fidelity: float | None

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """What has to be measured for it."""
        thresholds: dict[Metric, float | None] = {
            "Dino": self.identity_gain,
            "Pres": self.max_class_drift,
            "ClipT": self.min_prompt_fidelity,
        }
        return tuple(metric for metric, threshold in thresholds.items() if threshold is not None)


class BestCheckpointConfig(Frozen):
    """States of the training that are measured on the way; the best becomes the result."""

    every_steps: int
    prompts: tuple[str, ...]
    images_per_prompt: int
    early_stop: bool

    def steps_of(self, last: int) -> list[int]:
        """After which steps, of `last` in all."""
        return [*range(self.every_steps, last, self.every_steps), last]


class EvaluationConfig(Frozen):
    """Which pictures are sampled before and after, with equal seeds, and what is measured on them."""

    prompts: tuple[str, ...]  # hold {identifier} and/or {class}
    images_per_prompt: int
    sampler: SamplerConfig
    metrics: tuple[Metric, ...]
    encoders: dict[EncoderRole, str]  # URIs of folders in Hugging Face layout, safetensors only
    gate: GateConfig | None
    best_checkpoint: BestCheckpointConfig | None


class OutputConfig(Frozen):
    """Where the result goes; `manifest.json` is written last."""

    uri: str
    format: Literal["Diffusers", "SingleFile"]
    overwrite: bool


class StorageConfig(Frozen):
    """The S3 endpoint. Credentials are never here: boto3's default chain finds them."""

    endpoint: str | None
    region: str | None


class ModelCacheConfig(Frozen):
    """Where base models are kept near this node."""

    path: str  # a folder
    max_bytes: int


class MlflowConfig(Frozen):
    """An MLflow server and the experiment that runs go to. Credentials are never here: the environment has them."""

    uri: str
    experiment: str


class WandbConfig(Frozen):
    """A project on Weights & Biases. The key is never here: the environment has it."""

    project: str
    entity: str | None  # None: that of the key
    url: str | None  # None: the public service


class TrackingConfig(Frozen):
    """Trackers of experiments that rank 0 tells of the training; None: off."""

    name: str  # of the run
    tensorboard: str | None  # folder of event files
    mlflow: MlflowConfig | None
    wandb: WandbConfig | None


class DeadlinesConfig(Frozen):
    """How long ranks wait before they give up; a restart goes on from the last checkpoint."""

    stall_seconds: int  # no rank has moved on: no step, no image, no byte
    rendezvous_seconds: int  # from the launcher's start until all ranks have found each other


class TrainConfig(Frozen):
    """One training, fully resolved."""

    config_version: Literal[1]
    job: JobIdentity
    method: Literal["DreamBooth"]
    model: ModelConfig
    subject: SubjectConfig
    prior: PriorConfig
    training: TrainingConfig
    parallelism: ParallelismConfig
    checkpoints: CheckpointConfig
    evaluation: EvaluationConfig
    output: OutputConfig
    storage: StorageConfig
    tracking: TrackingConfig
    deadlines: DeadlinesConfig
    model_cache: ModelCacheConfig | None = None
    workdir: str  # scratch of this node: downloads, class images, latents; survives a restart where it can

    @property
    def world_size(self) -> int:
        return self.parallelism.nodes * self.parallelism.devices_per_node

    def digest(self) -> str:
        """SHA-256 (hex) over what decides the trained weights: equal digests may resume each other.

        Leaves out where things are kept, how work is spread over devices, what is measured of the
        result, names and deadlines; and fields of later releases that are not in use.
        """
        decisive = self.without_defaults(
            exclude={
                "job": True,
                "parallelism": True,
                "checkpoints": True,
                "evaluation": set(type(self.evaluation).model_fields) - {"best_checkpoint"},
                "output": True,
                "storage": True,
                "tracking": True,
                "deadlines": True,
                "model_cache": True,
                "workdir": True,
                "model": {"name"},
                "prior": {"cache"},
                "training": {"gradient_accumulation", "gradient_checkpointing", "compile"},
            },
        )
        return hashlib.sha256(json.dumps(decisive, sort_keys=True).encode()).hexdigest()


def load_config(path: Path) -> TrainConfig:
    """Reads a `TrainConfig` from JSON. Raises ConfigError naming the field, also for another config version."""
    try:
        raw: Any = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path}: cannot be read as a training config: {error}") from error
    version = raw.get("config_version") if isinstance(raw, dict) else None
    if version != CONFIG_VERSION:
        raise ConfigError(
            f"{path}: config version {version!r} does not fit this trainer (version {CONFIG_VERSION}): "
            "use a trainer image of the same release as the operator"
        )
    try:
        return TrainConfig.model_validate(raw)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"])
        raise ConfigError(f"{path}: {field}: {first['msg']}") from error


def fill_prompt(template: str, *, identifier: str, class_name: str) -> str:
    """Replaces `{identifier}` and `{class}` literally (never str.format), then folds double spaces."""
    filled = template.replace("{identifier}", identifier).replace("{class}", class_name)
    return " ".join(filled.split())
