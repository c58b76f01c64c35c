"""One container of a pod on a process node: its process, its log, its state as a kubelet reports it, its probes."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import signal
import socket
import ssl
import subprocess
import sys
import time
import uuid
from pathlib import Path

from bed.apiclient import Object
from bed.podspec import quantity, timestamp

_LAUNCHER = Path(__file__).with_name("podinit.py")
_MESSAGE_BYTES = 4096
_FALLBACK_BYTES, _FALLBACK_LINES = 2048, 80
KILLED = 137


class Container:
    """Waiting, then running, then terminated; `state` is that of the container's status."""

    def __init__(self, spec: Object, folder: Path) -> None:
        self.spec = spec
        self.name: str = spec["name"]
        self.log = folder / f"{self.name}.log"
        self.termination = folder / f"{self.name}.termination"
        self.state: Object = {"waiting": {"reason": "ContainerCreating"}}
        self.try_again_at = 0.0
        self.readiness = Probe(spec.get("readinessProbe"), self, initially=False)
        self.liveness = Probe(spec.get("livenessProbe"), self, initially=True)
        self.pid = 0  # of its process 1, as seen from here
        self._folder = folder
        self.descriptor = -1  # while it runs: readable once its process has ended
        self._process: subprocess.Popen[bytes] | None = None
        self._id = ""
        self._ran_out_of_memory = False
        self._memory_mounts: list[str] = []
        limit = spec.get("resources", {}).get("limits", {}).get("memory")
        self._memory_limit = quantity(limit) if limit else None

    @property
    def is_waiting(self) -> bool:
        return "waiting" in self.state

    @property
    def is_running(self) -> bool:
        return "running" in self.state

    @property
    def exit_code(self) -> int | None:
        return self.state["terminated"]["exitCode"] if "terminated" in self.state else None

    @property
    def is_limited(self) -> bool:
        return self._memory_limit is not None and self.is_running

    def wait_for(self, reason: str, message: str = "", seconds: float = 1) -> None:
        """Says why it does not start, and when that is looked at again."""
        self.state = {"waiting": {"reason": reason, **({"message": message} if message else {})}}
        self.try_again_at = time.monotonic() + seconds

    def start(self, launch: Object, address: str) -> None:
        """Runs what podinit is told; returns when the command runs, or could not."""
        self._id = f"process://{uuid.uuid4().hex}"
        self._memory_mounts = ["/dev/shm"] + [each["target"] for each in launch["mounts"] if each["source"] is None]
        self.readiness.begin(address)
        self.liveness.begin(address)
        root = self._folder / f"{self.name}.root"
        root.mkdir(exist_ok=True)
        spec = self._folder / f"{self.name}.json"
        spec.touch(mode=0o600)
        spec.write_text(json.dumps({**launch, "root": str(root), "parent": os.getpid()}))
        listening, telling = os.pipe()
        with open(listening, "rb") as answer, self.log.open("ab") as log:
            try:
                self._process = subprocess.Popen(
                    [sys.executable, "-IS", _LAUNCHER, "run", spec, str(telling)],
                    stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                    pass_fds=[*launch["namespaces"], telling], start_new_session=True,
                )  # fmt: skip
            finally:
                os.close(telling)
            # Opened once: after its end, whoever asks the process for its state makes its id mean nothing.
            self.descriptor = os.pidfd_open(self._process.pid)
            first, _, error = answer.read().decode(errors="replace").partition("\n")  # it ends where the command begins
        if error or not first.isdigit():
            self._process.kill()
            self._process.wait()
            self._end(128, "StartError", f"failed to start the container: {error or first}", None)
            return
        self.pid = int(first)
        self.state = {"running": {"startedAt": timestamp()}}

    def poll(self) -> None:
        """Takes note of an end."""
        if not self.is_running or self._process is None or self._process.poll() is None:
            return
        code = self._process.returncode
        code = code if code >= 0 else KILLED  # the launcher itself was killed, and its child with it
        reason = "OOMKilled" if self._ran_out_of_memory else "Error" if code else "Completed"
        self._end(code, reason, self._last_words(code), self.state["running"]["startedAt"])

    def wait(self) -> None:
        """Until it has ended; it must have been killed."""
        assert self._process
        self._process.wait(60)
        self.poll()

    def signal(self, number: int) -> None:
        """To process 1, which ignores what it has no handler for, except SIGKILL and SIGSTOP."""
        if self._process and self._process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def signal_all(self, number: int) -> None:
        """To every process, those that they start meanwhile too."""
        told: set[int] = set()
        while new := set(self.processes()) - told:
            told |= new
            for pid in new:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, number)

    def processes(self) -> list[int]:
        """The process ids of the container, as seen from here."""
        if not self.is_running:
            return []
        try:
            own = os.readlink(f"/proc/{self.pid}/ns/pid")
        except OSError:
            return []
        return [pid for pid in map(int, filter(str.isdigit, os.listdir("/proc"))) if _namespace(pid) == own]

    def keep_to_memory(self) -> None:
        """Kills everything once it holds more than its limit.

        What is counted is what a cgroup could not reclaim: anonymous memory and memory-backed volumes. It is measured
        here because a test run may have no cgroup that it can write to.
        """
        if self._memory_limit is None or not self.is_running:
            return
        used = sum(_anonymous_bytes(pid) for pid in self.processes())
        used += sum(_bytes_in(f"/proc/{self.pid}/root{mount}") for mount in self._memory_mounts)
        if used > self._memory_limit:
            self._ran_out_of_memory = True
            self.signal(signal.SIGKILL)

    def status(self) -> Object:
        """As in the pod's status."""
        return {
            "name": self.name,
            "image": self.spec["image"],
            "imageID": self.spec["image"] if self._id else "",
            "containerID": self._id,
            "ready": self.is_running and self.readiness.passes,
            "started": self.is_running,
            "restartCount": 0,
            "state": self.state,
        }

    def lose(self) -> None:
        """It never ran, and its pod is being deleted."""
        self._end(KILLED, "ContainerStatusUnknown", "The container could not be located when the pod was deleted", None)

    def _end(self, code: int, reason: str, message: str, started: str | None) -> None:
        ended = {"exitCode": code, "reason": reason, "startedAt": started, "finishedAt": timestamp()}
        self.state = {"terminated": ended | {"containerID": self._id, "message": message}}
        if self.descriptor >= 0:
            os.close(self.descriptor)
            self.descriptor = -1

    def _last_words(self, code: int) -> str:
        message = _tail(self.termination, _MESSAGE_BYTES)
        if not message and code and self.spec.get("terminationMessagePolicy") == "FallbackToLogsOnError":
            lines = _tail(self.log, _FALLBACK_BYTES).splitlines(keepends=True)
            message = "".join(lines[-_FALLBACK_LINES:])
        return message


