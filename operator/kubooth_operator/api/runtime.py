"""`PersonalizationRuntime`: what a platform team writes once. Which devices, buckets, models and limits apply."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from kubooth_operator.api.evaluation import EvaluationSpec
from kubooth_operator.api.fields import Part, group, preset, required, setting
from kubooth_operator.api.job import (
    Metadata,
    OutputDefaults,
    RunPolicy,
    SubjectDefaults,
)
from kubooth_operator.api.limits import LimitsSpec
from kubooth_operator.api.prior import PriorSpec
from kubooth_operator.api.rules import Rule, location_rule, server_rule
from kubooth_operator.api.scalars import (
    Dns1123Label,
    Dns1123Subdomain,
    LabelValue,
    QualifiedName,
    Quantity,
    Sentence,
    Uri,
)
from kubooth_operator.api.tracking import TrackingSpec
from kubooth_operator.api.training import CheckpointsSpec, ParallelismSpec, TrainingSpec

LabelMap = Annotated[dict[str, LabelValue], Field(max_length=64)]
QuantityMap = Annotated[dict[str, Quantity], Field(max_length=32)]
MountPath = Annotated[str, Field(min_length=1, max_length=512, pattern=r"^/[^:]*$")]
Url = Annotated[str, Field(min_length=1, max_length=512)]


class CatalogueModel(Part):
    """A base model that jobs may name."""

    rules: ClassVar[tuple[Rule, ...]] = (location_rule("uri"),)

    name: Dns1123Label = required("The name that jobs use.")
    uri: Uri = required("A model in diffusers layout, safetensors only. Read prefixes do not apply to it.")
    description: Sentence = preset("", "What the model is good for, and its licence.")


class AcceleratorSpec(Part):
    """The devices of a node."""

    resource: QualifiedName = preset("nvidia.com/gpu", "Resource name that pods ask for.")
    per_node: int = required("Devices that one node has.", unit="devices", ge=1, le=64)


class SecretRef(Part):
    """A Secret, by name."""

    name: Dns1123Subdomain = required("Name of the Secret in the job's namespace.")


class Toleration(Part):
    """A Kubernetes toleration."""

    key: QualifiedName | None = setting("Taint that is tolerated.", absent="every taint")
    operator: Literal["Exists", "Equal"] | None = setting("How the value is compared.", absent="Equal")
    value: LabelValue | None = setting("Value of the taint.", absent="none")
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] | None = setting(
        "Effect that is tolerated.", absent="every effect"
    )
    toleration_seconds: int | None = setting(
        "How long a NoExecute taint is tolerated.", absent="for ever", unit="seconds", ge=0, le=31_536_000
    )


class ResourcesSpec(Part):
    """CPU, memory and other resources of a pod, beside its devices."""

    requests: QuantityMap | None = setting("Reserved for the pod.", absent="none")
    limits: QuantityMap | None = setting("Most that the pod may use.", absent="none")


class EnvVar(Part):
    """An environment variable of the trainer, such as a setting of NCCL. Never a secret: it is shown in the pod."""

    name: Annotated[str, Field(min_length=1, max_length=128, pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")] = required(
        "Name of the variable."
    )
    value: Annotated[str, Field(max_length=4096)] = required("Its value.")


class VolumeSpec(Part):
    """An extra volume of the pods."""

    name: Dns1123Label = required("Name of the volume.")
    mount_path: MountPath = required("Where it is mounted.")
    read_only: bool = preset(True, "Whether pods may only read it.")
    source: dict[str, Any] = required("A Kubernetes volume source, such as persistentVolumeClaim: {claimName: data}.")


class EncodersSpec(Part):
    """The networks that results are measured with: folders in Hugging Face layout, safetensors only."""

    rules: ClassVar[tuple[Rule, ...]] = (location_rule("dino"), location_rule("clip"), location_rule("lpips"))

    dino: Uri | None = setting("A ViT trained by DINO (the papers: ViT-S/16), for Dino and Pres.", absent="none")
    clip: Uri | None = setting("A CLIP with its tokenizer (usual: ViT-B/32), for ClipI and ClipT.", absent="none")
    lpips: Uri | None = setting(
        'LPIPS on AlexNet, for Div: its state dict as model.safetensors, and config.json with model_type "lpips".',
        absent="none",
    )


class StorageSpec(Part):
    """The object store, and how pods get credentials for it."""

    rules: ClassVar[tuple[Rule, ...]] = (
        server_rule("endpoint"),
        server_rule("externalEndpoint", "external_endpoint"),
        location_rule("inbox"),
    )

    endpoint: Url | None = setting("S3 endpoint that pods use.", absent="that of AWS")
    external_endpoint: Url | None = setting(
        "The same store as people outside the cluster reach it.", same_as="endpoint"
    )
    region: LabelValue | None = setting("Region of the buckets.", absent="found by the client")
    credentials_secret: Dns1123Subdomain | None = setting(
        "Secret in the job's namespace with AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY.",
        absent="none: the identity of the ServiceAccount is used",
    )
    inbox: Uri | None = setting(
        "Prefix below which kubooth submit puts photos, with the caller's own credentials; {namespace} is the job's "
        "namespace.",
        absent="none: kubooth submit has to be told",
    )
    instance_identity: bool = preset(False, "Whether pods may use the identity of their node (instance metadata).")


class PriorCacheSpec(Part):
    """Where class images are kept for other jobs with the same prior."""

    rules: ClassVar[tuple[Rule, ...]] = (location_rule("uri"),)

    uri: Uri = required("Prefix of the cache. Each namespace has a part of its own, namespaces/NAME.")
    trusted: bool = preset(False, "Whether namespaces share one part, shared. Digests catch corruption, not malice.")


class ModelCacheSpec(Part):
    """Where base models are kept near the pods, so that a restart does not download them again."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            cel="has(self.hostPath) != has(self.claimName)",
            message="give exactly one of hostPath and claimName",
            holds=lambda cache: (cache.host_path is None) != (cache.claim_name is None),
        ),
    )

    host_path: MountPath | None = setting("A directory of the node, which UID 1000 may write to.", absent="none")
    claim_name: Dns1123Subdomain | None = setting("A PersistentVolumeClaim in the job's namespace.", absent="none")
    max_size: Quantity = preset("200Gi", "Most that is kept; the models that were unused longest make room.")


