"""Names, labels and field managers of everything the operator makes. Pure text; `render`, `reconcile` and the edge
agree on them here.

A job's name has at most 45 characters, so that a pod's host name, `<job>-kubooth-<attempt>-<index>`, fits into 63. In
the name of rank 0's pod, which the admission policy compares, the Job controller leaves 55 for the batch Job's.
"""

from __future__ import annotations

from kubooth_operator.api.job import GROUP

OPERATOR_MANAGER = "kubooth-operator"
TRAINER_MANAGER = "kubooth-trainer"

LABEL_NAME = "app.kubernetes.io/name"
LABEL_MANAGED_BY = "app.kubernetes.io/managed-by"
LABEL_JOB = f"{GROUP}/job"
LABEL_JOB_UID = f"{GROUP}/job-uid"
LABEL_ATTEMPT = f"{GROUP}/attempt"
LABEL_QUEUE = "kueue.x-k8s.io/queue-name"
APP = "kubooth"

JOB_KIND = "PersonalizationJob"
JOB_PLURAL = "personalizationjobs"
RUNTIME_KIND = "PersonalizationRuntime"
RUNTIME_PLURAL = "personalizationruntimes"

CONTAINER = "trainer"
CONFIG_KEY = "config.json"
CONFIG_FOLDER = "/etc/kubooth"
WORKDIR = "/work"
MODELS_FOLDER = "/var/cache/kubooth/models"
TERMINATION_LOG = "/dev/termination-log"
MASTER_PORT = 29500
CHECKPOINTS_FOLDER = ".kubooth/checkpoints/"
MAX_BATCH_JOB = 55  # of 63, without `-0-` and five random characters: the Job controller cuts what is longer


def shared_name(job: str) -> str:
    """The name of ServiceAccount, Role, RoleBinding, Service and NetworkPolicy of a job."""
    return f"{job}-kubooth"


def attempt_name(job: str, attempt: int) -> str:
    """The name of ConfigMap and batch Job of an attempt: `-k-` where the Job controller would cut `-kubooth-12` to
    `-kubooth-1`, so that a pod's name always tells its attempt. The chart's policy (files/policy.yaml) counts alike."""
    name = f"{job}-kubooth-{attempt}"
    return name if len(name) <= MAX_BATCH_JOB else f"{job}-k-{attempt}"


def master_address(job: str, namespace: str, attempt: int) -> str:
    """Host name under which the ranks of an attempt find rank 0's pod."""
    return f"{attempt_name(job, attempt)}-0.{shared_name(job)}.{namespace}.svc"


def checkpoints_uri(output: str) -> str:
    """Where a job's checkpoints are kept: a reserved folder below its output."""
    return f"{output.rstrip('/')}/{CHECKPOINTS_FOLDER}"


def child_labels(job: str, uid: str, attempt: int | None = None) -> dict[str, str]:
    """Labels of a child; with an attempt, of one that belongs to it."""
    labels = {LABEL_NAME: APP, LABEL_MANAGED_BY: APP, LABEL_JOB: job, LABEL_JOB_UID: uid}
    return labels if attempt is None else {**labels, LABEL_ATTEMPT: str(attempt)}