class Probe:
    """A readiness or liveness probe. Without one, the container passes as soon as it runs."""

    def __init__(self, spec: Object | None, container: Container, *, initially: bool) -> None:
        self.spec = spec
        self.passes = initially or spec is None
        self.due_at: float | None = None
        self._container = container
        self._address = ""
        self._alike = 0  # results in a row that differ from what stands

    def begin(self, address: str) -> None:
        if self.spec is not None:
            self._address = address
            self.due_at = time.monotonic() + self.spec.get("initialDelaySeconds", 0)

    def look(self) -> None:
        """Probes where it is time to."""
        if self.spec is None or self.due_at is None or time.monotonic() < self.due_at:
            return
        passed = self._try(self.spec, self.spec.get("timeoutSeconds", 1))
        self.due_at = time.monotonic() + self.spec.get("periodSeconds", 10)
        self._alike = 0 if passed == self.passes else self._alike + 1
        needed = self.spec.get("successThreshold", 1) if passed else self.spec.get("failureThreshold", 3)
        if self._alike >= needed:
            self.passes, self._alike = passed, 0

    def _try(self, spec: Object, seconds: float) -> bool:
        try:
            if "exec" in spec:
                command = [
                    sys.executable,
                    "-IS",
                    _LAUNCHER,
                    "enter",
                    str(self._container.pid),
                    *spec["exec"]["command"],
                ]
                return subprocess.run(command, capture_output=True, timeout=seconds).returncode == 0
            if "httpGet" in spec:
                return self._get(spec["httpGet"], seconds)
            socket.create_connection((self._address, self._port(spec["tcpSocket"]["port"])), seconds).close()
            return True
        except (OSError, http.client.HTTPException, subprocess.TimeoutExpired):
            return False

    def _get(self, spec: Object, seconds: float) -> bool:
        where = (spec.get("host") or self._address, self._port(spec["port"]))
        connection = http.client.HTTPConnection(*where, timeout=seconds)
        if spec.get("scheme") == "HTTPS":
            context = ssl.create_default_context()
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
            connection = http.client.HTTPSConnection(*where, timeout=seconds, context=context)
        with contextlib.closing(connection):
            headers = {each["name"]: each["value"] for each in spec.get("httpHeaders", [])}
            connection.request("GET", spec.get("path", "/"), headers=headers)
            return 200 <= connection.getresponse().status < 400

    def _port(self, port: int | str) -> int:
        named = {each.get("name"): each["containerPort"] for each in self._container.spec.get("ports", [])}
        return port if isinstance(port, int) else named[port]


def _namespace(pid: int) -> str | None:
    try:
        return os.readlink(f"/proc/{pid}/ns/pid")
    except OSError:
        return None


def _anonymous_bytes(pid: int) -> int:
    try:
        _, resident, shared, *_ = Path(f"/proc/{pid}/statm").read_text().split()
    except (OSError, ValueError):
        return 0
    return (int(resident) - int(shared)) * os.sysconf("SC_PAGESIZE")


def _bytes_in(folder: str) -> int:
    try:
        usage = os.statvfs(folder)
    except OSError:
        return 0
    return (usage.f_blocks - usage.f_bfree) * usage.f_frsize


def _tail(path: Path, size: int) -> str:
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - size))
            return file.read(size).decode(errors="replace")
    except OSError:
        return ""
