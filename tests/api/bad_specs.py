"""Bad jobs and runtimes, each with what is said about it: data that local and cluster tests share.

A case sets fields of a good manifest; `GONE` takes one out. `by` says who finds it out: "schema" (type, bounds, enum:
the API server words these itself), "rule" (CEL: the same words everywhere), or "strict" (unknown fields: kubectl's
strict validation, or our models).
"""

# ruff: noqa: E501 - tables have a case on each line

from __future__ import annotations

import copy
from typing import Any, Literal, NamedTuple

from kubooth_operator.api.rules import NO_CREDENTIALS

GONE: Any = object()

GOOD_JOB: dict[str, Any] = {
    "apiVersion": "kubooth.io/v1alpha1",
    "kind": "PersonalizationJob",
    "metadata": {"name": "rex"},
    "spec": {
        "subject": {"className": "dog", "images": "s3://photos/rex/"},
        "model": {"uri": "s3://models/stable-diffusion-v1-5/"},
        "output": {"uri": "s3://models/personalized/rex/"},
    },
}
GOOD_RUNTIME: dict[str, Any] = {
    "apiVersion": "kubooth.io/v1alpha1",
    "kind": "PersonalizationRuntime",
    "metadata": {"name": "default"},
    "spec": {
        "accelerator": {"perNode": 8},
        "models": [{"name": "sd15", "uri": "s3://models/stable-diffusion-v1-5/"}],
        "limits": {"nodes": 2, "readPrefixes": ["s3://photos/{namespace}/"]},
    },
}


class BadSpec(NamedTuple):
    """One bad manifest and the one error it must give."""

    id: str
    fields: dict[str, Any]
    path: str
    message: str
    by: Literal["schema", "rule", "strict"] = "schema"
    kind: Literal["PersonalizationJob", "PersonalizationRuntime"] = "PersonalizationJob"

    def manifest(self) -> dict[str, Any]:
        return changed(GOOD_JOB if self.kind == "PersonalizationJob" else GOOD_RUNTIME, self.fields)


def changed(manifest: dict[str, Any], fields: dict[str, Any]) -> dict[str, Any]:
    """A copy of a manifest with `spec.training.steps` and the like set, or taken out where the value is GONE."""
    result = copy.deepcopy(manifest)
    for path, value in fields.items():
        *parents, name = path.split(".")
        place = result
        for parent in parents:
            place = place.setdefault(parent, {})
        if value is GONE:
            del place[name]
        else:
            place[name] = value
    return result


def job(**fields: Any) -> dict[str, Any]:
    """The good job with fields below spec set, written as training__steps=50."""
    return changed(GOOD_JOB, {f"spec.{name.replace('__', '.')}": value for name, value in fields.items()})


def runtime(**fields: Any) -> dict[str, Any]:
    """The good runtime with fields below spec set, written as limits__steps=50."""
    return changed(GOOD_RUNTIME, {f"spec.{name.replace('__', '.')}": value for name, value in fields.items()})


LOCATION = "must start with s3:// (a bucket) or file: (a folder of this machine)"
NAME = "a job's name has at most 45 characters: lower-case letters, digits and '-', a letter first and no '-' last"
IDENTIFIER = "must hold {identifier}, or training has no word to bind the subject to"

