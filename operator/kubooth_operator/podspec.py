"""The pod template of an attempt, as a plain dict. Called by `render`; pure.

It passes the `restricted` Pod Security profile: no root, no escalation, a root file system that is only read. What a
trainer writes goes to three empty volumes: /work (downloads, class images), /tmp and /dev/shm.
"""

from __future__ import annotations

from typing import Any

from kubooth_operator import names
from kubooth_operator.api.fields import facts_of
from kubooth_operator.api.job import JobSpec
from kubooth_operator.api.runtime import RuntimeSpec
from kubooth_operator.plan import Manifest

USER_ID = 1000
MODELS = "kubooth-models"
NODE_LOST_SECONDS = 30  # how long pods stay bound to a node that does not answer
NODE_LOST_TAINTS = ("node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable")
CREDENTIALS = (("AWS_ACCESS_KEY_ID", False), ("AWS_SECRET_ACCESS_KEY", False), ("AWS_SESSION_TOKEN", True))
# A container that a mesh adds and that never ends keeps a pod from ending, whose trainer is done.
NO_SIDECAR_LABELS = {"sidecar.istio.io/inject": "false"}
NO_SIDECAR_ANNOTATIONS = {"linkerd.io/inject": "disabled"}

TRACKING_CREDENTIALS = (
    "MLFLOW_TRACKING_USERNAME",
    "MLFLOW_TRACKING_PASSWORD",
    "MLFLOW_TRACKING_TOKEN",
    "WANDB_API_KEY",
)


def pod_template(
    *, job: str, namespace: str, uid: str, attempt: int, spec: JobSpec, runtime: RuntimeSpec, trainer_image: str
) -> Manifest:
    """One pod per node of the job; the Job controller adds the completion index."""
    return {
        "metadata": {
            "labels": {**NO_SIDECAR_LABELS, **(runtime.pod_labels or {}), **names.child_labels(job, uid, attempt)},
            "annotations": {**NO_SIDECAR_ANNOTATIONS, **(runtime.pod_annotations or {})},
        },
        "spec": {
            "restartPolicy": "Never",
            "subdomain": names.shared_name(job),
            "serviceAccountName": runtime.service_account_name or names.shared_name(job),
            "automountServiceAccountToken": True,
            "enableServiceLinks": False,
            "terminationGracePeriodSeconds": runtime.termination_grace_period_seconds,
            "securityContext": {
                "runAsNonRoot": True,
                "runAsUser": USER_ID,
                "runAsGroup": USER_ID,
                "fsGroup": USER_ID,
                "seccompProfile": {"type": "RuntimeDefault"},
            },
            "tolerations": _tolerations(runtime),
            **_placement(spec, runtime),
            "containers": [_container(job, namespace, attempt, spec, runtime, trainer_image)],
            "volumes": _volumes(job, attempt, runtime),
        },
    }


def _placement(spec: JobSpec, runtime: RuntimeSpec) -> dict[str, Any]:
    fields = {
        "nodeSelector": dict(runtime.node_selector or {}),
        "affinity": runtime.affinity,
        "priorityClassName": spec.priority_class_name,
        "imagePullSecrets": [{"name": secret.name} for secret in runtime.image_pull_secrets or ()],
    }
    return {name: value for name, value in fields.items() if value}


