"""The kinds that the operator reads and writes, and where the API server has them.

`client` and `cluster` find an object's path here. What is not in this table, the operator never touches.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final
from urllib.parse import quote

from kubooth_operator.api.job import API_VERSION
from kubooth_operator.names import JOB_KIND, JOB_PLURAL, RUNTIME_KIND, RUNTIME_PLURAL


@dataclass(frozen=True, kw_only=True)
class Kind:
    """One kind of object. Cluster-scoped ones have no namespace in their path."""

    api_version: str
    kind: str
    plural: str
    namespaced: bool = True

    def path(self, namespace: str | None = None, name: str | None = None, subresource: str | None = None) -> str:
        """Of one object, or of all (in a namespace, or everywhere)."""
        root = "/api" if self.api_version == "v1" else "/apis"
        parts = [root, self.api_version]
        if self.namespaced and namespace is not None:
            parts += ["namespaces", quote(namespace, safe="")]
        parts.append(self.plural)
        if name is not None:
            parts.append(quote(name, safe=""))
        if subresource is not None:
            parts.append(subresource)
        return "/".join(parts)


JOB: Final = Kind(api_version=API_VERSION, kind=JOB_KIND, plural=JOB_PLURAL)
RUNTIME: Final = Kind(api_version=API_VERSION, kind=RUNTIME_KIND, plural=RUNTIME_PLURAL, namespaced=False)
BATCH_JOB: Final = Kind(api_version="batch/v1", kind="Job", plural="jobs")
POD: Final = Kind(api_version="v1", kind="Pod", plural="pods")
CHILDREN: Final = (
    Kind(api_version="v1", kind="ServiceAccount", plural="serviceaccounts"),
    Kind(api_version="rbac.authorization.k8s.io/v1", kind="Role", plural="roles"),
    Kind(api_version="rbac.authorization.k8s.io/v1", kind="RoleBinding", plural="rolebindings"),
    Kind(api_version="v1", kind="Service", plural="services"),
    Kind(api_version="networking.k8s.io/v1", kind="NetworkPolicy", plural="networkpolicies"),
    Kind(api_version="v1", kind="ConfigMap", plural="configmaps"),
    BATCH_JOB,
)
"""What a job owns, pods apart: those belong to its batch Job."""
LEASE: Final = Kind(api_version="coordination.k8s.io/v1", kind="Lease", plural="leases")
EVENT: Final = Kind(api_version="events.k8s.io/v1", kind="Event", plural="events")

_BY_NAME = {(kind.api_version, kind.kind): kind for kind in (JOB, RUNTIME, POD, *CHILDREN, LEASE, EVENT)}


def kind_of(api_version: str, kind: str) -> Kind:
    """The entry for a manifest's apiVersion and kind; KeyError where the operator has no business with it."""
    return _BY_NAME[api_version, kind]
