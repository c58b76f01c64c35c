"""The life of one pod on a process node: from bound to gone, with the status that a kubelet would write.

A thread for each pod. It looks at everything, does what is due, tells the API server what changed, and sleeps until
something happens. The API server may be away at any time: the pod goes on, and its status is told later.
restartPolicy is taken as Never.
"""

from __future__ import annotations

import contextlib
import os
import select
import shutil
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from bed.apiclient import Object, RefusedError, UnavailableError
from bed.container import Container
from bed.network import Bridge, PodNetwork
from bed.podspec import (
    Image,
    MissingError,
    Place,
    environment,
    expand,
    fill_volumes,
    hostname,
    hosts_file,
    mounts_of,
    resolver_file,
    timestamp,
)

_IMAGE_SECONDS = 5
_MEMORY_SECONDS = 0.2
_RETRY_SECONDS = 0.5


@dataclass(frozen=True, kw_only=True)
class Ground:
    """What the pods of a node share."""

    place: Place
    bridge: Bridge
    images: dict[str, Image]  # a test may add some
    late_until: Callable[[str], float]  # monotonic time before which a pod of this name finds no image
    folder: Path


class Pod(threading.Thread):
    """One pod. The node tells it of changes by `update` and `forget`; tests find it by name and do it harm."""

    def __init__(self, manifest: Object, ground: Ground) -> None:
        meta = manifest["metadata"]
        super().__init__(name=f"pod {meta['namespace']}/{meta['name']}", daemon=True)
        self.manifest = manifest
        self.uid: str = meta["uid"]
        self.folder = ground.folder / self.uid
        self.folder.mkdir(parents=True)
        spec = manifest["spec"]
        self.init_containers = [Container(each, self.folder) for each in spec.get("initContainers", [])]
        self.containers = [Container(each, self.folder) for each in spec["containers"]]
        self.network: PodNetwork | None = None
        self._ground = ground
        self._api = ground.place.api
        self._path = f"/api/v1/namespaces/{meta['namespace']}/pods/{meta['name']}"
        self._wake = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._lock = threading.Lock()
        self._volumes: dict[str, Object] | None = None
        self._forgotten = self._removed = self._silent = self._is_attached = False
        self._terminating_since: float | None = None
        self._kill_at: float | None = None
        self._start_time = timestamp()
        self._conditions: dict[str, Object] = {}
        self._told: Object | None = None
        for container in self.containers if self.init_containers else ():
            container.state = {"waiting": {"reason": "PodInitializing"}}

    # What the node says, from its own thread.

    def update(self, manifest: Object) -> None:
        self.manifest = manifest
        self._nudge()

    def forget(self) -> None:
        """The object is gone: so must the processes be, at once."""
        self._forgotten = True
        self._nudge()

    # What tests do, from theirs.

    @property
    def address(self) -> str:
        assert self.network, "the pod has no network yet"
        return self.network.address

    def kill(self, rank: int | None = None) -> None:
        """SIGKILL: to the process of that rank (by RANK in its environment), else to everything."""
        if rank is None:
            for container in self.containers:
                container.signal(signal.SIGKILL)
            return
        pids = [pid for container in self.containers for pid in container.processes() if rank_of(pid) == rank]
        assert pids, f"no process of rank {rank} in {self.name}"
        eldest = next(pid for pid in pids if _parent(pid) not in pids)
        os.kill(eldest, signal.SIGKILL)

    def signal_all(self, number: int) -> None:
        """To every process: SIGSTOP freezes, SIGCONT thaws."""
        for container in self.containers:
            container.signal_all(number)

    def silence(self) -> None:
        """Every packet from and to the pod is lost from now on; nobody is told."""
        with self._lock:
            self._silent = True
            if self._is_attached:
                self.network.silence()

    def unsilence(self) -> None:
        with self._lock:
            self._silent = False
            if self._is_attached:
                self.network.unsilence()

    # Its life.

    def run(self) -> None:
        try:
            self._live()
        finally:
            self._kill_everything()
            with self._lock:
                if self.network:
                    self._is_attached = False
                    self.network.close()
                    self._ground.bridge.release(self.network.address)
        self._see_it_go()
        with self._lock:
            os.close(self._wake)
            self._wake = -1
        shutil.rmtree(self.folder, ignore_errors=True)

    @property
    def _is_deleted(self) -> bool:
        return "deletionTimestamp" in self.manifest["metadata"]

    @property
    def _is_leaving(self) -> bool:
        return self._forgotten or self._is_deleted or self._terminating_since is not None

    def _live(self) -> None:
        self._tell()
        while not self._forgotten:
            for container in (*self.init_containers, *self.containers):
                container.poll()
            for container in self._startable():
                self._try_to_start(container)
            if self._is_leaving:
                self._terminate()
            for container in self.containers:
                self._watch_over(container)
            told = self._tell()
            if self._is_over():
                return
            self._sleep(self._seconds_to_next(told))

    def _is_over(self) -> bool:
        started = [each for each in (*self.init_containers, *self.containers) if not each.is_waiting]
        if any(each.exit_code for each in self.init_containers):
            return True
        return not any(each.is_running for each in started) and (self._is_leaving or all(
            not each.is_waiting for each in self.containers
        ))  # fmt: skip

    def _startable(self) -> list[Container]:
        """The init containers one after the other, then all others at once."""
        if self._is_leaving:
            return []
        unfinished = [each for each in self.init_containers if each.exit_code != 0]
        return [each for each in (unfinished[:1] or self.containers) if each.is_waiting]

    def _try_to_start(self, container: Container) -> None:
        if time.monotonic() < container.try_again_at:
            return
        try:
            if self._volumes is None:
                self._volumes = self._prepare()
            late = self._ground.late_until(self.manifest["metadata"]["name"]) - time.monotonic()
            image = self._ground.images.get(container.spec["image"])
            if late > 0:
                container.wait_for("ContainerCreating", seconds=late)
            elif image is None:
                _miss_image(container)
            else:
                self._start(container, image, self._volumes)
        except MissingError as error:
            if self._volumes is None:  # the reason is an Event only
                container.wait_for("ContainerCreating")
            else:
                container.wait_for("CreateContainerConfigError", str(error))
        except (UnavailableError, RefusedError):
            container.try_again_at = time.monotonic() + _RETRY_SECONDS

    def _prepare(self) -> dict[str, Object]:
        """Network and volumes."""
        with self._lock:
            if self.network is None:
                self.network = self._ground.bridge.attach(hostname(self.manifest))
                self._is_attached = True
                if self._silent:
                    self.network.silence()
        return fill_volumes(self.manifest, self._ground.place, self.folder, self._status())

    def _start(self, container: Container, image: Image, volumes: dict[str, Object]) -> None:
        assert self.network
        spec, manifest = container.spec, self.manifest
        env = environment(spec, image, manifest, self._ground.place, self._status())
        security = {**manifest["spec"].get("securityContext", {}), **spec.get("securityContext", {})}
        user = security.get("runAsUser", image.user)
        if security.get("runAsNonRoot") and user == 0:
            container.wait_for("CreateContainerConfigError", "container has runAsNonRoot and image will run as root")
            return
        own = {
            "/etc/hosts": hosts_file(manifest, self.network.address),
            "/etc/hostname": f"{hostname(manifest)}\n",
            "/etc/resolv.conf": resolver_file(manifest, self._ground.bridge.address),
            spec.get("terminationMessagePath", "/dev/termination-log"): "",
        }
        files = {target: self.folder / f"{container.name}.{target.rpartition('/')[2]}" for target in own}
        files[spec.get("terminationMessagePath", "/dev/termination-log")] = container.termination
        for target, text in own.items():
            files[target].write_text(text)
        images = [
            {"target": target, "source": str(folder), "options": "", "read_only": read_only}
            for folders, read_only in ((image.folders, True), (image.writable, False))
            for target, folder in folders.items()
        ]
        launch = {
            "namespaces": self.network.namespaces,
            "image": str(image.root),
            "mounts": images + mounts_of(spec, volumes, files),
            "read_only": security.get("readOnlyRootFilesystem", False),
            "user": user,
            "group": security.get("runAsGroup", 0),
            "no_new_privileges": security.get("allowPrivilegeEscalation") is False,
            "drop_capabilities": "ALL" in security.get("capabilities", {}).get("drop", []),
            "folder": spec.get("workingDir", "/"),
            "command": [expand(each, env) for each in (*spec.get("command", []), *spec.get("args", []))],
            "env": env,
        }
        container.start(launch, self.network.address)

    def _watch_over(self, container: Container) -> None:
        if container.is_running:
            container.keep_to_memory()
            container.readiness.look()
            container.liveness.look()
            if not container.liveness.passes and self._terminating_since is None:
                self._terminate()

    def _terminate(self) -> None:
        """SIGTERM, and SIGKILL when the grace period is over."""
        now = time.monotonic()
        grace = self.manifest["spec"].get("terminationGracePeriodSeconds", 30)
        grace = self.manifest["metadata"].get("deletionGracePeriodSeconds", grace)
        if self._terminating_since is None:
            self._terminating_since = now
            for container in (*self.init_containers, *self.containers):
                container.signal(signal.SIGTERM)
        self._kill_at = self._terminating_since + grace
        if now >= self._kill_at or self._forgotten:
            for container in (*self.init_containers, *self.containers):
                container.signal(signal.SIGKILL)

    def _kill_everything(self) -> None:
        for container in (*self.init_containers, *self.containers):
            container.signal(signal.SIGKILL)
            if container.is_running:
                container.wait()
            if container.is_waiting and self._is_leaving:
                container.lose()

    # Telling the API server.

    def _see_it_go(self) -> None:
        """Until the object is gone, which after a deletion needs the node's last word."""
        while not self._forgotten:
            told = self._tell()
            if told and self._is_deleted and not self._removed:
                self._removed = self._remove()
            self._sleep(None if told and self._removed == self._is_deleted else _RETRY_SECONDS)

    def _tell(self) -> bool:
        """Whether it knows everything now."""
        status = self._status()
        if status == self._told or self._forgotten:
            return True
        try:
            self._api.patch(f"{self._path}/status", {"metadata": {"uid": self.uid}, "status": status})
        except UnavailableError:
            return False
        except RefusedError as error:
            if error.status not in (404, 409):  # gone, or another pod of that name
                raise
            return False
        self._told = status
        return True

    def _remove(self) -> bool:
        """The last step of a deletion is the kubelet's."""
        options = {"gracePeriodSeconds": 0, "preconditions": {"uid": self.uid}}
        try:
            self._api.request("DELETE", self._path, {"apiVersion": "v1", "kind": "DeleteOptions", **options})
        except UnavailableError:
            return False
        except RefusedError as error:
            if error.status not in (404, 409):
                raise
        return True

    def _status(self) -> Object:
        place, all_of_them = self._ground.place, (*self.init_containers, *self.containers)
        codes = [each.exit_code for each in self.containers]
        over = None not in codes or any(each.exit_code for each in self.init_containers)
        failed = any(each.exit_code for each in all_of_them)
        any_started = any(not each.is_waiting for each in self.containers)
        phase = ("Failed" if failed else "Succeeded") if over else "Running" if any_started else "Pending"
        initialized = all(each.exit_code == 0 for each in self.init_containers)
        statuses = [each.status() for each in self.containers]
        unready = [each["name"] for each in statuses if not each["ready"]]
        why = {
            "reason": {"Failed": "PodFailed", "Succeeded": "PodCompleted"}.get(phase, "ContainersNotReady"),
            "message": "" if over else f"containers with unready status: [{' '.join(unready)}]",
        }
        self._condition("PodReadyToStartContainers", self.network is not None and not over)
        self._condition("Initialized", initialized, reason="PodCompleted" if phase == "Succeeded" else "")
        self._condition("ContainersReady", not unready, **(why if unready else {}))
        self._condition("Ready", not unready, **(why if unready else {}))
        status = {
            "phase": phase,
            "startTime": self._start_time,
            "conditions": [dict(each) for each in self._conditions.values()],
            "hostIP": place.node_address,
            "hostIPs": [{"ip": place.node_address}],
            "containerStatuses": statuses,
        }
        if self.init_containers:
            status["initContainerStatuses"] = [each.status() for each in self.init_containers]
        if self.network:
            status |= {"podIP": self.network.address, "podIPs": [{"ip": self.network.address}]}
        return status

    def _condition(self, kind: str, holds: bool, reason: str = "", message: str = "") -> None:
        status = "True" if holds else "False"
        before = self._conditions.get(kind, {})
        since = before["lastTransitionTime"] if before.get("status") == status else timestamp()
        self._conditions[kind] = {
            "type": kind, "status": status, "reason": reason, "message": message, "lastTransitionTime": since,
        }  # fmt: skip

    # Sleeping.

    def _seconds_to_next(self, told: bool) -> float | None:
        now = time.monotonic()
        due = [each.try_again_at for each in self._startable()]
        due += [probe.due_at for each in self.containers for probe in (each.readiness, each.liveness)
                if each.is_running and probe.due_at is not None]  # fmt: skip
        due += [now + _MEMORY_SECONDS for each in self.containers if each.is_limited]
        due += [] if self._kill_at is None else [self._kill_at]
        due += [] if told else [now + _RETRY_SECONDS]
        return max(0.01, min(due) - now) if due else None

    def _sleep(self, seconds: float | None) -> None:
        """Until then, or until a container ended or the node has news."""
        poll = select.poll()
        poll.register(self._wake, select.POLLIN)
        for container in (*self.init_containers, *self.containers):
            if container.is_running:
                poll.register(container.descriptor, select.POLLIN)
        poll.poll(None if seconds is None else max(1, round(seconds * 1000)))
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(self._wake)

    def _nudge(self) -> None:
        with self._lock:
            if self._wake >= 0:
                os.eventfd_write(self._wake, 1)


def _miss_image(container: Container) -> None:
    """As a kubelet reports it: the failure first, then that it waits before the next try."""
    image = container.spec["image"]
    error = f'failed to pull and unpack image "{image}": failed to resolve reference "{image}": {image}: not found'
    if container.state["waiting"]["reason"] == "ErrImagePull":
        message = f'Back-off pulling image "{image}": ErrImagePull: {error}'
        container.wait_for("ImagePullBackOff", message, _IMAGE_SECONDS)
    else:
        container.wait_for("ErrImagePull", error)


def rank_of(pid: int) -> int | None:
    try:
        env = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:
        return None
    return next((int(each.removeprefix(b"RANK=")) for each in env if each.startswith(b"RANK=")), None)


def _parent(pid: int) -> int:
    with contextlib.suppress(OSError):
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    return 0
