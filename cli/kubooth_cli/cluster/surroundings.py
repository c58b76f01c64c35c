"""What `doctor` asks about what jobs need: their runtime, credentials, buckets, devices."""

from __future__ import annotations

import asyncio
import base64
import binascii
from typing import Any, Final

from kubooth_cli.cluster.findings import Finding, fault, ok, unknown
from kubooth_cli.cluster.jobs import default_runtime
from kubooth_cli.cluster.session import Session
from kubooth_operator.api.load import parse
from kubooth_operator.api.problems import SpecError
from kubooth_operator.api.runtime import PersonalizationRuntime, RuntimeSpec
from kubooth_operator.api.scalars import bytes_of
from kubooth_operator.defaults import DEFAULT
from kubooth_operator.kinds import RUNTIME

Manifest = dict[str, Any]
_NODES = "/api/v1/nodes"
_SECRET = "/api/v1/namespaces/{}/secrets/{}"
_KEYS: Final = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")
_TOKEN: Final = "AWS_SESSION_TOKEN"
Credentials = dict[str, str]


async def runtime(session: Session, name: str) -> tuple[Finding, RuntimeSpec | None]:
    """Whether it is there, valid, and open to the namespace."""
    from kubooth_operator.client import NotFoundError

    check = f"runtime {name}"
    try:
        own = await default_runtime(session) if name == DEFAULT else None
        raw = own or await session.api.get(RUNTIME.path(name=name))
    except NotFoundError:
        others = (await session.api.get(RUNTIME.path()))["items"]
        there = ", ".join(each["metadata"]["name"] for each in others) or "none"
        message = f"there is no PersonalizationRuntime {name} (there is: {there})"
        return fault(check, message, "make one, as in examples/runtime.yaml, or name another with --runtime"), None
    known = {key: raw["metadata"][key] for key in ("name", "uid", "generation")}
    try:
        parsed = parse({**raw, "metadata": known}, PersonalizationRuntime)
    except SpecError as error:
        return fault(check, f"jobs are not accepted under it: {error.errors[0]}", "mend the runtime"), None
    allowed = parsed.spec.allowed_namespaces
    if allowed is not None and session.namespace not in allowed:
        message = f"jobs of namespace {session.namespace} are not accepted under it: it allows {', '.join(allowed)}"
        return fault(check, message, "add the namespace to allowedNamespaces, or use another with -n"), parsed.spec
    which = f" (for namespace {session.namespace} it is {parsed.metadata.name})" if own else ""
    return ok(check, f"it is there and valid{which}"), parsed.spec


async def credentials(session: Session, spec: RuntimeSpec) -> tuple[Finding, Credentials | None]:
    """Whether the Secret that pods take their credentials from is there and whole. They are never shown."""
    from kubooth_operator.client import NotFoundError

    name, namespace = spec.storage.credentials_secret, session.namespace
    if name is None:
        return ok("credentials", "pods use the identity of their ServiceAccount, not a Secret"), None
    keys = " and ".join(_KEYS)
    remedy = f"make it, with {keys}, in every namespace with jobs"
    try:
        secret = await session.api.get(_SECRET.format(namespace, name))
    except NotFoundError:
        return fault("credentials", f"the Secret {name} is missing in namespace {namespace}", remedy), None
    data = secret.get("data") or {}
    lacking = [key for key in _KEYS if not data.get(key)]
    if lacking:
        message = f"the Secret {name} in namespace {namespace} has no {' and no '.join(lacking)}"
        return fault("credentials", message, remedy), None
    try:
        plain = {key: base64.b64decode(data[key]).decode() for key in (*_KEYS, _TOKEN) if key in data}
    except (binascii.Error, UnicodeDecodeError):
        return fault("credentials", f"the Secret {name} holds what is not text", remedy), None
    return ok("credentials", f"the Secret {name} in namespace {namespace} has {keys}"), plain