class PriceSpec(Part):
    """What a device costs, for the figures in a job's status."""

    per_device_hour: float = required("Price of one device for one hour.", ge=0, le=1e6)
    currency: Annotated[str, Field(min_length=3, max_length=3, pattern=r"^[A-Z]{3}$")] = preset(
        "USD", "Currency, as in ISO 4217."
    )


class JobDefaults(Part):
    """Values for jobs that do not choose: a job's own value goes first, the built-in one last."""

    subject: SubjectDefaults = group(SubjectDefaults, "Defaults for spec.subject.")
    prior: PriorSpec = group(PriorSpec, "Defaults for spec.prior.")
    training: TrainingSpec = group(TrainingSpec, "Defaults for spec.training.")
    parallelism: ParallelismSpec = group(ParallelismSpec, "Defaults for spec.parallelism.")
    checkpoints: CheckpointsSpec = group(CheckpointsSpec, "Defaults for spec.checkpoints.")
    evaluation: EvaluationSpec = group(EvaluationSpec, "Defaults for spec.evaluation.")
    output: OutputDefaults = group(OutputDefaults, "Defaults for spec.output.")
    queue_name: LabelValue | None = setting("Default for spec.queueName.", absent="none")
    priority_class_name: Dns1123Subdomain | None = setting("Default for spec.priorityClassName.", absent="none")
    run_policy: RunPolicy = group(RunPolicy, "Defaults for spec.runPolicy.")


