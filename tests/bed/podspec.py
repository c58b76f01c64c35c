"""What a pod's manifest asks of its node: volumes as folders, mounts, environment and command of a container.

ConfigMaps, Secrets and tokens are read from the API server at the time of asking. What is missing raises MissingError.
"""

from __future__ import annotations

import base64
import re
import shutil
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bed.apiclient import Api, Object

_VARIABLE = re.compile(r"\$\$|\$\(([^()]*)\)")
_SUFFIXES = {"k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12, "Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40, "m": 1e-3}


class MissingError(Exception):
    """A ConfigMap, a Secret or a key that is not there, in a kubelet's words."""


@dataclass(frozen=True, kw_only=True)
class Image:
    """An image that a node has: root, environment, folders of this machine at paths of the image, and its user.

    Most tests need no image built: the root is that of this machine, with the folders added to it.
    """

    root: Path = Path("/")
    env: Mapping[str, str] = field(default_factory=dict)
    folders: Mapping[str, Path] = field(default_factory=dict)
    writable: Mapping[str, Path] = field(default_factory=dict)
    user: int = 0


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where a pod runs."""

    api: Api
    node_name: str
    node_address: str
    api_address: str  # of the Service `kubernetes`


def quantity(text: str | int | float) -> float:
    """The number that Kubernetes writes as 500m or 2Gi."""
    number, suffix = re.fullmatch(r"([0-9.e+]+)([A-Za-z]*)", str(text)).groups()  # type: ignore[union-attr]
    return float(number) * (_SUFFIXES[suffix] if suffix else 1)


def fill_volumes(pod: Object, place: Place, folder: Path, status: Object) -> dict[str, Object]:
    """The volumes by name, as `source` (a host folder, None for a tmpfs), `options` and `read_only` of a mount."""
    volumes = {}
    for volume in pod["spec"].get("volumes", []):
        path = folder / "volumes" / volume["name"]
        path.mkdir(parents=True, exist_ok=True)
        path.chmod(0o777)
        empty = volume.get("emptyDir")
        mount: Object = {"source": str(path), "options": "", "read_only": False}
        if empty is not None and empty.get("medium") == "Memory":
            size = f"size={int(quantity(empty['sizeLimit']))}" if "sizeLimit" in empty else "size=50%"
            mount |= {"source": None, "options": size}
        elif "hostPath" in volume:
            mount["source"] = volume["hostPath"]["path"]
            if volume["hostPath"].get("type") == "DirectoryOrCreate":
                Path(mount["source"]).mkdir(parents=True, exist_ok=True)
        elif empty is None:
            mount["read_only"] = True
            files = {name: data for source in _sources(volume) for name, data in _files(source, pod, place, status)}
            shutil.rmtree(path)
            for name, data in files.items():
                path.joinpath(name).parent.mkdir(parents=True, exist_ok=True)
                path.joinpath(name).write_bytes(data)
        volumes[volume["name"]] = mount
    return volumes


def mounts_of(container: Object, volumes: Mapping[str, Object], own_files: Mapping[str, Path]) -> list[Object]:
    """The mounts of a container, as podinit takes them."""
    mounts = [
        {"target": target, "source": str(path), "options": "", "read_only": False} for target, path in own_files.items()
    ]
    for each in container.get("volumeMounts", []):
        mount = {"target": each["mountPath"].rstrip("/"), **volumes[each["name"]]}
        if each.get("subPath"):
            mount["source"] = f"{mount['source']}/{each['subPath']}"
            if not Path(mount["source"]).exists():
                Path(mount["source"]).mkdir(parents=True)
        mount["read_only"] = mount["read_only"] or each.get("readOnly", False)
        mounts.append(mount)
    return mounts


def environment(container: Object, image: Image, pod: Object, place: Place, status: Object) -> dict[str, str]:
    """The image's variables, the API server's address, envFrom and env; each may use those before it."""
    address = place.api_address
    env = {
        "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "HOSTNAME": hostname(pod),
        **image.env,
        "KUBERNETES_SERVICE_HOST": address,
        "KUBERNETES_SERVICE_PORT": "443",
        "KUBERNETES_SERVICE_PORT_HTTPS": "443",
        "KUBERNETES_PORT": f"tcp://{address}:443",
    }
    for source in container.get("envFrom", []):
        kind = "configMap" if "configMapRef" in source else "secret"
        reference = source[f"{kind}Ref"]
        data = _data(kind, reference["name"], pod, place, optional=reference.get("optional", False))
        env |= {source.get("prefix", "") + key: value.decode() for key, value in (data or {}).items()}
    for variable in container.get("env", []):
        source = variable.get("valueFrom")
        value = expand(variable.get("value", ""), env) if not source else _value(source, container, pod, place, status)
        if value is not None:
            env[variable["name"]] = value
    return env


def expand(text: str, env: Mapping[str, str]) -> str:
    """$(NAME) becomes the variable's value; unknown ones stay; $$ is a dollar sign."""
    return _VARIABLE.sub(lambda found: "$" if found[0] == "$$" else env.get(found[1], found[0]), text)


def hostname(pod: Object) -> str:
    return str(pod["spec"].get("hostname") or pod["metadata"]["name"])[:63]


