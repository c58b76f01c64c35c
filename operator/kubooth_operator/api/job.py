"""`PersonalizationJob`: what a requester writes. Its larger groups are in `prior`, `training` and `evaluation`."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import ConfigDict, Field

from kubooth_operator.api.evaluation import EvaluationSpec
from kubooth_operator.api.fields import SCRIPT, Part, group, preset, required, setting
from kubooth_operator.api.prior import PriorSpec
from kubooth_operator.api.rules import Rule, immutable_once_started, location_rule, placeholder_rule
from kubooth_operator.api.scalars import Dns1123Label, Dns1123Subdomain, LabelValue, Template, Uri
from kubooth_operator.api.status import JobStatus
from kubooth_operator.api.training import CheckpointsSpec, ParallelismSpec, TrainingSpec

GROUP = "kubooth.io"
VERSION = "v1alpha1"
API_VERSION = f"{GROUP}/{VERSION}"

Method = Literal["DreamBooth", "LoRA", "TextualInversion", "E4T"]
IDENTIFIER_IN_TEMPLATE = "must hold {identifier}, or training has no word to bind the subject to"
MAX_NAME = 45
_LETTERS_AND_DIGITS = frozenset("abcdefghijklmnopqrstuvwxyz0123456789-")


def _is_job_name(name: str) -> bool:
    """A DNS-1035 label of at most 45 characters: children are called NAME-kubooth-..."""
    return (
        0 < len(name) <= MAX_NAME and set(name) <= _LETTERS_AND_DIGITS and name[0].isalpha() and not name.endswith("-")
    )


class Metadata(Part):
    """Kubernetes' own metadata, as far as it is read here. The API server owns its schema."""

    model_config = ConfigDict(extra="ignore")

    name: Annotated[str, Field(max_length=253)] = required("Name of the object.")
    namespace: Dns1123Label | None = None
    uid: Annotated[str, Field(max_length=64)] | None = None
    generation: int | None = None
    labels: dict[str, str] | None = None
    annotations: dict[str, str] | None = None


class JobMetadata(Metadata):
    """Metadata of a job. Only a rule at the root may look into metadata, so the CEL starts there."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            field="name",
            cel=f"size(self.metadata.name) <= {MAX_NAME} && self.metadata.name.matches('^[a-z]([-a-z0-9]*[a-z0-9])?$')",
            message=(
                f"a job's name has at most {MAX_NAME} characters: lower-case letters, digits and '-', a letter first "
                "and no '-' last"
            ),
            holds=lambda metadata: _is_job_name(metadata.name),
        ),
    )


class RuntimeRef(Part):
    """Which runtime the job uses."""

    name: Dns1123Subdomain = preset(
        "default", "Name of a PersonalizationRuntime. `default` is the default of the namespace."
    )


class ModelSpec(Part):
    """The base model."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            cel="has(self.uri) != has(self.name)",
            message="give exactly one of uri and name",
            holds=lambda model: (model.uri is None) != (model.name is None),
        ),
        location_rule("uri"),
    )

    uri: Uri | None = setting(
        "A model in diffusers layout, safetensors only: a folder or prefix (s3:// or file:).", absent="none"
    )
    name: Dns1123Label | None = setting("A model of the runtime's catalogue, by name.", absent="none")


class SubjectDefaults(Part):
    """What a runtime may default of a subject."""

    rules: ClassVar[tuple[Rule, ...]] = (
        placeholder_rule(
            "promptTemplate", "prompt_template", placeholder="{identifier}", message=IDENTIFIER_IN_TEMPLATE
        ),
    )

    prompt_template: Template | None = setting(
        "What each photo is trained with. {identifier} and {class} are filled in, literally.",
        builtin="a photo of {identifier} {class}",
        source=SCRIPT,
    )
    crop: Literal["Center", "Random"] | None = setting(
        "Which square of a photo is used: the middle one, or one chosen anew each time.", builtin="Center"
    )
    flip: bool | None = setting("Whether photos are mirrored at random.", builtin=False)


class SubjectSpec(SubjectDefaults):
    """Who or what the model is to learn."""

    rules: ClassVar[tuple[Rule, ...]] = (
        *SubjectDefaults.rules,
        location_rule("images"),
        Rule(
            field="className",
            cel="!self.className.contains('{') && !self.className.matches('^ +$')",
            message="must be a plain noun such as dog",
            holds=lambda subject: "{" not in subject.class_name and subject.class_name.strip(" ") != "",
        ),
        Rule(
            field="identifier",
            cel="!has(self.identifier) || !self.identifier.contains('{')",
            message="must be a word, without braces",
            holds=lambda subject: subject.identifier is None or "{" not in subject.identifier,
        ),
    )

    images: Uri = required(
        "Three to five photos of the subject: a folder, prefix or archive (.zip, .tar, .tar.gz) at s3:// or file:. A "
        "relative file:photos/ is taken from the manifest's folder by `kubooth run`."
    )
    class_name: Annotated[str, Field(min_length=1, max_length=64)] = required(
        "The noun for the subject's kind, such as dog: what the model already knows of it is built upon. Auto takes "
        "the noun that fits the photos best, by the CLIP of the runtime (spec.encoders.clip)."
    )
    identifier: Annotated[str, Field(max_length=64)] | None = setting(
        "The word that will stand for the subject. Best left out.",
        absent="a rare token of the model's own tokenizer is chosen and recorded in the status",
    )
    consent: bool | None = setting(
        "States that every person shown agreed to it. A runtime can require it.", absent="not stated"
    )


