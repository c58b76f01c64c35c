"""The reference knows every field of both kinds, and its built-in values are those that resolution uses."""

from __future__ import annotations

import pytest

from kubooth_operator.api import PersonalizationJob, PersonalizationRuntime, local_runtime
from kubooth_operator.api.fields import Part
from kubooth_operator.api.load import parse
from kubooth_operator.reference import UnknownFieldError, document, find
from kubooth_operator.settle import settle

ROOTS = {kind.__name__: document(kind) for kind in (PersonalizationJob, PersonalizationRuntime)}
FIELDS = [
    (kind, doc.path) for kind, root in ROOTS.items() for child in root.children for doc in child.every() if doc.path
]


def words(text: str) -> set[str]:
    return set(text.split())


@pytest.mark.parametrize("kind", ROOTS)
def test_every_field_is_found_by_its_path_and_says_what_it_means(kind: str) -> None:
    paths = [path for name, path in FIELDS if name == kind]
    assert len(paths) > 80
    for path in paths:
        doc = find(ROOTS[kind], path)
        assert doc.path == path
        assert doc.description.endswith("."), path
        assert doc.type not in {"", "None"}, path


def test_the_fields_of_product_and_decisions_are_there() -> None:
    spec = {path.removeprefix("spec.") for kind, path in FIELDS if kind == "PersonalizationJob"}
    assert spec >= words(
        """
        runtimeRef.name method model.uri model.name subject.images subject.className subject.identifier
        subject.promptTemplate subject.consent prior.enabled prior.images prior.weight prior.prompt
        prior.negativePrompt prior.sampler.name prior.sampler.steps prior.sampler.guidanceScale prior.uri
        training.steps training.learningRate training.trainTextEncoder training.textEncoderLearningRate
        training.resolution training.batchSize training.gradientAccumulation training.precision
        training.gradientCheckpointing training.ema training.snrGamma training.lrSchedule
        training.warmupSteps training.maxGradNorm training.seed training.optimizer training.offsetNoise
        training.zeroTerminalSnr training.compile training.captions parallelism.nodes
        parallelism.devicesPerNode parallelism.zeroStage parallelism.offload checkpoints.everySteps
        checkpoints.keep evaluation.prompts evaluation.promptPack evaluation.imagesPerPrompt
        evaluation.metrics evaluation.gate output.uri output.format output.overwrite suspend queueName
        priorityClassName runPolicy.maxRestarts runPolicy.startupDeadlineSeconds
        runPolicy.activeDeadlineSeconds runPolicy.ttlSecondsAfterFinished runPolicy.progressDeadlineSeconds
        """
    )
    status = {path.removeprefix("status.") for kind, path in FIELDS if kind == "PersonalizationJob"}
    assert status >= words(
        """
        phase conditions observedGeneration identifier stages.state stages.start stages.end stages.done
        stages.total progress.step progress.total progress.percent progress.loss progress.samplesPerSecond
        progress.etaSeconds progress.updatedAt progress.summary progress.eta checkpoint.uri checkpoint.step
        checkpoint.time prior.cacheKey output.uri output.manifestDigest output.bytes report.uri attempts
        deviceSeconds failure.reason failure.message failure.pod failure.exitCode failure.log resolved
        runtimeSnapshot
        """
    )
    runtime = {path.removeprefix("spec.") for kind, path in FIELDS if kind == "PersonalizationRuntime"}
    assert runtime >= words(
        """
        image imagePullSecrets models.name models.uri accelerator.resource accelerator.perNode nodeSelector
        tolerations affinity resources sharedMemory env.name env.value volumes podLabels podAnnotations
        terminationGracePeriodSeconds serviceAccountName storage.endpoint storage.externalEndpoint
        storage.region storage.credentialsSecret priorCache.uri priorCache.trusted modelCache defaults
        limits.nodes limits.devices limits.steps limits.readPrefixes limits.writePrefixes
        limits.priorityClasses limits.requireConsent limits.requiredLabels allowedNamespaces price
        """
    )


def test_built_in_values_in_the_reference_are_those_of_resolution() -> None:
    manifest = {
        "apiVersion": "kubooth.io/v1alpha1",
        "kind": "PersonalizationJob",
        "metadata": {"name": "rex"},
        "spec": {
            "subject": {"className": "dog", "images": "s3://a/"},
            "model": {"uri": "s3://m/"},
            "output": {"uri": "s3://o/"},
        },
    }
    settled = settle(parse(manifest, PersonalizationJob), local_runtime({}))
    values = settled.model_dump(by_alias=True)
    for doc in ROOTS["PersonalizationJob"].children[0].every():
        if doc.facts.builtin is not None:
            here = values
            for name in doc.path.split(".")[1:]:
                here = here[name]
            assert here == doc.facts.builtin, doc.path


UNKNOWN = [
    (
        "near-miss",
        "training.lerningRate",
        "spec.training has no field lerningRate; did you mean spec.training.learningRate?",
    ),
    ("elsewhere", "warmupSteps", "spec has no field warmupSteps; did you mean spec.training.warmupSteps?"),
    ("below-a-value", "training.steps.x", "spec.training.steps has no field x: it is a plain value"),
    ("unlike", "model.zzz", "spec.model has no field zzz; it has: uri, name"),
]


@pytest.mark.parametrize(("path", "message"), [case[1:] for case in UNKNOWN], ids=[case[0] for case in UNKNOWN])
def test_an_unknown_path_names_the_likely_one(path: str, message: str) -> None:
    with pytest.raises(UnknownFieldError) as caught:
        find(ROOTS["PersonalizationJob"], path)
    assert str(caught.value) == message


@pytest.mark.parametrize("kind", [PersonalizationJob, PersonalizationRuntime])
def test_models_have_unique_names(kind: type[Part]) -> None:
    """Definitions are looked up by class name when the schema is made."""
    from kubooth_operator.schema import _models

    by_name: dict[str, type[Part]] = {}
    for model in _models(kind):
        assert by_name.setdefault(model.__name__, model) is model