def hosts_file(pod: Object, address: str) -> str:
    """As a kubelet writes /etc/hosts."""
    name, domain = hostname(pod), pod["spec"].get("subdomain")
    namespace = pod["metadata"]["namespace"]
    full = f"{name}.{domain}.{namespace}.svc.cluster.local\t" if domain else ""
    return f"127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n{address}\t{full}{name}\n"


def resolver_file(pod: Object, dns_address: str) -> str:
    """As a kubelet writes /etc/resolv.conf, for dnsPolicy ClusterFirst."""
    namespace = pod["metadata"]["namespace"]
    search = f"search {namespace}.svc.cluster.local svc.cluster.local cluster.local"
    return f"{search}\nnameserver {dns_address}\noptions ndots:5\n"


def _sources(volume: Object) -> Iterator[Object]:
    """The sources of a volume, in the words of a projected one."""
    if "projected" in volume:
        yield from volume["projected"].get("sources", [])
    elif "configMap" in volume:
        yield {"configMap": volume["configMap"]}
    elif "secret" in volume:
        yield {"secret": {**volume["secret"], "name": volume["secret"]["secretName"]}}
    elif "downwardAPI" in volume:
        yield {"downwardAPI": volume["downwardAPI"]}
    else:
        raise MissingError(f'volume "{volume["name"]}" is of a kind that process nodes do not have')


def _files(source: Object, pod: Object, place: Place, status: Object) -> Iterator[tuple[str, bytes]]:
    if token := source.get("serviceAccountToken"):
        yield token["path"], _token(token, pod, place).encode()
    for item in source.get("downwardAPI", {}).get("items", []):
        yield item["path"], (_value(item, {}, pod, place, status) or "").encode()
    for kind in ("configMap", "secret"):
        if reference := source.get(kind):
            optional = reference.get("optional", False)
            data = _data(kind, reference["name"], pod, place, optional=optional) or {}
            items = reference.get("items") or [{"key": key, "path": key} for key in data]
            for item in items:
                if item["key"] in data:
                    yield item["path"], data[item["key"]]
                elif not optional:
                    raise MissingError(f"references non-existent config key: {item['key']}")


def _token(source: Object, pod: Object, place: Place) -> str:
    """A token that is good only while this very pod exists."""
    meta = pod["metadata"]
    account = pod["spec"].get("serviceAccountName", "default")
    bound = {"apiVersion": "v1", "kind": "Pod", "name": meta["name"], "uid": meta["uid"]}
    spec = {"expirationSeconds": source.get("expirationSeconds", 3600), "boundObjectRef": bound}
    spec["audiences"] = [source["audience"]] if source.get("audience") else []
    path = f"/api/v1/namespaces/{meta['namespace']}/serviceaccounts/{account}/token"
    request = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": spec}
    return str(place.api.post(path, request)["status"]["token"])


def _value(source: Object, container: Object, pod: Object, place: Place, status: Object) -> str | None:
    if field_ref := source.get("fieldRef"):
        return _field(field_ref["fieldPath"], pod, place, status)
    if resource := source.get("resourceFieldRef"):
        kind, _, name = resource["resource"].partition(".")
        return str(int(quantity(container.get("resources", {}).get(kind, {}).get(name, 0))))
    kind = "configMap" if "configMapKeyRef" in source else "secret"
    reference = source[f"{kind}KeyRef"]
    optional = reference.get("optional", False)
    data = _data(kind, reference["name"], pod, place, optional=optional)
    if data is None or reference["key"] not in data:
        if optional:
            return None
        where = f"{pod['metadata']['namespace']}/{reference['name']}"
        raise MissingError(f"couldn't find key {reference['key']} in {kind[0].upper()}{kind[1:]} {where}")
    return data[reference["key"]].decode()


def _field(path: str, pod: Object, place: Place, status: Object) -> str:
    found = re.fullmatch(r"metadata\.(labels|annotations)(?:\['(.*)'\])?", path)
    if found:
        values = pod["metadata"].get(found[1], {})
        if found[2] is not None:
            return str(values.get(found[2], ""))
        return "".join(f'{key}="{value}"\n' for key, value in sorted(values.items()))
    thing: Any = {**pod, "status": {**status, "hostIP": place.node_address}}
    for name in path.split("."):
        thing = thing.get(name, "")
    return str(thing)


def _data(kind: str, name: str, pod: Object, place: Place, *, optional: bool) -> dict[str, bytes] | None:
    """What a ConfigMap or Secret holds; None where it is not there and need not be."""
    path = f"/api/v1/namespaces/{pod['metadata']['namespace']}/{kind.lower()}s/{name}"
    found = place.api.get(path)
    if found is None:
        if optional:
            return None
        raise MissingError(f'{kind.lower()} "{name}" not found')
    if kind == "secret":
        return {key: base64.b64decode(value) for key, value in (found.get("data") or {}).items()}
    binary = {key: base64.b64decode(value) for key, value in (found.get("binaryData") or {}).items()}
    return binary | {key: value.encode() for key, value in (found.get("data") or {}).items()}


def timestamp(seconds: float | None = None) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))
