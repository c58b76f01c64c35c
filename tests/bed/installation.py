"""What a cluster has once Kubooth is installed: the CRDs, the roles and the policy as they stand in the repository."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml
from bed.controlplane import ControlPlane

ROOT = Path(__file__).parents[2]
CRDS = ROOT / "crds"
CHART_FILES = ROOT / "charts" / "kubooth" / "files"
SYSTEM_NAMESPACE = "kubooth-system"
OPERATOR = "kubooth-operator"


def install(plane: ControlPlane) -> None:
    """Installs Kubooth, with a ServiceAccount for the operator, and waits until the API serves its kinds."""
    plane.kubectl("apply", "--server-side", "--force-conflicts", "-f", CRDS)
    plane.kubectl("wait", "--for=condition=Established", "--timeout=60s", "-f", CRDS)
    plane.apply(*manifests())
    plane.kubectl("get", "pjob,prt", "--all-namespaces")  # answered with 429 while their storage is being set up


def manifests() -> list[dict[str, Any]]:
    """Everything but the CRDs: the operator's namespace and ServiceAccount, its role, the policy."""
    files = [document for path in sorted(CHART_FILES.glob("*.yaml")) for document in _documents(path)]
    roles = [each["metadata"]["name"] for each in files if each["kind"] == "ClusterRole"]
    namespace = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": SYSTEM_NAMESPACE}}
    account = {
        "apiVersion": "v1",
        "kind": "ServiceAccount",
        "metadata": {"name": OPERATOR, "namespace": SYSTEM_NAMESPACE},
    }
    return [namespace, account, *files, *([_binding()] if OPERATOR in roles else [])]


def _documents(path: Path) -> list[dict[str, Any]]:
    return [document for document in yaml.safe_load_all(path.read_text()) if document]


def _binding() -> dict[str, Any]:
    return {
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "ClusterRoleBinding",
        "metadata": {"name": OPERATOR},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": OPERATOR},
        "subjects": [{"kind": "ServiceAccount", "name": OPERATOR, "namespace": SYSTEM_NAMESPACE}],
    }
