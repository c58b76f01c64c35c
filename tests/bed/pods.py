"""Pods of a test on a `cluster`: made by a line each, watched until they are where the test wants them.

def test_something(pods): pods.create("one", "exit 3"); assert pods.ended("one")["exitCode"] == 3
"""

from __future__ import annotations

import textwrap
from collections.abc import Callable
from typing import Any

from bed.eventually import eventually
from bed.nodes import TRAINER_IMAGE, Cluster
from bed.pod import Pod

Manifest = dict[str, Any]
# Leaves on SIGTERM; `running` waits for what it says.
SLEEP = "trap 'exit 143' TERM; echo up; while true; do sleep 0.1; done"


class Pods:
    """Runs pods in one namespace. Their container is called `main` and runs a bash script in the trainer's image."""

    def __init__(self, cluster: Cluster, namespace: str) -> None:
        self.cluster, self.namespace = cluster, namespace
        self.path = f"/api/v1/namespaces/{namespace}/pods"

    def create(self, name: str, script: str = SLEEP, *, container: Manifest | None = None, **spec: Any) -> None:
        """`container` and `spec` are put over those of the pod."""
        main = {"name": "main", "image": TRAINER_IMAGE, "command": ["bash", "-c", script], **(container or {})}
        whole = {"restartPolicy": "Never", "terminationGracePeriodSeconds": 5, "containers": [main], **spec}
        meta = {"name": name, "labels": {"run": name}, "annotations": {"note": "of the pod"}}
        self.cluster.api.post(self.path, {"apiVersion": "v1", "kind": "Pod", "metadata": meta, "spec": whole})

    def create_python(self, name: str, program: str, **container: Any) -> None:
        """One whose process 1 is Python."""
        self.create(name, container={"command": ["python", "-c", textwrap.dedent(program)], **container})

    def apply(self, kind: str, name: str, api_version: str = "v1", **rest: Any) -> None:
        """Another object of the namespace."""
        meta = {"name": name, "namespace": self.namespace}
        self.cluster.plane.apply({"apiVersion": api_version, "kind": kind, "metadata": meta, **rest})

    def get(self, name: str) -> Manifest | None:
        return self.cluster.api.get(f"{self.path}/{name}")

    def delete(self, name: str, **options: Any) -> None:
        self.cluster.api.request("DELETE", f"{self.path}/{name}", options)

    def process(self, name: str) -> Pod:
        """The pod as its node runs it."""
        return self.cluster.pod(self.namespace, name)

    def until(self, name: str, holds: Callable[[Manifest], object], what: str) -> Manifest:
        """The pod, once that holds."""

        def look() -> Manifest | None:
            pod = self.get(name)
            return pod if pod and holds(pod) else None

        found = eventually(look, f"pod {name}: {what}", tell=lambda: self.get(name))
        assert found
        return found

    def running(self, name: str) -> Manifest:
        """The pod, once its container runs and has said something."""
        pod = self.until(name, lambda pod: pod["status"]["phase"] == "Running", "running")
        eventually(self.process(name).containers[0].log.read_text, f"output of {name}")
        return pod

    def ended(self, name: str) -> Manifest:
        """The terminated state of its container."""
        pod = self.until(name, lambda pod: pod["status"]["phase"] in ("Succeeded", "Failed"), "ended")
        state: Manifest = pod["status"]["containerStatuses"][0]["state"]["terminated"]
        assert pod["status"]["phase"] == ("Failed" if state["exitCode"] else "Succeeded")
        return state

    def waiting(self, name: str, reason: str, says: str) -> None:
        """Returns once the container waits for that reason, with that in its message."""

        def holds(pod: Manifest) -> bool:
            state = pod["status"].get("containerStatuses", [{}])[0].get("state", {}).get("waiting", {})
            return state.get("reason") == reason and says in state.get("message", "")

        self.until(name, holds, f"waiting, {reason}: {says}")

    def output(self, name: str, *options: str) -> str:
        return self.cluster.plane.kubectl("logs", name, "-n", self.namespace, *options).stdout

    def gone(self, name: str) -> None:
        eventually(lambda: self.get(name) is None, f"end of pod {name}")
