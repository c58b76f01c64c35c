"""Jobs and runtimes for tests of the operator, and what to look for in them."""

from __future__ import annotations

import time
from typing import Any

from bed.eventually import eventually
from bed.rest import JOBS, RUNTIMES, ApiError, Rest

Manifest = dict[str, Any]
GROUP_VERSION = "kubooth.io/v1alpha1"
CHILD_PATHS = {
    "ServiceAccount": "/api/v1/namespaces/{}/serviceaccounts",
    "Role": "/apis/rbac.authorization.k8s.io/v1/namespaces/{}/roles",
    "RoleBinding": "/apis/rbac.authorization.k8s.io/v1/namespaces/{}/rolebindings",
    "Service": "/api/v1/namespaces/{}/services",
    "NetworkPolicy": "/apis/networking.k8s.io/v1/namespaces/{}/networkpolicies",
    "ConfigMap": "/api/v1/namespaces/{}/configmaps",
    "Job": "/apis/batch/v1/namespaces/{}/jobs",
}
PODS = "/api/v1/namespaces/{}/pods"
SELECTOR = "app.kubernetes.io/managed-by=kubooth"


def job(name: str = "rex", *, runtime: str = "default", nodes: int = 1, **spec: Any) -> Manifest:
    """A small job; `spec` replaces top-level fields of its spec."""
    whole = {
        "runtimeRef": {"name": runtime},
        "subject": {"className": "dog", "images": "s3://photos/rex/"},
        "model": {"uri": "s3://models/stable-diffusion-v1-5/"},
        "output": {"uri": f"s3://models/personalized/{name}/"},
        "parallelism": {"nodes": nodes},
        "training": {"batchSize": nodes},
        **spec,
    }
    return {"apiVersion": GROUP_VERSION, "kind": "PersonalizationJob", "metadata": {"name": name}, "spec": whole}


def runtime(name: str = "default", **spec: Any) -> Manifest:
    """A runtime with nothing special."""
    return {"apiVersion": GROUP_VERSION, "kind": "PersonalizationRuntime", "metadata": {"name": name}, "spec": spec}


class Bench:
    """One namespace, and what is in it."""

    def __init__(self, rest: Rest, namespace: str) -> None:
        self.rest = rest
        self.namespace = namespace

    def create(self, manifest: Manifest) -> Manifest:
        return self.rest.post(JOBS.format(self.namespace), manifest)

    def create_runtime(self, manifest: Manifest) -> Manifest:
        return self.rest.post(RUNTIMES, manifest)

    def job(self, name: str = "rex") -> Manifest:
        return self.rest.get(self.job_path(name))

    def status(self, name: str = "rex") -> Manifest:
        status: Manifest = self.job(name).get("status") or {}
        return status

    def job_path(self, name: str = "rex") -> str:
        return f"{JOBS.format(self.namespace)}/{name}"

    def touch(self, name: str = "rex") -> None:
        """Changes something that means nothing, so that the operator looks at the job."""
        self.rest.merge(self.job_path(name), {"metadata": {"annotations": {"touched": str(time.monotonic())}}})

    def child_path(self, kind: str, name: str) -> str:
        return f"{CHILD_PATHS[kind].format(self.namespace)}/{name}"

    def children(self, kinds: tuple[str, ...] = tuple(CHILD_PATHS)) -> dict[tuple[str, str], Manifest]:
        """All children in the namespace, by kind and name."""
        found = {}
        for kind in kinds:
            for item in self.rest.items(CHILD_PATHS[kind].format(self.namespace), SELECTOR):
                found[kind, item["metadata"]["name"]] = item
        return found

    def pods(self) -> list[Manifest]:
        return self.rest.items(PODS.format(self.namespace), SELECTOR)

    def wait_for_phase(self, phase: str, name: str = "rex", seconds: float = 120) -> Manifest:
        """The job's status once it has that phase."""

        def look() -> Manifest | None:
            status = self.status(name)
            return status if status.get("phase") == phase else None

        return eventually(look, f"phase {phase}", seconds=seconds, tell=lambda: self.status(name))

    def wait_for_reason(self, reason: str, name: str = "rex", seconds: float = 120) -> Manifest:
        """The job's status once it has that reason."""

        def look() -> Manifest | None:
            status = self.status(name)
            return status if status.get("reason") == reason else None

        return eventually(look, f"reason {reason}", seconds=seconds, tell=lambda: self.status(name))

    def wait_for_pods(self, count: int = 1) -> list[Manifest]:
        def look() -> list[Manifest]:
            pods = [pod for pod in self.pods() if not pod["metadata"].get("deletionTimestamp")]
            return pods if len(pods) == count else []

        return eventually(look, f"{count} pods", tell=lambda: self.job())


_QUOTAS = "/api/v1/namespaces/{}/resourcequotas"
_PROBES = {
    "count/services": {"ports": [{"port": 80}]},
    "pods": {"containers": [{"name": "main", "image": "nothing"}]},
}


def limit(bench: Bench, what: str) -> str:
    """A quota of none of these in the job's namespace, which admission knows of already; its path."""

    def is_refused() -> bool:
        try:
            bench.rest.call("POST", probed, probe, dryRun="All")
        except ApiError as error:
            return "exceeded quota: tight" in str(error)
        return False

    probed = f"/api/v1/namespaces/{bench.namespace}/{what.removeprefix('count/')}"
    probe = {"metadata": {"name": "probe"}, "spec": _PROBES[what]}
    bench.rest.post(_QUOTAS.format(bench.namespace), {"metadata": {"name": "tight"}, "spec": {"hard": {what: "0"}}})
    eventually(is_refused, "a refusal by quota")
    return f"{_QUOTAS.format(bench.namespace)}/tight"
