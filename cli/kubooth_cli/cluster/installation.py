"""What `doctor` asks about the installation itself: version, CRDs, policy, operator, its rights."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

from kubooth_cli.cluster import rights
from kubooth_cli.cluster.findings import Finding, fault, ok, unknown
from kubooth_cli.cluster.session import Session
from kubooth_cli.cluster.times import age, unix
from kubooth_operator.crd import job_definition, runtime_definition
from kubooth_operator.kinds import LEASE

Manifest = dict[str, Any]
LEAST_VERSION: Final = (1, 30)
"""Since when ValidatingAdmissionPolicies are stable."""
OPERATOR: Final = "kubooth-operator"
_CRDS = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
_POLICIES = "/apis/admissionregistration.k8s.io/v1/validatingadmissionpolic"
_POLICY = "kubooth-job-status"
_DEPLOYMENTS = "/apis/apps/v1/deployments"
_LABELS = "app.kubernetes.io/name=kubooth,app.kubernetes.io/component=operator"
_RENEWAL_SECONDS = 6.0
"""The holder renews the Lease every two seconds; after three missed renewals nobody does."""
_LOOK_SECONDS = 0.5
_INSTALL = "install the chart, or apply crds/ of this release: kubectl apply --server-side -f crds/"
_CHART = "install the chart again: helm upgrade --install"


@dataclass(frozen=True, kw_only=True)
class Operator:
    """Where the operator is, or would be."""

    namespace: str
    account: str
    deployment: Manifest | None


async def version(session: Session) -> Finding:
    """Kubernetes itself."""
    told = await session.api.get("/version")
    found = tuple(int(re.sub(r"\D", "", told[part]) or 0) for part in ("major", "minor"))
    if found < LEAST_VERSION:
        least = ".".join(map(str, LEAST_VERSION))
        return fault("kubernetes", f"the cluster is {told['gitVersion']}", f"Kubooth needs Kubernetes {least} or later")
    return ok("kubernetes", f"the cluster is {told['gitVersion']}")


async def definitions(session: Session) -> list[Finding]:
    """Both CRDs, and whether they are of this release."""
    return [await _definition(session, each) for each in (job_definition(), runtime_definition())]


async def _definition(session: Session, ours: Manifest) -> Finding:
    from kubooth_operator.client import NotFoundError

    name, check = ours["metadata"]["name"], f"crd {ours['spec']['names']['kind']}"
    try:
        theirs = await session.api.get(f"{_CRDS}/{name}")
    except NotFoundError:
        return fault(check, f"the CRD {name} is missing", _INSTALL)
    conditions = {each["type"]: each for each in theirs.get("status", {}).get("conditions", ())}
    established = conditions.get("Established", {})
    if established.get("status") != "True":
        return fault(
            check, f"the API server does not serve {name}: {established.get('message', 'no word yet')}", _INSTALL
        )
    wanted = ours["spec"]["versions"][0]
    served = next(
        (each for each in theirs["spec"]["versions"] if each["name"] == wanted["name"] and each["served"]), None
    )
    if served is None:
        return fault(check, f"the CRD {name} does not serve {wanted['name']}", _INSTALL)
    here, there = (set(_fields(each["schema"]["openAPIV3Schema"])) for each in (wanted, served))
    lacking = sorted(here - there)
    if lacking:
        more = f" and {len(lacking) - 3} more" if len(lacking) > 3 else ""
        return fault(
            check, f"the CRD {name} is older than this command: it lacks {', '.join(lacking[:3])}{more}", _INSTALL
        )
    newer = f", newer than this command (it has {sorted(there - here)[0]})" if there - here else ""
    return ok(check, f"the API server serves {name}{newer}")


def _fields(schema: Manifest, path: str = "") -> Iterator[str]:
    for name, inner in (schema.get("properties") or {}).items():
        here = f"{path}.{name}" if path else name
        yield here
        yield from _fields(inner, here)
    for key in ("items", "additionalProperties"):
        if isinstance(schema.get(key), dict):
            yield from _fields(schema[key], path + "[]")


async def policy(session: Session) -> Finding:
    """The admission policy that keeps trainers to their own fields, and its binding."""
    from kubooth_operator.client import NotFoundError

    for kind, plural in (("ValidatingAdmissionPolicy", "ies"), ("ValidatingAdmissionPolicyBinding", "ybindings")):
        try:
            await session.api.get(f"{_POLICIES}{plural}/{_POLICY}")
        except NotFoundError:
            return fault("policy", f"the {kind} {_POLICY} is missing: any pod could write any job's status", _CHART)
    return ok("policy", f"{_POLICY} guards the status of jobs")


async def find_operator(session: Session, namespace: str) -> Operator:
    """By the labels of its Deployment; without one, as it is installed by default, in `namespace`."""
    from kubooth_operator.client import RefusedError

    try:
        found = (await session.api.get(_DEPLOYMENTS, query={"labelSelector": _LABELS}))["items"]
    except RefusedError:
        found = []
    if not found:
        return Operator(namespace=namespace, account=OPERATOR, deployment=None)
    account = found[0]["spec"]["template"]["spec"].get("serviceAccountName") or "default"
    return Operator(namespace=found[0]["metadata"]["namespace"], account=account, deployment=found[0])


async def operator(session: Session, found: Operator) -> Finding:
    """Whether one is at work: it renews its Lease every two seconds."""
    from kubooth_operator.client import NotFoundError

    path = LEASE.path(found.namespace, OPERATOR)
    try:
        first = await session.api.get(path)
    except NotFoundError:
        message = f"no operator has ever worked in namespace {found.namespace}: it has no Lease"
        return fault("operator", message + await _of_its_pods(session, found), _START)
    deadline = time.monotonic() + _RENEWAL_SECONDS
    lease = first
    while time.monotonic() < deadline:  # by its changes, for clocks may differ
        holder = lease["spec"].get("holderIdentity")
        if holder and lease["metadata"]["resourceVersion"] != first["metadata"]["resourceVersion"]:
            return ok("operator", f"{holder} leads, in namespace {found.namespace}{_replicas(found)}")
        await asyncio.sleep(_LOOK_SECONDS)
        lease = await session.api.get(path)
    holder, renewed = lease["spec"].get("holderIdentity"), lease["spec"].get("renewTime")
    who = (
        f"{holder} has not renewed its Lease for {age(renewed)}" if holder and unix(renewed) else "nobody has the Lease"
    )
    return fault("operator", f"no operator leads: {who}{await _of_its_pods(session, found)}", _START)


_START = f"see to it that it runs (kubectl get pods -A -l {_LABELS}), or {_CHART}"


def _replicas(found: Operator) -> str:
    if found.deployment is None:
        return ""
    ready = found.deployment.get("status", {}).get("readyReplicas", 0)
    return f", {ready} of {found.deployment['spec'].get('replicas', 1)} replicas are ready"


async def _of_its_pods(session: Session, found: Operator) -> str:
    """What holds its pods back, as an ending of a sentence."""
    if found.deployment is None:
        return ""
    if not found.deployment["spec"].get("replicas", 1):
        return "; its Deployment has 0 replicas"
    pods = await session.api.get(f"/api/v1/namespaces/{found.namespace}/pods", query={"labelSelector": _LABELS})
    for pod in pods["items"]:
        for container in pod.get("status", {}).get("containerStatuses", ()):
            waiting = container.get("state", {}).get("waiting")
            if waiting:
                return f"; pod {pod['metadata']['name']}: {waiting.get('reason')}: {waiting.get('message', '')}"
    return f"; its Deployment has {len(pods['items'])} pods{_replicas(found)}"


async def operator_rights(session: Session, found: Operator) -> Finding:
    """Whether its ServiceAccount may do all it has to."""
    lacking = await rights.missing(session, found.account, found.namespace)
    who = f"ServiceAccount {found.account} of {found.namespace}"
    if lacking:
        more = f" and {len(lacking) - 3} more" if len(lacking) > 3 else ""
        what = ", ".join(str(each) for each in lacking[:3])
        return fault("rights", f"{who} may not {what}{more}", f"mend ClusterRole and binding, or {_CHART}")
    return ok("rights", f"{who} may do all that the operator does")


async def guarded(check: str, asked: Any) -> list[Finding]:
    """The findings of a check, or that it could not be made for lack of rights."""
    from kubooth_operator.client import RefusedError

    try:
        found = await asked
    except RefusedError as error:
        if error.status != 403:
            raise
        return [unknown(check, f"not looked at: {error}")]
    return found if isinstance(found, list) else [found]