BAD_JOBS = [
    # names
    BadSpec("name-too-long", {"metadata.name": "r" * 46}, "metadata.name", NAME, "rule"),
    BadSpec("name-starts-with-digit", {"metadata.name": "4dogs"}, "metadata.name", NAME, "rule"),
    BadSpec("name-with-dot", {"metadata.name": "rex.v2"}, "metadata.name", NAME, "rule"),
    BadSpec("name-ends-with-dash", {"metadata.name": "rex-"}, "metadata.name", NAME, "rule"),
    # required
    BadSpec("no-model", {"spec.model": GONE}, "spec.model", "is required"),
    BadSpec("no-subject", {"spec.subject": GONE}, "spec.subject", "is required"),
    BadSpec("no-output", {"spec.output": GONE}, "spec.output", "is required"),
    BadSpec("no-images", {"spec.subject.images": GONE}, "spec.subject.images", "is required"),
    BadSpec("no-class", {"spec.subject.className": GONE}, "spec.subject.className", "is required"),
    BadSpec("no-output-uri", {"spec.output": {}}, "spec.output.uri", "is required"),
    BadSpec("empty-class", {"spec.subject.className": ""}, "spec.subject.className", "should be at least 1 chars long, got ''"),
    # unknown fields
    BadSpec("unknown-group", {"spec.trainig": {"steps": 5}}, "spec.trainig", "is not a known field; did you mean training?", "strict"),
    BadSpec("unknown-leaf", {"spec.training.learningrate": 1e-4}, "spec.training.learningrate", "is not a known field; did you mean learningRate?", "strict"),
    BadSpec("snake-case", {"spec.training.batch_size": 4}, "spec.training.batch_size", "is not a known field; did you mean batchSize?", "strict"),
    BadSpec("misplaced", {"spec.steps": 50}, "spec.steps", "is not a known field; did you mean spec.training.steps?", "strict"),
    BadSpec("unknown-in-sampler", {"spec.prior.sampler.guidance": 7}, "spec.prior.sampler.guidance", "is not a known field; did you mean guidanceScale?", "strict"),
    # types
    BadSpec("steps-as-text", {"spec.training.steps": "800"}, "spec.training.steps", "must be a whole number, got '800'"),
    BadSpec("steps-with-fraction", {"spec.training.steps": 0.5}, "spec.training.steps", "must be a whole number, got 0.5"),
    BadSpec("steps-as-boolean", {"spec.training.steps": True}, "spec.training.steps", "must be a whole number, got true"),
    BadSpec("rate-as-text", {"spec.training.learningRate": "5e-6"}, "spec.training.learningRate", "must be a number, got '5e-6'"),
    BadSpec("flag-as-text", {"spec.prior.enabled": "yes"}, "spec.prior.enabled", "must be true or false, got 'yes'"),
    BadSpec("flag-as-number", {"spec.subject.flip": 1}, "spec.subject.flip", "must be true or false, got 1"),
    BadSpec("class-as-number", {"spec.subject.className": 7}, "spec.subject.className", "must be text, got 7: put it in quotes"),
    BadSpec("class-as-boolean", {"spec.subject.className": False}, "spec.subject.className", "must be text, got false: put it in quotes"),
    BadSpec("images-as-list", {"spec.subject.images": ["a.jpg"]}, "spec.subject.images", "must be text, got a list of 1"),
    BadSpec("training-as-text", {"spec.training": "fast"}, "spec.training", "must be a group of fields, got 'fast'"),
    BadSpec("prompts-as-text", {"spec.evaluation.prompts": "a {class}"}, "spec.evaluation.prompts", "must be a list, got 'a {class}'"),
    BadSpec("prompt-as-number", {"spec.evaluation.prompts": ["a {class}", 3]}, "spec.evaluation.prompts[1]", "must be text, got 3: put it in quotes"),
    # bounds
    BadSpec("no-steps", {"spec.training.steps": 0}, "spec.training.steps", "should be greater than or equal to 1, got 0"),
    BadSpec("too-many-steps", {"spec.training.steps": 1_000_001}, "spec.training.steps", "should be less than or equal to 1000000, got 1000001"),
    BadSpec("rate-zero", {"spec.training.learningRate": 0}, "spec.training.learningRate", "should be greater than 0, got 0"),
    BadSpec("rate-negative", {"spec.training.learningRate": -1e-6}, "spec.training.learningRate", "should be greater than 0, got -1e-6"),
    BadSpec("beta-one", {"spec.training.adamBeta1": 1}, "spec.training.adamBeta1", "should be less than 1, got 1"),
    BadSpec("odd-resolution", {"spec.training.resolution": 510}, "spec.training.resolution", "should be a multiple of 8, got 510"),
    BadSpec("huge-seed", {"spec.training.seed": 2**32}, "spec.training.seed", "should be less than or equal to 4294967295, got 4294967296"),
    BadSpec("negative-weight", {"spec.prior.weight": -1}, "spec.prior.weight", "should be greater than or equal to 0, got -1"),
    BadSpec("no-nodes", {"spec.parallelism.nodes": 0}, "spec.parallelism.nodes", "should be greater than or equal to 1, got 0"),
    BadSpec("long-class", {"spec.subject.className": "d" * 65}, "spec.subject.className", "must have at most 64 characters, got 65"),
    BadSpec("too-many-prompts", {"spec.evaluation.prompts": ["a {class}"] * 65}, "spec.evaluation.prompts", "must have at most 64 items, got 65"),
    BadSpec("no-prompts", {"spec.evaluation.prompts": []}, "spec.evaluation.prompts", "should have at least 1 items"),
    BadSpec("restarts", {"spec.runPolicy.maxRestarts": 101}, "spec.runPolicy.maxRestarts", "should be less than or equal to 100, got 101"),
    # choices
    BadSpec("precision-case", {"spec.training.precision": "bf16"}, "spec.training.precision", "must be one of Auto, FP32, BF16 (did you mean BF16?), got 'bf16'"),
    BadSpec("method", {"spec.method": "Dreambooth"}, "spec.method", "must be one of DreamBooth, LoRA, TextualInversion, E4T (did you mean DreamBooth?), got 'Dreambooth'"),
    BadSpec("sampler", {"spec.prior.sampler.name": "Heun"}, "spec.prior.sampler.name", "must be one of EulerAncestral, DDIM, DPMSolverMultistep, Euler, DDPM, got 'Heun'"),
    BadSpec("crop", {"spec.subject.crop": "center"}, "spec.subject.crop", "must be one of Center, Random (did you mean Center?), got 'center'"),
    BadSpec("zero-stage", {"spec.parallelism.zeroStage": 4}, "spec.parallelism.zeroStage", "must be one of Auto, 0, 1, 2, 3, got 4"),
    BadSpec("zero-stage-text", {"spec.parallelism.zeroStage": "2"}, "spec.parallelism.zeroStage", "must be one of Auto, 0, 1, 2, 3 (did you mean 2?), got '2'"),
    BadSpec("accumulation", {"spec.training.gradientAccumulation": 0}, "spec.training.gradientAccumulation", "must be a whole number from 1 to 4096, or Auto, got 0"),
    BadSpec("accumulation-word", {"spec.training.gradientAccumulation": "auto"}, "spec.training.gradientAccumulation", "must be a whole number from 1 to 4096, or Auto, got 'auto'"),
    BadSpec("metric", {"spec.evaluation.metrics": ["FID"]}, "spec.evaluation.metrics[0]", "must be one of Dino, ClipI, ClipT, Pres, Div, got 'FID'"),
    # rules
    BadSpec("two-models", {"spec.model.name": "sd15"}, "spec.model", "give exactly one of uri and name", "rule"),
    BadSpec("neither-model", {"spec.model": {}}, "spec.model", "give exactly one of uri and name", "rule"),
    BadSpec("http-images", {"spec.subject.images": "http://x/rex.zip"}, "spec.subject.images", LOCATION, "rule"),
    BadSpec("plain-path", {"spec.output.uri": "outputs/rex"}, "spec.output.uri", LOCATION, "rule"),
    BadSpec("model-hub-name", {"spec.model.uri": "runwayml/stable-diffusion-v1-5"}, "spec.model.uri", LOCATION, "rule"),
    BadSpec("prior-location", {"spec.prior.uri": "gs://x/y"}, "spec.prior.uri", LOCATION, "rule"),
    BadSpec("no-identifier", {"spec.subject.promptTemplate": "a photo of a {class}"}, "spec.subject.promptTemplate", IDENTIFIER, "rule"),
    BadSpec("braces-in-identifier", {"spec.subject.identifier": "{identifier}"}, "spec.subject.identifier", "must be a word, without braces", "rule"),
    BadSpec("braces-in-class", {"spec.subject.className": "{class}"}, "spec.subject.className", "must be a plain noun such as dog", "rule"),
    BadSpec("blank-class", {"spec.subject.className": "  "}, "spec.subject.className", "must be a plain noun such as dog", "rule"),
    BadSpec("identifier-in-prior", {"spec.prior.prompt": "a {identifier} {class}"}, "spec.prior.prompt", "must not hold {identifier}: class images show the class, not the subject", "rule"),
    BadSpec("indivisible", {"spec.training.batchSize": 6, "spec.training.gradientAccumulation": 4}, "spec.training.batchSize", "must be divisible by gradientAccumulation", "rule"),
    BadSpec("long-warm-up", {"spec.training.steps": 50, "spec.training.warmupSteps": 51}, "spec.training.warmupSteps", "must not be more than steps", "rule"),
    BadSpec("decay-alone", {"spec.training.ema.decay": 0.99}, "spec.training.ema", "decay is given without enabled: say enabled: true (or false) beside it", "rule"),
    BadSpec("prompts-and-pack", {"spec.evaluation.prompts": ["a {class}"], "spec.evaluation.promptPack": "Art"}, "spec.evaluation", "give prompts or promptPack, not both", "rule"),
    BadSpec("prompt-without-words", {"spec.evaluation.prompts": ["a {class}", "a dog"]}, "spec.evaluation.prompts", "every prompt must hold {identifier} or {class}", "rule"),
    BadSpec("best-without-identifier", {"spec.evaluation.bestCheckpoint.prompts": ["a {class}"]}, "spec.evaluation.bestCheckpoint.prompts", "one prompt at least must hold {identifier}", "rule"),
    BadSpec("best-without-words", {"spec.evaluation.bestCheckpoint.prompts": ["a {identifier}", "a dog"]}, "spec.evaluation.bestCheckpoint.prompts", "every prompt must hold {identifier} or {class}", "rule"),
]  # fmt: skip

