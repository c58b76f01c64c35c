"""From a job and its runtime to the trainer's whole configuration. Pure; called by `kubooth run` and the operator.

The values are settled first (`settle`). Then the runtime's limits are held against the result, and everything that is
wrong is said at once.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from kubooth_operator.api.job import JobSpec, PersonalizationJob
from kubooth_operator.api.problems import FieldError, Refusal, SpecError, closest
from kubooth_operator.api.prompt_packs import CLASS_PROMPT, prompts_of
from kubooth_operator.api.runtime import PersonalizationRuntime
from kubooth_operator.api.scalars import bytes_of
from kubooth_operator.limits import beyond_limits
from kubooth_operator.locations import LocationError, absolute, is_under_any
from kubooth_operator.settle import settle
from kubooth_operator.supported import unsupported
from kubooth_trainer.config import CONFIG_VERSION, ENCODER_OF, GateConfig, Metric, TrainConfig

SHARED_PRIORS = "shared"  # part of a trusted cache; beside it, namespaces/NAME


@dataclass(frozen=True, kw_only=True)
class Target:
    """Where and how a resolved job will run."""

    workdir: str  # scratch folder on the training machine
    checkpoints_uri: str
    base_uri: str | None  # folder of the manifest as file:///..., from which a relative file: is taken
    devices: int | None  # local: number of ranks, in place of spec.parallelism
    output: str | None  # in place of spec.output.uri
    attempt: int
    namespace: str
    prior_cache: str | None = None  # URI of the cache of class images where the runtime names none
    model_cache: str | None = None  # where the runtime's cache of models is mounted
    judge_labels: bool = True  # False once a job has started: labels are no part of its spec


def resolve(job: PersonalizationJob, runtime: PersonalizationRuntime, target: Target) -> TrainConfig:
    """The configuration of one attempt. Raises SpecError with all that is wrong, each with its field's path."""
    spec = settle(job, runtime)
    return _Resolution(job, spec, runtime, target).config()


