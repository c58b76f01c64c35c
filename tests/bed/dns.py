"""The DNS of a bed: answers for Services and for pods of headless Services, from what the API server knows.

`hostname.service.namespace.svc.cluster.local` as cluster DNS gives it: a pod appears when its EndpointSlice says it is
ready, or at once where the Service publishes addresses that are not ready. All other names do not exist.
"""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
import time

from bed.apiclient import Api, Object, Watch

_DOMAIN = "svc.cluster.local"
_TYPE_A, _CLASS_IN = 1, 1
_RESPONSE, _NO_SUCH_NAME = 0x8580, 3


class Dns(threading.Thread):
    """Listens at `address`, port 53. Use as a context."""

    def __init__(self, api: Api, address: str) -> None:
        super().__init__(name="dns", daemon=True)
        self._address = address
        self._services = Watch(api, "/api/v1/services", lambda _: None)
        self._slices = Watch(api, "/apis/discovery.k8s.io/v1/endpointslices", lambda _: None)
        self._hidden: dict[str, float] = {}
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._ended = False

    def __enter__(self) -> Dns:
        self._socket.bind((self._address, 53))
        for thread in (self._services, self._slices, self):
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended = True
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as waker:
            waker.sendto(b"", (self._address, 53))
        self.join()
        self._socket.close()
        self._services.end()
        self._slices.end()

    def delay(self, name: str, until: float) -> None:
        """No such name (without the cluster's domain: `pod.service.namespace`) until that time of time.monotonic()."""
        self._hidden[f"{name.removesuffix('.svc')}.{_DOMAIN}"] = until

    def resolve(self, name: str) -> list[str] | None:
        """Addresses; None where there is no such name."""
        if time.monotonic() < self._hidden.get(name, 0) or not name.endswith(f".{_DOMAIN}"):
            return None
        *host, service, namespace = name.removesuffix(f".{_DOMAIN}").split(".")[-3:]
        found = _find(self._services, namespace, service)
        if found is None:
            return None
        cluster_ip = found["spec"].get("clusterIP", "None")
        if cluster_ip != "None" and not host:
            return [cluster_ip]
        endpoints = self._endpoints(namespace, service)
        wanted = [each for each in endpoints if not host or each.get("hostname") == host[0]]
        addresses = [address for each in wanted for address in each["addresses"]]
        return addresses or (None if host else [])

    def run(self) -> None:
        while True:
            query, sender = self._socket.recvfrom(512)
            if self._ended:
                return
            with contextlib.suppress(ValueError, IndexError, struct.error, OSError):
                self._socket.sendto(self._answer(query), sender)

    def _answer(self, query: bytes) -> bytes:
        name, kind, question = _question(query)
        addresses = self.resolve(name)
        records = [address for address in addresses or [] if kind == _TYPE_A]
        code = _NO_SUCH_NAME if addresses is None else 0
        head = struct.pack("!HHHHHH", *struct.unpack("!H", query[:2]), _RESPONSE | code, 1, len(records), 0, 0)
        answers = b"".join(
            b"\xc0\x0c" + struct.pack("!HHIH", _TYPE_A, _CLASS_IN, 0, 4) + socket.inet_aton(address)
            for address in records
        )
        return head + question + answers

    def _endpoints(self, namespace: str, service: str) -> list[Object]:
        """Those with an address that is to be known."""
        return [
            endpoint
            for piece in list(self._slices.objects.values())
            if piece["metadata"]["namespace"] == namespace
            and piece["metadata"].get("labels", {}).get("kubernetes.io/service-name") == service
            for endpoint in piece.get("endpoints") or []
            if endpoint.get("conditions", {}).get("ready", True)
        ]


def _find(watch: Watch, namespace: str, name: str) -> Object | None:
    for each in list(watch.objects.values()):
        if each["metadata"]["namespace"] == namespace and each["metadata"]["name"] == name:
            return each
    return None


def _question(query: bytes) -> tuple[str, int, bytes]:
    """Name and type asked for, and the question as it stands in the query."""
    labels, at = [], 12
    while length := query[at]:
        labels.append(query[at + 1 : at + 1 + length].decode("ascii").lower())
        at += 1 + length
    (kind,) = struct.unpack("!H", query[at + 1 : at + 3])
    return ".".join(labels), kind, query[12 : at + 5]
