"""What the operator's ServiceAccount must be allowed: the rights that `doctor` asks the API server about.

Equal to the ClusterRole that Kubooth installs; tests/cluster/test_cli_doctor.py holds the two together.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

from kubooth_cli.cluster.session import Session
from kubooth_operator.api.job import GROUP
from kubooth_operator.names import JOB_PLURAL, RUNTIME_PLURAL

_PATH = "/apis/authorization.k8s.io/v1/subjectaccessreviews"
_CHANGE = ("get", "list", "watch", "create", "patch")


@dataclass(frozen=True, kw_only=True)
class Right:
    """One verb on one resource, of all namespaces or, with a name, of one object."""

    verb: str
    group: str
    resource: str
    name: str = ""

    def __str__(self) -> str:
        group = f".{self.group}" if self.group else ""
        return f"{self.verb} {self.resource}{group}" + (f" {self.name}" if self.name else "")


_RULES: Final = (
    (GROUP, (JOB_PLURAL,), ("get", "list", "watch", "delete")),
    (GROUP, (RUNTIME_PLURAL,), ("get", "list", "watch")),
    (GROUP, (f"{JOB_PLURAL}/status",), ("get", "patch")),
    ("", ("services", "serviceaccounts"), _CHANGE),
    ("rbac.authorization.k8s.io", ("roles",), _CHANGE),
    ("rbac.authorization.k8s.io", ("rolebindings",), (*_CHANGE, "delete")),
    ("networking.k8s.io", ("networkpolicies",), _CHANGE),
    ("", ("configmaps",), (*_CHANGE, "delete")),
    ("batch", ("jobs",), (*_CHANGE, "delete")),
    ("", ("pods",), ("list", "watch", "delete")),
    ("events.k8s.io", ("events",), ("create", "list")),
    ("coordination.k8s.io", ("leases",), ("create",)),
)
_LEASE: Final = (("coordination.k8s.io", "leases", "kubooth-operator", ("get", "update")),)


def needed() -> Iterator[Right]:
    """All of them."""
    for group, resources, verbs in _RULES:
        for resource in resources:
            yield from (Right(verb=verb, group=group, resource=resource) for verb in verbs)
    for group, resource, name, verbs in _LEASE:
        yield from (Right(verb=verb, group=group, resource=resource, name=name) for verb in verbs)


async def missing(session: Session, account: str, namespace: str) -> list[Right]:
    """Those that ServiceAccount `account` of `namespace` lacks. Raises what the API server answers."""
    user = f"system:serviceaccount:{namespace}:{account}"
    groups = ["system:serviceaccounts", f"system:serviceaccounts:{namespace}", "system:authenticated"]

    async def lacks(right: Right) -> bool:
        resource, _, subresource = right.resource.partition("/")
        asked: dict[str, Any] = {"verb": right.verb, "group": right.group, "resource": resource}
        asked |= {"subresource": subresource, "name": right.name}
        if right.resource == "leases":
            asked["namespace"] = namespace
        review = {
            "apiVersion": "authorization.k8s.io/v1",
            "kind": "SubjectAccessReview",
            "spec": {"user": user, "groups": groups, "resourceAttributes": asked},
        }
        answer = await session.api.post(_PATH, review)
        return not answer["status"]["allowed"]

    rights = list(needed())
    lacking = await asyncio.gather(*(lacks(right) for right in rights))
    return [right for right, is_lacking in zip(rights, lacking, strict=True) if is_lacking]