class _Resolution:
    """One resolution: gathers what is wrong, then builds the config."""

    def __init__(self, job: PersonalizationJob, spec: JobSpec, runtime: PersonalizationRuntime, target: Target) -> None:
        self.job, self.spec, self.runtime, self.target = job, spec, runtime, target
        self.limits = runtime.spec.limits
        self.errors: list[FieldError] = unsupported(spec)
        self.nodes = 1 if target.devices else spec.parallelism.nodes or 1
        self.devices_per_node = target.devices or spec.parallelism.devices_per_node or 1

    def config(self) -> TrainConfig:
        self.errors += beyond_limits(
            self.spec,
            self.runtime,
            namespace=self.target.namespace,
            nodes=self.nodes,
            devices_per_node=self.devices_per_node,
            labels=(self.job.metadata.labels or {}) if self.target.judge_labels else None,
        )
        self._check_class()
        self._check_division()
        self._check_optimizer()
        spec, target = self.spec, self.target
        images = self._location("spec.subject.images", spec.subject.images, reads=True)
        model = self._model()
        evaluation = self._evaluation()
        prior_uri = spec.prior.uri and self._location("spec.prior.uri", spec.prior.uri, reads=True)
        output = self._location("spec.output.uri", target.output or spec.output.uri, reads=False)
        prior_cache = self._prior_cache()
        if self.errors:
            raise SpecError(self.errors)
        training = spec.training.model_dump()
        ema = training.pop("ema")
        return TrainConfig.model_validate(
            {
                "config_version": CONFIG_VERSION,
                "job": {
                    "name": self.job.metadata.name,
                    "namespace": target.namespace,
                    "uid": self.job.metadata.uid,
                    "attempt": target.attempt,
                },
                "method": spec.method,
                "model": {"uri": model, "name": spec.model.name},
                "subject": {
                    **spec.subject.model_dump(exclude={"consent"}),
                    "images": images,
                    "identifier": spec.subject.identifier or None,
                },
                "prior": {**spec.prior.model_dump(), "uri": prior_uri, "cache": prior_cache},
                "training": {
                    **training,
                    "ema": {"decay": ema["decay"]} if ema["enabled"] else None,
                    "snr_gamma": spec.training.snr_gamma or None,
                },
                "parallelism": {
                    **spec.parallelism.model_dump(),
                    "nodes": self.nodes,
                    "devices_per_node": self.devices_per_node,
                },
                "checkpoints": {**spec.checkpoints.model_dump(), "uri": target.checkpoints_uri},
                "evaluation": evaluation,
                "output": {**spec.output.model_dump(), "uri": output},
                "storage": self.runtime.spec.storage.model_dump(include={"endpoint", "region"}),
                "tracking": self._tracking(),
                "deadlines": {
                    "stall_seconds": spec.run_policy.progress_deadline_seconds,
                    "rendezvous_seconds": spec.run_policy.startup_deadline_seconds,
                },
                "model_cache": self._model_cache(),
                "workdir": target.workdir,
            }
        )

    def _fail(self, path: str, message: str, refusal: Refusal = "InvalidSpec") -> None:
        self.errors.append(FieldError(path, message, refusal))

    @property
    def _runtime_name(self) -> str:
        return f"runtime {self.runtime.metadata.name}"

    def _check_class(self) -> None:
        if self.spec.subject.class_name == "Auto" and self.runtime.spec.encoders.clip is None:
            message = (
                f"Auto needs a CLIP, and {self._runtime_name} names no spec.encoders.clip: name the class, such as dog"
            )
            self._fail("spec.subject.className", message, "UnsupportedFeature")

    def _check_division(self) -> None:
        devices = self.nodes * self.devices_per_node
        batch, accumulation = self.spec.training.batch_size or 1, self.spec.training.gradient_accumulation
        parts = devices * (accumulation if isinstance(accumulation, int) else 1)
        if batch % parts:
            times = f" x gradientAccumulation {accumulation} = {parts}" if parts != devices else ""
            self._fail(
                "spec.training.batchSize",
                f"{batch} cannot be shared out evenly over {devices} "
                f"{'device' if devices == 1 else 'devices'}{times}: use a multiple of {parts}",
            )

    def _check_optimizer(self) -> None:
        if self.spec.training.optimizer == "AdamW8bit" and self.spec.parallelism.offload == "Optimizer":
            self._fail(
                "spec.training.optimizer",
                "AdamW8bit cannot be had with parallelism.offload: Optimizer, which leaves no moments on the device: "
                "use AdamW, or no offload",
                "UnsupportedFeature",
            )

    def _model(self) -> str:
        model = self.spec.model
        if model.uri is not None:
            return self._location("spec.model.uri", model.uri, reads=True)
        catalogue = {each.name: each.uri for each in self.runtime.spec.models or ()}
        if model.name in catalogue:
            return catalogue[model.name]
        close = closest(model.name or "", list(catalogue))
        known = ", ".join(sorted(catalogue, key=lambda name: (name != close, name))) or "none"
        hint = f" (did you mean {close}?)" if close else ""
        self._fail(
            "spec.model.name", f"{self._runtime_name} has no model {model.name}{hint}; known: {known}", "ModelNotFound"
        )
        return ""

    def _prior_cache(self) -> str | None:
        """The job's part of the runtime's cache: its namespace's own, unless the runtime trusts all who write there."""
        cache = self.runtime.spec.prior_cache
        if cache is None:
            return self.target.prior_cache
        part = SHARED_PRIORS if cache.trusted else f"namespaces/{self.target.namespace}"
        try:
            return f"{absolute(cache.uri, None).rstrip('/')}/{part}/"
        except LocationError as error:
            self._fail("spec.runtimeRef.name", f"priorCache.uri of {self._runtime_name} {error}")
            return None

    def _model_cache(self) -> dict[str, Any] | None:
        """None also on a person's own machine where the runtime names a claim, which only a cluster has."""
        cache = self.runtime.spec.model_cache
        path = cache and (self.target.model_cache or cache.host_path)
        return {"path": path, "max_bytes": bytes_of(cache.max_size)} if cache and path else None

    def _tracking(self) -> dict[str, Any]:
        """The runtime's trackers under the job's name; what holds credentials stays out."""
        return {
            "name": self.spec.tracking.name or f"{self.target.namespace}/{self.job.metadata.name}",
            **self.runtime.spec.tracking.model_dump(exclude={"credentials_secret"}),
        }

    def _evaluation(self) -> dict[str, Any]:
        """Prompts in full, what is to be measured with which encoders, and the gate, if it has a threshold."""
        asked = self.spec.evaluation
        encoders = self.runtime.spec.encoders.model_dump(exclude_none=True)
        gate = GateConfig.model_validate(asked.gate.model_dump())
        measurable = tuple(metric for metric, role in ENCODER_OF.items() if role in encoders)
        for metric in asked.metrics or ():
            if metric not in measurable:
                self._lacks_encoder("spec.evaluation.metrics", metric)
        for threshold, metric in (("identityGain", "Dino"), ("maxClassDrift", "Pres"), ("minPromptFidelity", "ClipT")):
            if metric in gate.metrics and metric not in measurable:
                self._lacks_encoder(f"spec.evaluation.gate.{threshold}", metric)
        chosen = measurable if asked.metrics is None else asked.metrics
        metrics = [metric for metric in ENCODER_OF if metric in chosen or metric in gate.metrics]
        prompts = prompts_of(asked.prompt_pack) if asked.prompt_pack else asked.prompts or ()
        if "Pres" in metrics and all("{identifier}" in prompt for prompt in prompts):
            prompts = (*prompts, CLASS_PROMPT)
        return {
            **asked.model_dump(include={"images_per_prompt", "sampler"}),
            "prompts": prompts,
            "metrics": metrics,
            "encoders": encoders,
            "gate": gate if gate.metrics else None,
            "best_checkpoint": self._best_checkpoint(measurable),
        }

    def _best_checkpoint(self, measurable: tuple[Metric, ...]) -> dict[str, Any] | None:
        asked, steps = self.spec.evaluation.best_checkpoint, self.spec.training.steps or 0
        path = "spec.evaluation.bestCheckpoint.everySteps"
        if asked.every_steps is None:
            return None
        if asked.every_steps >= steps:
            self._fail(path, f"must be less than training.steps, {steps}: there would be nothing to choose from")
        if "Dino" not in measurable:
            self._lacks_encoder(path, "Dino")
        template = self.spec.subject.prompt_template or ""
        prompts = asked.prompts or (template, f"{template} in the snow")
        return {
            **asked.model_dump(),
            "prompts": prompts if any("{identifier}" not in each for each in prompts) else (*prompts, CLASS_PROMPT),
        }

    def _lacks_encoder(self, path: str, metric: Metric) -> None:
        needed = f"spec.encoders.{ENCODER_OF[metric]}"
        message = (
            f"{metric} cannot be measured: {self._runtime_name} names no {needed}; set it there, or leave this out"
        )
        self._fail(path, message, "UnsupportedFeature")

    def _location(self, path: str, uri: str, *, reads: bool) -> str:
        prefixes = self.limits.read_prefixes if reads else self.limits.write_prefixes
        try:
            location = absolute(uri, self.target.base_uri)
        except LocationError as error:
            self._fail(path, str(error))
            return ""
        if not is_under_any(location, prefixes, namespace=self.target.namespace):
            allowed = ", ".join(each.replace("{namespace}", self.target.namespace) for each in prefixes) or "nowhere"
            verb = "read from" if reads else "write to"
            message = f"{self._runtime_name} lets jobs {verb} {allowed} only, got {location}"
            self._fail(path, message, "LocationNotAllowed")
        return location