async def buckets(
    session: Session, spec: RuntimeSpec, with_: Credentials | None, endpoint: str | None
) -> list[Finding]:
    """Whether every place that the runtime names can be listed, as its pods would, or else as the caller."""
    try:
        import boto3  # noqa: F401
    except ImportError:
        return [unknown("buckets", "not looked at: boto3 is not installed (pip install 'kubooth[cluster]')")]
    places = _places(spec, session.namespace)
    if not places:
        return [ok("buckets", "the runtime names none; jobs do")]
    return [await asyncio.to_thread(_bucket, uri, spec, with_, endpoint) for uri in places]


def _places(spec: RuntimeSpec, namespace: str) -> list[str]:
    """Buckets with their folders, each once."""
    storage, limits = spec.storage, spec.limits
    named = [*limits.read_prefixes, *limits.write_prefixes, *(model.uri for model in spec.models or ())]
    named += [uri for uri in (storage.inbox, spec.prior_cache and spec.prior_cache.uri) if uri]
    plain = [uri.replace("{namespace}", namespace).rstrip("/") for uri in named]
    return list(dict.fromkeys(uri for uri in plain if uri.startswith("s3://")))


def _bucket(uri: str, spec: RuntimeSpec, with_: Credentials | None, endpoint: str | None) -> Finding:
    import boto3
    from botocore.config import Config

    from kubooth_trainer.storage import s3_errors

    where = endpoint or spec.storage.external_endpoint or spec.storage.endpoint
    keys = with_ or {}
    client = boto3.Session(
        aws_access_key_id=keys.get(_KEYS[0]),
        aws_secret_access_key=keys.get(_KEYS[1]),
        aws_session_token=keys.get(_TOKEN),
    ).client(
        "s3",
        endpoint_url=where,
        region_name=spec.storage.region,
        config=Config(
            connect_timeout=4,
            read_timeout=10,
            retries={"mode": "standard", "total_max_attempts": 2},
            s3={"addressing_style": "path" if where else "auto"},
        ),
    )
    bucket, _, key = uri.removeprefix("s3://").partition("/")
    check, whose = f"bucket {uri}", "the Secret's credentials" if with_ else "your own credentials"
    try:
        client.list_objects_v2(Bucket=bucket, Prefix=f"{key}/" if key else "", MaxKeys=1)
    except s3_errors.CAUGHT as error:
        said = s3_errors.s3_failure(error, uri, where or "AWS")
        return fault(check, f"with {whose}: {said}", "mend bucket, credentials or endpoint (--endpoint tries another)")
    finally:
        client.close()
    return ok(check, f"it can be listed with {whose}")


async def devices(session: Session, spec: RuntimeSpec) -> Finding:
    """Whether a node that the runtime selects has as many devices as it says."""
    wanted, selector = spec.accelerator, spec.node_selector or {}
    if wanted is None:
        return ok("devices", "the runtime trains on CPUs")
    query = {"labelSelector": ",".join(f"{key}={value}" for key, value in selector.items())} if selector else {}
    nodes = (await session.api.get(_NODES, query=query))["items"]
    if not nodes:
        labels = ", ".join(f"{key}={value}" for key, value in selector.items())
        message = f"no node has the labels of the runtime's nodeSelector ({labels})" if selector else "there is no node"
        return fault("devices", message, "label the nodes, or mend nodeSelector")
    counts = [bytes_of(node.get("status", {}).get("allocatable", {}).get(wanted.resource, 0)) for node in nodes]
    if not any(counts):
        message = f"no node offers {wanted.resource}: its device plugin does not run"
        return fault("devices", message, "install the device plugin on those nodes, or mend accelerator.resource")
    enough = sum(count >= wanted.per_node for count in counts)
    if not enough:
        message = f"the runtime says {wanted.per_node} {wanted.resource} a node, the best node has {max(counts)}"
        return fault("devices", message, "mend accelerator.perNode")
    return ok("devices", f"{enough} of {len(nodes)} nodes have {wanted.per_node} {wanted.resource} or more")