def _tolerations(runtime: RuntimeSpec) -> list[dict[str, Any]]:
    given = [each.model_dump(mode="json", by_alias=True, exclude_none=True) for each in runtime.tolerations or ()]
    chosen = {each.get("key") for each in given if each.get("effect", "NoExecute") == "NoExecute"}
    ours = [
        {"key": key, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": NODE_LOST_SECONDS}
        for key in NODE_LOST_TAINTS
        if key not in chosen
    ]
    return [*given, *ours]


def _container(
    job: str, namespace: str, attempt: int, spec: JobSpec, runtime: RuntimeSpec, trainer_image: str
) -> dict[str, Any]:
    resources = _resources(spec, runtime)
    return {
        "name": names.CONTAINER,
        "image": runtime.image or trainer_image,
        "command": [
            "python", "-m", "kubooth_trainer.launcher",
            "--config", f"{names.CONFIG_FOLDER}/{names.CONFIG_KEY}",
            "--master-address", names.master_address(job, namespace, attempt),
            "--master-port", str(names.MASTER_PORT),
            "--termination-log", names.TERMINATION_LOG,
            "--grace-seconds", str(runtime.termination_grace_period_seconds),
            "--status",
        ],
        "env": _env(runtime),
        **({"resources": resources} if resources else {}),
        "terminationMessagePath": names.TERMINATION_LOG,
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
        "volumeMounts": [
            {"name": "kubooth-config", "mountPath": names.CONFIG_FOLDER, "readOnly": True},
            {"name": "kubooth-work", "mountPath": names.WORKDIR},
            {"name": "kubooth-tmp", "mountPath": "/tmp"},
            {"name": "kubooth-shm", "mountPath": "/dev/shm"},
            *([{"name": MODELS, "mountPath": names.MODELS_FOLDER}] if runtime.model_cache else []),
            *(
                {"name": each.name, "mountPath": each.mount_path, **({"readOnly": True} if each.read_only else {})}
                for each in runtime.volumes or ()
            ),
        ],
    }  # fmt: skip


def _env(runtime: RuntimeSpec) -> list[dict[str, Any]]:
    """Ours, then the runtime's, whose value counts where both name a variable."""
    storage = runtime.storage
    env: dict[str, dict[str, Any]] = {
        "POD_NAME": {"valueFrom": {"fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.name"}}},
        "POD_UID": {"valueFrom": {"fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.uid"}}},
        "HOME": {"value": "/tmp"},
    }
    if not storage.instance_identity:
        env["AWS_EC2_METADATA_DISABLED"] = {"value": "true"}
    if storage.credentials_secret is not None:
        for key, optional in CREDENTIALS:
            secret: dict[str, Any] = {"name": storage.credentials_secret, "key": key}
            env[key] = {"valueFrom": {"secretKeyRef": {**secret, "optional": True} if optional else secret}}
    if runtime.tracking.credentials_secret is not None:
        for key in TRACKING_CREDENTIALS:
            wanted = {"name": runtime.tracking.credentials_secret, "key": key, "optional": True}
            env[key] = {"valueFrom": {"secretKeyRef": wanted}}
    for variable in runtime.env or ():
        env.pop(variable.name, None)
        env[variable.name] = {"value": variable.value}
    return [{"name": name, **value} for name, value in env.items()]


def _resources(spec: JobSpec, runtime: RuntimeSpec) -> dict[str, Any]:
    """The runtime's, with the job's devices in requests and limits alike, as extended resources must be."""
    devices = {}
    if runtime.accelerator is not None:
        devices = {runtime.accelerator.resource: str(spec.parallelism.devices_per_node or 1)}
    merged = {
        "limits": {**_quantities(runtime.resources.limits), **devices},
        "requests": {**_quantities(runtime.resources.requests), **devices},
    }
    return {name: values for name, values in merged.items() if values}


def _quantities(given: dict[str, Any] | None) -> dict[str, str]:
    return {name: str(quantity) for name, quantity in (given or {}).items()}


def _volumes(job: str, attempt: int, runtime: RuntimeSpec) -> list[dict[str, Any]]:
    shared_memory = str(runtime.shared_memory or facts_of(RuntimeSpec.model_fields["shared_memory"]).builtin)
    return [
        {"name": "kubooth-config", "configMap": {"name": names.attempt_name(job, attempt)}},
        {"name": "kubooth-work", "emptyDir": {}},
        {"name": "kubooth-tmp", "emptyDir": {}},
        {"name": "kubooth-shm", "emptyDir": {"medium": "Memory", "sizeLimit": shared_memory}},
        *_model_cache(runtime),
        *({"name": volume.name, **volume.source} for volume in runtime.volumes or ()),
    ]


def _model_cache(runtime: RuntimeSpec) -> list[dict[str, Any]]:
    cache = runtime.model_cache
    if cache is None:
        return []
    if cache.claim_name is not None:
        return [{"name": MODELS, "persistentVolumeClaim": {"claimName": cache.claim_name}}]
    return [{"name": MODELS, "hostPath": {"path": cache.host_path, "type": "DirectoryOrCreate"}}]
