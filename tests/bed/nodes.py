"""A cluster in which pods run: a control plane, process nodes, DNS and an S3 server on one bridge.

    with pod_cluster(folder) as cluster: cluster.plane.kubectl("apply", "-f", ...)

As a process of its own, until SIGTERM, with a line of JSON on standard output once all is ready:

    PYTHONPATH=tests python -m bed.nodes [--nodes 2] [--devices 4]
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import os
import shutil
import signal
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from bed import s3
from bed.apiclient import Api
from bed.controlplane import ControlPlane, control_plane
from bed.dns import Dns
from bed.eventually import eventually
from bed.installation import install
from bed.network import Bridge, bed_folder, obstacle
from bed.node import DEVICE, Node
from bed.pod import Pod
from bed.podspec import Image

TRAINER_IMAGE: Final = "kubooth.test/trainer:dev"
ROOT = Path(__file__).parents[2]
_HOME = "/opt/kubooth"  # in the trainer's image
# A node that is gone is noticed after this time, in which it has missed seven heartbeats.
_GONE_SECONDS = 16


@dataclass
class Cluster:
    """One that runs."""

    plane: ControlPlane
    api: Api
    bridge: Bridge
    dns: Dns
    nodes: tuple[Node, ...]
    images: dict[str, Image]
    s3_endpoint: str

    def pod(self, namespace: str, name: str) -> Pod:
        """The pod as its node runs it."""
        found = [pod for node in self.nodes if (pod := node.pod(namespace, name))]
        assert found, f"no node runs {namespace}/{name}"
        return found[0]

    def node_of(self, namespace: str, name: str) -> Node:
        return next(node for node in self.nodes if node.pod(namespace, name))

    def delay_pods(self, prefix: str, until: float) -> None:
        """Pods whose name begins so find no image before that time of time.monotonic(): they are late."""
        for node in self.nodes:
            node.delay_pods(prefix, until)

    def delay_dns(self, name: str, until: float) -> None:
        """`pod.service.namespace` does not resolve before that time of time.monotonic()."""
        self.dns.delay(name, until)


@contextlib.contextmanager
def pod_cluster(
    folder: Path,
    *,
    nodes: int = 2,
    devices: int = 4,
    controller_manager: Sequence[str] = (),
    images: Mapping[str, Image] | None = None,
) -> Iterator[Cluster]:
    """Starts one, its files in `folder` (an empty one, best on tmpfs), with Kubooth installed; ends it whole.

    With `images` it has these, and Kubooth is left to whoever asked for them.
    """
    missing = obstacle()
    if missing:
        raise RuntimeError(missing)
    is_bare = images is not None
    images = dict(images) if images is not None else {TRAINER_IMAGE: trainer_image()}
    options = [f"--node-monitor-grace-period={_GONE_SECONDS}s", "--node-monitor-period=2s", *controller_manager]
    with contextlib.ExitStack() as stack:
        bridge = stack.enter_context(Bridge())
        where = {"address": bridge.address, "port": 443, "service_range": bridge.service_range}
        plane = stack.enter_context(control_plane(folder / "plane", **where, controller_manager=options))
        pair = plane.authority.client("bed", groups=["system:masters"])
        api = Api.of(plane.endpoint, ca=plane.ca, certificate=pair.certificate, key=pair.key)
        endpoint = stack.enter_context(s3.serving(folder / "s3", bridge.address))
        dns = stack.enter_context(Dns(api, bridge.address))
        capacity = {"cpu": "16", "memory": "64Gi", "pods": "110", "ephemeral-storage": "64Gi", DEVICE: str(devices)}
        members = [
            Node(f"node-{number}", api, bridge, plane.authority, images, folder / f"node-{number}", capacity)
            for number in range(1, nodes + 1)
        ]
        for node in members:
            stack.enter_context(node)
        if not is_bare:
            install(plane)
        _wait_for_nodes(api, nodes)
        yield Cluster(plane, api, bridge, dns, tuple(members), images, endpoint)


def trainer_image() -> Image:
    """This Python environment and this checkout, at paths that no pod mounts over.

    Importing torch takes most of a pod's start, so compiled modules are kept for all pods of a user.
    """
    python = hashlib.sha256(f"{sys.prefix} {sys.version}".encode()).hexdigest()[:8]
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "kubooth", f"pycache-{python}")
    cache.mkdir(parents=True, exist_ok=True)
    packages = ("operator", "trainer", "world", "cli")
    env = {
        "PATH": f"{_HOME}/python/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "PYTHONPATH": ":".join(f"{_HOME}/source/{package}" for package in packages),
        "PYTHONPYCACHEPREFIX": f"{_HOME}/pycache",
        "PYTHONUNBUFFERED": "1",
    }
    folders = {f"{_HOME}/python": Path(sys.prefix), f"{_HOME}/source": ROOT}
    return Image(env=env, folders=folders, writable={f"{_HOME}/pycache": cache}, user=1000)


def _wait_for_nodes(api: Api, count: int) -> None:
    """Until pods can be bound to them: the controller has seen that they are ready."""

    def are_ready() -> bool:
        nodes = api.request("GET", "/api/v1/nodes")["items"]
        return len(nodes) == count and not any(node["spec"].get("taints") for node in nodes)

    eventually(are_ready, "nodes that are ready", seconds=180)


def main() -> None:
    parser = argparse.ArgumentParser(description="A control plane with process nodes, until SIGTERM.")
    parser.add_argument("--nodes", type=int, default=2)
    parser.add_argument("--devices", type=int, default=4, help="of each node")
    options = parser.parse_args()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: sys.exit(0))
    folder = bed_folder()
    try:
        with pod_cluster(folder, nodes=options.nodes, devices=options.devices) as cluster:
            facts = {"pid": os.getpid(), "kubeconfig": str(cluster.plane.admin), "s3": cluster.s3_endpoint}
            print(json.dumps(facts | {"kubectl": str(cluster.plane.kubectl_program)}), flush=True)
            while True:
                signal.pause()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
