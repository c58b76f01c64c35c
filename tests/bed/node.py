"""A process node: registers as a Node, says that it lives, runs the pods bound to it, and serves their logs.

The Node object has `cpu`, `memory`, `pods` and devices of the resource `kubooth.test/device`. The log server is
reached by the API server (`kubectl logs`) with its client certificate, and by nobody without one.
"""

from __future__ import annotations

import contextlib
import platform
import signal
import ssl
import threading
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Final
from urllib.parse import parse_qs, urlsplit

from bed.apiclient import Api, Object, RefusedError, UnavailableError, Watch
from bed.certificates import Authority
from bed.network import Bridge
from bed.pod import Ground, Pod
from bed.podspec import Image, Place, timestamp

DEVICE: Final = "kubooth.test/device"
HEARTBEAT_SECONDS = 2
_FOLLOW_SECONDS = 0.1
_LEASES = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases"
_CONDITIONS = {
    "MemoryPressure": ("False", "KubeletHasSufficientMemory"),
    "DiskPressure": ("False", "KubeletHasNoDiskPressure"),
    "PIDPressure": ("False", "KubeletHasSufficientPID"),
    "Ready": ("True", "KubeletReady"),
}


class Node:
    """One node of a bed. Use as a context."""

    def __init__(
        self,
        name: str,
        api: Api,
        bridge: Bridge,
        authority: Authority,
        images: dict[str, Image],
        folder: Path,
        capacity: Mapping[str, str],
    ) -> None:
        self.name = name
        self.address = bridge.new_address()
        self._api = api.separable()
        self._bridge = bridge
        self._authority = authority
        self._capacity = dict(capacity)
        place = Place(api=self._api, node_name=name, node_address=self.address, api_address=bridge.address)
        self._late: dict[str, float] = {}
        self._ground = Ground(place=place, bridge=bridge, images=images, late_until=self._late_until, folder=folder)
        self._pods: dict[str, Pod] = {}
        self._lock = threading.Lock()
        self._ended = threading.Event()
        self._heart = threading.Thread(target=self._beat, name=f"heart of {name}", daemon=True)
        self._watch: Watch | None = None
        self._frozen: list[Pod] = []

    def __enter__(self) -> Node:
        self._bridge.add_own(self.address)
        pair = self._authority.server(self.name, addresses=[self.address])
        self._logs = _LogServer((self.address, 0), self)
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=str(self._authority.certificate))
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_cert_chain(pair.certificate, pair.key)
        self._logs.socket = context.wrap_socket(self._logs.socket, server_side=True, do_handshake_on_connect=False)
        self._server = threading.Thread(
            target=self._logs.serve_forever, args=(0.05,), name=f"logs of {self.name}", daemon=True
        )
        self._server.start()
        self._register()
        self._heart.start()
        self._begin_watch()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        if self._watch:
            self._watch.end()
        self._api.cut.set()  # whatever the pods still want to say
        for pod in self.pods:
            pod.forget()
        for pod in self.pods:
            pod.join(60)
        self._heart.join()
        self._logs.shutdown()
        self._logs.server_close()
        self._server.join()

    @property
    def pods(self) -> list[Pod]:
        """Those that it knows, the ended ones too, until their object is gone."""
        with self._lock:
            return list(self._pods.values())

    def pod(self, namespace: str, name: str) -> Pod | None:
        for pod in self.pods:
            meta = pod.manifest["metadata"]
            if (meta["namespace"], meta["name"]) == (namespace, name):
                return pod
        return None

    def delay_pods(self, prefix: str, until: float) -> None:
        """Pods whose name begins so get their image only at that time of time.monotonic()."""
        self._late[prefix] = until

    def vanish(self, *, frozen: bool = False) -> None:
        """The machine is cut off: no heartbeat, no network for its pods. Their processes run on, or stand still."""
        assert self._watch
        self._api.cut.set()
        self._watch.end()
        self._bridge.remove_own(self.address)
        for pod in self.pods:
            pod.silence()
            if frozen:
                pod.signal_all(signal.SIGSTOP)
                self._frozen.append(pod)

    def come_back(self) -> None:
        """It is there again, with the pods that it had; what was deleted meanwhile ends now."""
        for pod in self._frozen:
            pod.signal_all(signal.SIGCONT)
        self._frozen.clear()
        for pod in self.pods:
            pod.unsilence()
        self._bridge.add_own(self.address)
        self._api.cut.clear()
        self._begin_watch()

    def _begin_watch(self) -> None:
        self._watch = Watch(self._api, "/api/v1/pods", self._sync, f"fieldSelector=spec.nodeName%3D{self.name}")
        self._watch.start()

    def _sync(self, bound: dict[str, Object]) -> None:
        """Starts, tells and forgets pods, so that they are those bound to this node."""
        with self._lock:
            for uid, manifest in bound.items():
                if uid in self._pods:
                    self._pods[uid].update(manifest)
                elif manifest.get("status", {}).get("phase", "Pending") == "Pending":
                    self._pods[uid] = Pod(manifest, self._ground)
                    self._pods[uid].start()
            for uid in self._pods.keys() - bound.keys():
                self._pods.pop(uid).forget()

    def _late_until(self, pod_name: str) -> float:
        return max((until for prefix, until in self._late.items() if pod_name.startswith(prefix)), default=0.0)

    def _register(self) -> None:
        labels = {"kubernetes.io/hostname": self.name, "kubernetes.io/os": "linux"}
        node = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": self.name, "labels": labels}}
        self._api.create("/api/v1/nodes", node)
        self._tell()
        self._renew()

    def _beat(self) -> None:
        while not self._ended.wait(HEARTBEAT_SECONDS):
            with contextlib.suppress(UnavailableError, RefusedError):
                self._renew()
                self._tell()

    def _renew(self) -> None:
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        spec = {"holderIdentity": self.name, "leaseDurationSeconds": 40, "renewTime": now}
        lease = {"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": self.name}, "spec": spec}
        try:
            self._api.patch(f"{_LEASES}/{self.name}", {"spec": spec})
        except RefusedError as error:
            if error.status != 404:
                raise
            self._api.create(_LEASES, lease)

    def _tell(self) -> None:
        now = timestamp()
        conditions = [
            {"type": kind, "status": status, "reason": reason, "message": "", "lastHeartbeatTime": now}
            for kind, (status, reason) in _CONDITIONS.items()
        ]
        system = platform.uname()
        information = dict.fromkeys(("machineID", "systemUUID", "bootID", "osImage", "kubeProxyVersion"), "")
        status = {
            "conditions": conditions,
            "capacity": self._capacity,
            "allocatable": self._capacity,
            "addresses": [{"type": "InternalIP", "address": self.address}, {"type": "Hostname", "address": self.name}],
            "daemonEndpoints": {"kubeletEndpoint": {"Port": self._logs.server_address[1]}},
            "nodeInfo": information
            | {
                "kernelVersion": system.release,
                "architecture": {"x86_64": "amd64", "aarch64": "arm64"}.get(system.machine, system.machine),
                "operatingSystem": "linux",
                "containerRuntimeVersion": "process://1",
                "kubeletVersion": "v1.36.3-process",
            },
        }
        self._api.patch(f"/api/v1/nodes/{self.name}/status", {"status": status})


