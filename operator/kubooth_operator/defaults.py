"""Which runtime `default` means in a namespace. Pure; the operator and the commands for the cluster ask it.

A runtime may say that it is the default of some namespaces (`spec.defaultForNamespaces`). Runtimes belong to the
platform, so nobody can give a namespace more than the platform meant for it.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

Manifest = dict[str, Any]
DEFAULT = "default"


def default_of(namespace: str, runtimes: Iterable[Manifest]) -> Manifest | None:
    """The runtime that is made the default of the namespace: the oldest of several; None: the one named `default`."""
    found = [each for each in runtimes if namespace in claimed(each)]
    return min(found, key=_age, default=None)


def claimed(runtime: Manifest) -> tuple[str, ...]:
    """The namespaces that a runtime is made the default of."""
    return tuple((runtime.get("spec") or {}).get("defaultForNamespaces") or ())


def _age(runtime: Manifest) -> tuple[str, str]:
    metadata = runtime["metadata"]
    return metadata.get("creationTimestamp") or "", metadata["name"]