RUNTIME: Literal["PersonalizationRuntime"] = "PersonalizationRuntime"

BAD_RUNTIMES = [
    BadSpec("no-devices", {"spec.accelerator": {}}, "spec.accelerator.perNode", "is required", "schema", RUNTIME),
    BadSpec("per-node", {"spec.accelerator.perNode": 0}, "spec.accelerator.perNode", "should be greater than or equal to 1, got 0", "schema", RUNTIME),
    BadSpec("quantity", {"spec.sharedMemory": "8 GB"}, "spec.sharedMemory", "must be a quantity such as 8Gi, 500m or 4, got '8 GB'", "schema", RUNTIME),
    BadSpec("memory", {"spec.resources": {"limits": {"memory": "lots"}}}, "spec.resources.limits.memory", "must be a quantity such as 8Gi, 500m or 4, got 'lots'", "schema", RUNTIME),
    BadSpec("default-steps", {"spec.defaults": {"training": {"steps": 0}}}, "spec.defaults.training.steps", "should be greater than or equal to 1, got 0", "schema", RUNTIME),
    BadSpec("default-model", {"spec.defaults": {"model": {"name": "sd15"}}}, "spec.defaults.model", "is not a known field; known here: subject, prior, training, parallelism, checkpoints, evaluation, output, queueName, priorityClassName, runPolicy", "strict", RUNTIME),
    BadSpec("near-miss", {"spec.acelerator": {"perNode": 1}}, "spec.acelerator", "is not a known field; did you mean accelerator?", "strict", RUNTIME),
    BadSpec("endpoint", {"spec.storage": {"endpoint": "minio:9000"}}, "spec.storage.endpoint", NO_CREDENTIALS, "rule", RUNTIME),
    BadSpec("external-endpoint", {"spec.storage": {"externalEndpoint": "s3://x"}}, "spec.storage.externalEndpoint", NO_CREDENTIALS, "rule", RUNTIME),
    BadSpec("endpoint-password", {"spec.storage": {"endpoint": "https://key:secret@minio:9000"}}, "spec.storage.endpoint", NO_CREDENTIALS, "rule", RUNTIME),
    BadSpec("read-prefix", {"spec.limits": {"readPrefixes": ["s3://a/", "photos/"]}}, "spec.limits.readPrefixes", "every prefix must start with s3:// or file:///", "rule", RUNTIME),
    BadSpec("write-prefix", {"spec.limits": {"writePrefixes": ["file:x"]}}, "spec.limits.writePrefixes", "every prefix must start with s3:// or file:///", "rule", RUNTIME),
    BadSpec("same-model-twice", {"spec.models": [{"name": "a", "uri": "s3://x/"}, {"name": "a", "uri": "s3://y/"}]}, "spec.models", "every model must have a name of its own", "rule", RUNTIME),
    BadSpec("model-location", {"spec.models": [{"name": "a", "uri": "https://x/"}]}, "spec.models[0].uri", LOCATION, "rule", RUNTIME),
    BadSpec("cache-location", {"spec.priorCache": {"uri": "cache/"}}, "spec.priorCache.uri", LOCATION, "rule", RUNTIME),
    BadSpec("mlflow-address", {"spec.tracking": {"mlflow": {"uri": "mlflow:5000"}}}, "spec.tracking.mlflow.uri", NO_CREDENTIALS, "rule", RUNTIME),
    BadSpec("wandb-password", {"spec.tracking": {"wandb": {"project": "pets", "url": "https://a:b@wandb"}}}, "spec.tracking.wandb.url", NO_CREDENTIALS, "rule", RUNTIME),
    BadSpec("model-cache", {"spec.modelCache": {"hostPath": "/models", "claimName": "models"}}, "spec.modelCache", "give exactly one of hostPath and claimName", "rule", RUNTIME),
    BadSpec("default-template", {"spec.defaults": {"subject": {"promptTemplate": "a {class}"}}}, "spec.defaults.subject.promptTemplate", IDENTIFIER, "rule", RUNTIME),
    BadSpec("currency", {"spec.price": {"perDeviceHour": 2.5, "currency": "eur"}}, "spec.price.currency", "should match '^[A-Z]{3}$', got 'eur'", "schema", RUNTIME),
]  # fmt: skip
