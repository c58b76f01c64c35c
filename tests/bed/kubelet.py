"""A kubelet's part played by hand: pods run and end when a test says so. No container."""

from __future__ import annotations

import http.client
import json
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

from bed.controlplane import ControlPlane
from bed.rest import ApiError, Rest

Manifest = dict[str, Any]
CONTAINER = "trainer"


def now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


@contextmanager
def node(plane: ControlPlane, name: str, devices: Mapping[str, str]) -> Iterator[None]:
    """A Node object of that name with room for everything but devices, kept ready; nothing runs on it by itself."""
    rest, stopping = Rest(plane), threading.Event()
    room = {"cpu": "100k", "memory": "100Ti", "pods": "10000", "ephemeral-storage": "100Ti", **devices}
    rest.post("/api/v1/nodes", {"apiVersion": "v1", "kind": "Node", "metadata": {"name": name}})

    def keep_ready() -> None:
        while True:
            ready = {"type": "Ready", "status": "True", "reason": "Played", "lastHeartbeatTime": now()}
            status = {"capacity": room, "allocatable": room, "conditions": [ready]}
            rest.merge(f"/api/v1/nodes/{name}/status", {"status": status})
            if stopping.wait(5):
                rest.close()
                return

    thread = threading.Thread(target=keep_ready, daemon=True)
    thread.start()
    yield
    stopping.set()
    thread.join()


def run(rest: Rest, pod: Manifest) -> Manifest:
    """The pod's container runs and is ready."""
    state = {"running": {"startedAt": now()}}
    return _write(rest, pod, "Running", state, ready=True)


def end(rest: Rest, pod: Manifest, *, exit_code: int = 0, reason: str = "", message: Manifest | str = "") -> Manifest:
    """The pod's container ends, with a termination message."""
    text = message if isinstance(message, str) else json.dumps(message)
    terminated = {
        "exitCode": exit_code,
        "reason": reason or ("Completed" if exit_code == 0 else "Error"),
        "message": text,
        "startedAt": now(),
        "finishedAt": now(),
    }
    phase = "Succeeded" if exit_code == 0 else "Failed"
    return _write(rest, pod, phase, {"terminated": terminated}, ready=False)


def termination(exit_code: int = 0, reason: str = "Completed", text: str = "done", **summary: Any) -> Manifest:
    """What a launcher leaves, as kubooth_trainer.termination writes it."""
    return {"version": 1, "reason": reason, "message": text, "exitCode": exit_code, "summary": summary or None}


class Kubelet:
    """Does `act` to every pod of Kubooth that it sees, every now and then, in a thread of its own."""

    def __init__(self, rest: Rest, act: Callable[[Rest, Manifest], object], namespace: str | None = None) -> None:
        self._rest = rest
        self._act = act
        self._path = f"/api/v1/namespaces/{namespace}/pods" if namespace else "/api/v1/pods"
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._loop, name="kubelet", daemon=True)

    def __enter__(self) -> Kubelet:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        self._thread.join(30)

    def _loop(self) -> None:
        while not self._stopping.wait(0.1):
            try:
                for pod in self._rest.items(self._path, "app.kubernetes.io/managed-by=kubooth"):
                    self._act(self._rest, pod)
            except (ApiError, OSError, http.client.HTTPException):  # gone meanwhile, or an outage that the test wants
                continue
        self._rest.close()


def succeed(rest: Rest, pod: Manifest) -> None:
    """For `Kubelet`: every pod runs, and has done its work when it is seen again."""
    phase = (pod.get("status") or {}).get("phase")
    if phase == "Pending":
        run(rest, pod)
    elif phase == "Running":
        end(rest, pod, message=termination())


def _write(rest: Rest, pod: Manifest, phase: str, state: Manifest, *, ready: bool) -> Manifest:
    metadata = pod["metadata"]
    container = {
        "name": CONTAINER,
        "image": "image",
        "imageID": "image",
        "ready": ready,
        "started": ready,
        "restartCount": 0,
        "state": state,
    }
    word = "True" if ready else "False"
    conditions = [{"type": "PodScheduled", "status": "True", "lastTransitionTime": now()}]
    conditions += [{"type": each, "status": word, "lastTransitionTime": now()} for each in ("Ready", "ContainersReady")]
    status = {"phase": phase, "startTime": now(), "containerStatuses": [container], "conditions": conditions}
    path = f"/api/v1/namespaces/{metadata['namespace']}/pods/{metadata['name']}/status"
    return rest.merge(path, {"metadata": {"uid": metadata["uid"]}, "status": status})
