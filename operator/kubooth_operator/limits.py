"""What a runtime allows its jobs: namespaces, consent, priority classes, labels, sizes. Pure; called by `resolve`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from kubooth_operator.api.job import JobSpec
from kubooth_operator.api.problems import FieldError
from kubooth_operator.api.runtime import PersonalizationRuntime


def beyond_limits(
    spec: JobSpec,
    runtime: PersonalizationRuntime,
    *,
    namespace: str,
    nodes: int,
    devices_per_node: int,
    labels: Mapping[str, str] | None,
) -> Iterator[FieldError]:
    """Everything in which a settled job goes beyond what its runtime allows. `labels` of None are not judged."""
    name, limits = f"runtime {runtime.metadata.name}", runtime.spec.limits
    allowed = runtime.spec.allowed_namespaces
    if allowed is not None and namespace not in allowed:
        message = f"{name} does not serve namespace {namespace}"
        yield FieldError("spec.runtimeRef.name", message, "NamespaceNotAllowed")
    if limits.require_consent and spec.subject.consent is not True:
        message = f"must be true: {name} requires a statement that every person shown agreed"
        yield FieldError("spec.subject.consent", message, "ConsentRequired")
    wanted, classes = spec.priority_class_name, limits.priority_classes
    if wanted is not None and classes is not None and wanted not in classes:
        message = f"{name} allows: {', '.join(classes) or 'none'}; got {wanted}"
        yield FieldError("spec.priorityClassName", message, "PriorityClassNotAllowed")
    for label in limits.required_labels or ():
        if labels is not None and not labels.get(label):
            message = f"must have {label}, with a value: {name} requires it"
            yield FieldError("metadata.labels", message, "LabelRequired")
    yield from _too_large(spec, runtime, name=name, nodes=nodes, devices_per_node=devices_per_node)


def _too_large(
    spec: JobSpec, runtime: PersonalizationRuntime, *, name: str, nodes: int, devices_per_node: int
) -> Iterator[FieldError]:
    limits, accelerator = runtime.spec.limits, runtime.spec.accelerator
    devices, steps = nodes * devices_per_node, spec.training.steps or 0
    if limits.nodes is not None and nodes > limits.nodes:
        message = f"must be at most {limits.nodes} by the limits of {name}, got {nodes}"
        yield FieldError("spec.parallelism.nodes", message, "LimitExceeded")
    if accelerator is not None and devices_per_node > accelerator.per_node:
        message = f"must be at most {accelerator.per_node}, the devices of a node of {name}, got {devices_per_node}"
        yield FieldError("spec.parallelism.devicesPerNode", message, "LimitExceeded")
    if limits.devices is not None and devices > limits.devices:
        message = f"{name} allows at most {limits.devices} devices over all nodes, got {devices}"
        yield FieldError("spec.parallelism.devicesPerNode", message, "LimitExceeded")
    if limits.steps is not None and steps > limits.steps:
        message = f"must be at most {limits.steps} by the limits of {name}, got {steps}"
        yield FieldError("spec.training.steps", message, "LimitExceeded")