class OutputDefaults(Part):
    """What a runtime may default of an output."""

    format: Literal["Diffusers", "SingleFile"] | None = setting(
        "A folder that diffusers loads as it is, or a single safetensors file.", builtin="Diffusers"
    )


class OutputSpec(OutputDefaults):
    """Where the result goes."""

    rules: ClassVar[tuple[Rule, ...]] = (location_rule("uri"),)

    uri: Uri = required("Folder or prefix for model, report and manifest (s3:// or file:).")
    overwrite: bool = preset(False, "Whether another job's result there may be replaced.")


class RunPolicy(Part):
    """How long a job may take and how often it is tried; locally the progress and startup deadlines alone."""

    max_restarts: int | None = setting(
        "Restarts after failures that a retry can mend. Evictions and lost nodes do not count.",
        builtin=3,
        ge=0,
        le=100,
    )
    startup_deadline_seconds: int | None = setting(
        "Within this time all pods must be ready, or the attempt is released and tried again later.",
        builtin=1800,
        unit="seconds",
        ge=10,
        le=604_800,
    )
    active_deadline_seconds: int | None = setting(
        "The job fails after running this long over all attempts.",
        absent="no limit",
        unit="seconds",
        ge=10,
        le=31_536_000,
    )
    progress_deadline_seconds: int | None = setting(
        "An attempt that reports no progress for this long is ended and started again.",
        builtin=1800,
        unit="seconds",
        ge=30,
        le=604_800,
    )
    ttl_seconds_after_finished: int | None = setting(
        "The job object is deleted this long after its end; its output stays.",
        absent="kept",
        unit="seconds",
        ge=0,
        le=31_536_000,
    )


class TrackingName(Part):
    """How the trackers of the runtime know this job."""

    name: Annotated[str, Field(min_length=1, max_length=128, pattern=r"^[A-Za-z0-9][A-Za-z0-9_. -]*$")] | None = (
        setting("Name of the run in TensorBoard, MLflow and Weights & Biases.", absent="namespace and name of the job")
    )


class JobSpec(Part):
    """What is asked for."""

    runtime_ref: RuntimeRef = preset(RuntimeRef(), "The runtime that says which devices, buckets and limits apply.")
    method: Method = preset("DreamBooth", "How the model is personalized.")
    model: ModelSpec = required("The base model.")
    subject: SubjectSpec = required("Who or what the model is to learn.")
    prior: PriorSpec = group(PriorSpec, "Prior preservation: class images beside the photos.")
    training: TrainingSpec = group(TrainingSpec, "Hyper-parameters.")
    parallelism: ParallelismSpec = group(ParallelismSpec, "Devices and how the work is shared.")
    checkpoints: CheckpointsSpec = group(CheckpointsSpec, "How often the state of training is kept.")
    evaluation: EvaluationSpec = group(EvaluationSpec, "Pictures and figures about the result.")
    output: OutputSpec = required("Where the result goes.")
    tracking: TrackingName = group(TrackingName, "What the runtime's trackers show of the job.")
    suspend: bool = preset(
        False, "Stops the job: its state is saved, its pods end, and it goes on when this is false again."
    )
    queue_name: LabelValue | None = setting("Kueue queue for the job's pods.", absent="none")
    priority_class_name: Dns1123Subdomain | None = setting(
        "Priority class of the job's pods.", absent="the cluster's default"
    )
    run_policy: RunPolicy = group(RunPolicy, "Deadlines, restarts and clean-up.")


CHANGEABLE = frozenset({"suspend", "run_policy", "priority_class_name"})
"""Fields of the spec that may change while a job runs."""


class PersonalizationJob(Part):
    """A request to teach a text-to-image model one subject from a few photos."""

    rules: ClassVar[tuple[Rule, ...]] = tuple(
        immutable_once_started(field.alias or name, name)
        for name, field in JobSpec.model_fields.items()
        if name not in CHANGEABLE
    )

    api_version: Literal["kubooth.io/v1alpha1"]
    kind: Literal["PersonalizationJob"]
    metadata: JobMetadata
    spec: JobSpec = required("What is asked for.")
    status: JobStatus | None = Field(
        default=None,
        description="What was observed; written by the operator and, of the training, by the job's first pod.",
    )
