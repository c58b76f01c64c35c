"""From an accepted job to its children, as plain dicts in the form in which an API server returns them. Pure.

Called by `children`, which compares them with what is there: whatever is written here must come back unchanged, so
values that the API server fills in are either written out or left to it. All names come from `names`.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from kubooth_operator import names
from kubooth_operator.api.job import API_VERSION, GROUP, JobMetadata, JobSpec, PersonalizationJob
from kubooth_operator.api.runtime import PersonalizationRuntime
from kubooth_operator.plan import Manifest, Settings
from kubooth_operator.podspec import pod_template
from kubooth_operator.resolve import Target, resolve
from kubooth_trainer.config import TrainConfig


@dataclass(frozen=True, kw_only=True)
class Accepted:
    """A job that may run: its settled spec, and the runtime as it was when the job was accepted."""

    name: str
    namespace: str
    uid: str
    spec: JobSpec
    runtime: PersonalizationRuntime
    labels: dict[str, str] | None = None  # None: not to be held against the runtime any more
    is_whole: bool = True  # False: a part of another version's job, to follow what runs; nothing may be made of it

    def config(self, attempt: int) -> TrainConfig:
        """The trainer's configuration of an attempt. Raises SpecError where the runtime does not allow the job."""
        metadata = JobMetadata(name=self.name, namespace=self.namespace, uid=self.uid, labels=self.labels)
        job = PersonalizationJob(
            api_version="kubooth.io/v1alpha1", kind="PersonalizationJob", metadata=metadata, spec=self.spec
        )
        target = Target(
            workdir=names.WORKDIR,
            checkpoints_uri=names.checkpoints_uri(self.spec.output.uri),
            base_uri=None,
            devices=None,
            output=None,
            attempt=attempt,
            namespace=self.namespace,
            model_cache=names.MODELS_FOLDER,
            judge_labels=self.labels is not None,
        )
        return resolve(job, self.runtime, target)

    @property
    def nodes(self) -> int:
        return self.spec.parallelism.nodes or 1

    @property
    def devices_per_node(self) -> int:
        return self.spec.parallelism.devices_per_node or 1


def children(job: Accepted, attempt: int, settings: Settings) -> list[Manifest]:
    """Every child of a job while an attempt runs, in the order in which they are made: the batch Job last."""
    shared = [network_policy(job), service(job), role(job), role_binding(job)]
    if job.runtime.spec.service_account_name is None:
        shared.insert(0, service_account(job))
    return [*shared, config_map(job, attempt), batch_job(job, attempt, settings)]


def service_account(job: Accepted) -> Manifest:
    """The identity of the pods, where the runtime names none."""
    return _child(job, "v1", "ServiceAccount", {})


def role(job: Accepted) -> Manifest:
    """Read this one job and write its status, nothing else."""
    rules = [
        {"apiGroups": [GROUP], "resources": [names.JOB_PLURAL], "resourceNames": [job.name], "verbs": ["get"]},
        {
            "apiGroups": [GROUP],
            "resources": [f"{names.JOB_PLURAL}/status"],
            "resourceNames": [job.name],
            "verbs": ["get", "patch"],
        },
    ]
    return _child(job, "rbac.authorization.k8s.io/v1", "Role", {"rules": rules})


def role_binding(job: Accepted) -> Manifest:
    """Gives the role to the pods' ServiceAccount."""
    account = job.runtime.spec.service_account_name or names.shared_name(job.name)
    return _child(
        job,
        "rbac.authorization.k8s.io/v1",
        "RoleBinding",
        {
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": names.shared_name(job.name)},
            "subjects": [{"kind": "ServiceAccount", "name": account, "namespace": job.namespace}],
        },
    )


def service(job: Accepted) -> Manifest:
    """Names for the pods, also before they are ready: that is when they look for each other."""
    port = {"name": "rendezvous", "port": names.MASTER_PORT, "protocol": "TCP", "targetPort": names.MASTER_PORT}
    return _child(
        job,
        "v1",
        "Service",
        {
            "spec": {
                "clusterIP": "None",
                "publishNotReadyAddresses": True,
                "selector": {names.LABEL_JOB_UID: job.uid},
                "ports": [port],
            }
        },
    )


def network_policy(job: Accepted) -> Manifest:
    """Only the job's own pods may connect to its pods."""
    own_pods = {"matchLabels": {names.LABEL_JOB_UID: job.uid}}
    return _child(
        job,
        "networking.k8s.io/v1",
        "NetworkPolicy",
        {
            "spec": {
                "podSelector": own_pods,
                "policyTypes": ["Ingress"],
                "ingress": [{"from": [{"podSelector": own_pods}]}],
            }
        },
    )


def config_map(job: Accepted, attempt: int) -> Manifest:
    """The trainer's configuration, as an older trainer can read it too."""
    text = json.dumps(job.config(attempt).without_defaults(), indent=2, sort_keys=True, ensure_ascii=False)
    return _child(
        job, "v1", "ConfigMap", {"immutable": True, "data": {names.CONFIG_KEY: text + "\n"}}, attempt=attempt
    )  # fmt: skip


def batch_job(job: Accepted, attempt: int, settings: Settings) -> Manifest:
    """The pods of one attempt, one per node. Nothing is replaced in it: a gang is restarted as a whole, by us."""
    queue = {names.LABEL_QUEUE: job.spec.queue_name} if job.spec.queue_name else {}
    return _child(
        job,
        "batch/v1",
        "Job",
        {
            "spec": {
                "parallelism": job.nodes,
                "completions": job.nodes,
                "completionMode": "Indexed",
                "backoffLimit": 0,
                "podReplacementPolicy": "Failed",
                # Ignore rules would replace one pod and break the gang: FailJob only.
                "podFailurePolicy": {
                    "rules": [
                        {"action": "FailJob", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]},
                        {
                            "action": "FailJob",
                            "onExitCodes": {"containerName": names.CONTAINER, "operator": "NotIn", "values": [0]},
                        },
                    ]
                },
                "template": pod_template(
                    job=job.name,
                    namespace=job.namespace,
                    uid=job.uid,
                    attempt=attempt,
                    spec=job.spec,
                    runtime=job.runtime.spec,
                    trainer_image=settings.trainer_image,
                ),
            }
        },
        attempt=attempt,
        labels=queue,
    )


def _child(
    job: Accepted,
    api_version: str,
    kind: str,
    content: dict[str, Any],
    *,
    attempt: int | None = None,
    labels: dict[str, str] | None = None,
) -> Manifest:
    owner = {
        "apiVersion": API_VERSION,
        "kind": names.JOB_KIND,
        "name": job.name,
        "uid": job.uid,
        "controller": True,
        "blockOwnerDeletion": False,
    }
    name = names.shared_name(job.name) if attempt is None else names.attempt_name(job.name, attempt)
    return {
        "apiVersion": api_version,
        "kind": kind,
        "metadata": {
            "name": name,
            "namespace": job.namespace,
            "labels": {**names.child_labels(job.name, job.uid, attempt), **(labels or {})},
            "ownerReferences": [owner],
        },
        **content,
    }