class RuntimeSpec(Part):
    """How and within which limits jobs run."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            field="models",
            cel="!has(self.models) || self.models.all(m, self.models.exists_one(n, n.name == m.name))",
            message="every model must have a name of its own",
            holds=lambda spec: len({model.name for model in spec.models or ()}) == len(spec.models or ()),
        ),
    )

    image: Annotated[str, Field(min_length=1, max_length=512)] | None = setting(
        "Trainer image.", absent="the trainer image of the operator's own release"
    )
    image_pull_secrets: Annotated[tuple[SecretRef, ...], Field(max_length=16)] | None = setting(
        "Secrets for pulling the image.", absent="none"
    )
    models: Annotated[tuple[CatalogueModel, ...], Field(max_length=100)] | None = setting(
        "Catalogue of base models that jobs may name.", absent="none"
    )
    encoders: EncodersSpec = group(
        EncodersSpec, "What figures about results are measured with. Read prefixes do not apply to it."
    )
    accelerator: AcceleratorSpec | None = setting("The devices of a node.", absent="none: training runs on CPUs")
    node_selector: LabelMap | None = setting("Labels of the nodes that may be used.", absent="any node")
    tolerations: Annotated[tuple[Toleration, ...], Field(max_length=32)] | None = setting(
        "Taints that pods tolerate.", absent="none"
    )
    affinity: dict[str, Any] | None = setting("Kubernetes affinity of the pods.", absent="none")
    resources: ResourcesSpec = group(ResourcesSpec, "CPU and memory of a pod.")
    shared_memory: Quantity | None = setting("Size of /dev/shm.", builtin="8Gi")
    env: Annotated[tuple[EnvVar, ...], Field(max_length=100)] | None = setting(
        "Environment of the trainer, such as settings of NCCL and RDMA.", absent="none"
    )
    volumes: Annotated[tuple[VolumeSpec, ...], Field(max_length=32)] | None = setting(
        "Extra volumes of the pods.", absent="none"
    )
    pod_labels: LabelMap | None = setting(
        "Extra labels of the pods. Without `sidecar.istio.io/inject` Istio adds no sidecar to them.", absent="none"
    )
    pod_annotations: Annotated[dict[str, Annotated[str, Field(max_length=4096)]], Field(max_length=64)] | None = (
        setting(
            "Extra annotations of the pods. Without `linkerd.io/inject` Linkerd adds no sidecar to them.", absent="none"
        )
    )
    termination_grace_period_seconds: int = preset(
        300, "Time that a pod has to save its state when it is stopped.", unit="seconds", ge=1, le=86_400
    )
    service_account_name: Dns1123Subdomain | None = setting(
        "An existing ServiceAccount in the job's namespace, for cloud identity.", absent="one is made for each job"
    )
    storage: StorageSpec = group(StorageSpec, "The object store, and how pods get credentials for it.")
    prior_cache: PriorCacheSpec | None = setting("Cache of class images, shared by jobs.", absent="none")
    model_cache: ModelCacheSpec | None = setting("Cache of base models near the pods.", absent="none")
    tracking: TrackingSpec = group(TrackingSpec, "Trackers of experiments that are told of every training.")
    defaults: JobDefaults = group(JobDefaults, "Values for jobs that do not choose.")
    limits: LimitsSpec = group(LimitsSpec, "What jobs may ask for.")
    allowed_namespaces: Annotated[tuple[Dns1123Label, ...], Field(max_length=256)] | None = setting(
        "Namespaces whose jobs may use this runtime.", absent="every namespace"
    )
    default_for_namespaces: Annotated[tuple[Dns1123Label, ...], Field(max_length=256)] | None = setting(
        "Namespaces whose jobs use this runtime where they name none, or `default`. Of several, the oldest counts.",
        absent="none: their jobs use the runtime `default`",
    )
    price: PriceSpec | None = setting("What a device costs.", absent="not known")


class PersonalizationRuntime(Part):
    """Devices, models, storage, defaults and limits for personalization jobs; written by the platform team."""

    api_version: Literal["kubooth.io/v1alpha1"]
    kind: Literal["PersonalizationRuntime"]
    metadata: Metadata
    spec: RuntimeSpec = required("How and within which limits jobs run.")