class _LogServer(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, address: tuple[str, int], node: Node) -> None:
        super().__init__(address, _LogHandler)
        self.node = node
        self.ended = threading.Event()

    def shutdown(self) -> None:
        self.ended.set()
        super().shutdown()

    def handle_error(self, *_: object) -> None:
        """A client without a certificate, or one that went away."""


class _LogHandler(BaseHTTPRequestHandler):
    """GET /containerLogs/NAMESPACE/POD/CONTAINER?follow=true&tailLines=N"""

    protocol_version = "HTTP/1.1"
    server: _LogServer

    def do_GET(self) -> None:
        url = urlsplit(self.path)
        options = {name: values[-1] for name, values in parse_qs(url.query).items()}
        kind, *names = url.path.strip("/").split("/")
        if kind != "containerLogs" or len(names) != 3:
            return self._refuse(404, "not found")
        pod = self.server.node.pod(names[0], names[1])
        containers = [each for each in (*pod.init_containers, *pod.containers) if each.name == names[2]] if pod else []
        if pod is None or not containers:
            return self._refuse(404, f'pod "{names[1]}" has no container "{names[2]}" here')
        if containers[0].is_waiting:
            reason = containers[0].state["waiting"]["reason"]
            return self._refuse(400, f'container "{names[2]}" in pod "{names[1]}" is waiting to start: {reason}')
        self.send_response(200)
        self.send_header("Content-Type", "text/plain")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        with containers[0].log.open("rb") as log:
            if "tailLines" in options:
                _seek_lines(log, int(options["tailLines"]))
            while True:
                is_running = containers[0].is_running and not self.server.ended.is_set()
                while piece := log.read(65536):
                    self.wfile.write(b"%x\r\n%s\r\n" % (len(piece), piece))
                if options.get("follow") != "true" or not is_running:
                    break
                time.sleep(_FOLLOW_SECONDS)
        self.wfile.write(b"0\r\n\r\n")
        return None

    def log_message(self, *_: object) -> None:
        """Not to standard error."""

    def _refuse(self, status: int, message: str) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(message.encode())))
        self.end_headers()
        self.wfile.write(message.encode())


def _seek_lines(log: object, lines: int) -> None:
    data = log.read()  # type: ignore[attr-defined]
    tail = b"".join(data.splitlines(keepends=True)[-lines:]) if lines else b""
    log.seek(len(data) - len(tail))  # type: ignore[attr-defined]
