"""A real control plane for tests and for `scripts/devcluster`: etcd, kube-apiserver, controller manager, scheduler.

    with control_plane(folder) as plane:
        plane.kubectl("apply", "-f", "-", input=manifest)

RBAC and Node authorization, ServiceAccount tokens, PodSecurity, ResourceQuota and ValidatingAdmissionPolicy are on.
It has no nodes and no network of pods: `address`, `port`, `service_range` and `names` let who has those put the API
server where pods reach it. On a bridge with 10.96.7.1, which pods route to:

    control_plane(folder, address="10.96.7.1", port=443, service_range="10.96.7.0/24", controller_manager=[...])

Then the Service `kubernetes`, which always has the first address of the range, is the API server itself, with no
kube-proxy. Identities of nodes: `plane.user_kubeconfig("system:node:n1", groups=["system:nodes"])`; serving
certificates: `plane.authority.server("n1", addresses=[...])`. The API server shows a kubelet the client certificate
of the user `kube-apiserver-kubelet-client`, signed by the same authority (`plane.ca`).
"""

from __future__ import annotations

import contextlib
import http.client
import ipaddress
import json
import os
import shutil
import signal
import socket
import ssl
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bed import gobuild
from bed.certificates import Authority, Pair, new_authority, signing_pair

START_SECONDS = 300
KUBECTL_SECONDS = 120
_ISSUER = "https://kubernetes.default.svc"
_NO_LIMITS = ["--kube-api-qps=500", "--kube-api-burst=1000"]


@dataclass
class ControlPlane:
    """One that runs. `admin` may do everything; `kubectl` is the program of this version."""

    folder: Path
    endpoint: str
    authority: Authority
    admin: Path
    kubectl_program: Path
    _processes: _Processes = field(repr=False)
    _apiserver: list[str] = field(repr=False)
    _tokens: int = field(default=0, repr=False)

    @property
    def ca(self) -> Path:
        """Certificate of the authority that signed everybody here."""
        return self.authority.certificate

    @property
    def environment(self) -> dict[str, str]:
        """What kubectl needs to have in its environment, and nothing of the user's."""
        return {"PATH": os.environ.get("PATH", os.defpath), "HOME": str(self.folder), "KUBECONFIG": str(self.admin)}

    def kubectl(
        self,
        *args: str | Path,
        input: str | None = None,
        check: bool = True,
        kubeconfig: Path | None = None,
        env: Mapping[str, str] | None = None,
    ) -> subprocess.CompletedProcess[str]:
        """Runs kubectl as admin, or as whom `kubeconfig` is for; `env` adds to its environment."""
        command = [str(self.kubectl_program), *map(str, args)]
        env = {**self.environment, **(env or {}), **({"KUBECONFIG": str(kubeconfig)} if kubeconfig else {})}
        done = subprocess.run(
            command, input=input, capture_output=True, text=True, env=env, timeout=KUBECTL_SECONDS, cwd=self.folder
        )
        if check and done.returncode != 0:
            raise AssertionError(f"kubectl {' '.join(command[1:])} ended with {done.returncode}:\n{done.stderr}")
        return done

    def get(self, *args: str) -> Any:
        """What `kubectl get ... -o json` shows."""
        return json.loads(self.kubectl("get", *args, "-o", "json").stdout)

    def apply(self, *manifests: Mapping[str, Any]) -> None:
        """Applies manifests on the server's side, as admin."""
        items = {"apiVersion": "v1", "kind": "List", "items": list(manifests)}
        self.kubectl("apply", "--server-side", "--force-conflicts", "-f", "-", input=json.dumps(items))

    def token(self, namespace: str, name: str, *, pod: str | None = None, hours: int = 1) -> str:
        """A token of a ServiceAccount, bound to a Pod object where one is named (by TokenRequest)."""
        bound = []
        if pod is not None:
            uid = self.get("pod", pod, "-n", namespace)["metadata"]["uid"]
            bound = [f"--bound-object-name={pod}", "--bound-object-kind=Pod", f"--bound-object-uid={uid}"]
        made = self.kubectl("create", "token", name, "-n", namespace, f"--duration={hours}h", *bound)
        return made.stdout.strip()

    def service_account_kubeconfig(self, namespace: str, name: str, *, pod: str | None = None, hours: int = 1) -> Path:
        """A kubeconfig with a token of a ServiceAccount, as `token` makes it."""
        self._tokens += 1
        path = self.folder / "kubeconfigs" / f"{namespace}-{name}-{self._tokens}"
        token = self.token(namespace, name, pod=pod, hours=hours)
        return self._kubeconfig(path, {"token": token}, namespace)

    def user_kubeconfig(self, user: str, *, groups: Sequence[str] = ()) -> Path:
        """A kubeconfig with a client certificate: for nodes, and for people with rights of their own."""
        pair = self.authority.client(user, groups=groups)
        path = self.folder / "kubeconfigs" / user.replace(":", "-")
        return self._kubeconfig(path, _certificate_of(pair), "default")

    def stop_apiserver(self) -> None:
        """Ends the API server at once: an outage. Everything else stays."""
        self._processes.kill("kube-apiserver")

    def start_apiserver(self) -> None:
        """Starts it again where it was, and waits until it is ready."""
        self._processes.start("kube-apiserver", self._apiserver)
        _wait_for(self._processes, "kube-apiserver", self.is_ready)

    def is_ready(self) -> bool:
        """Whether the API server says so."""
        host, _, port = self.endpoint.removeprefix("https://").rpartition(":")
        admin = self.authority.folder / "admin"
        context = ssl.create_default_context(cafile=str(self.ca))
        context.load_cert_chain(admin.with_suffix(".crt"), admin.with_suffix(".key"))
        connection = http.client.HTTPSConnection(host, int(port), context=context, timeout=5)
        try:
            connection.request("GET", "/readyz")
            return connection.getresponse().status == 200
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()

    def _kubeconfig(self, path: Path, user: Mapping[str, str], namespace: str) -> Path:
        return _write_kubeconfig(path, self.endpoint, self.ca, user, namespace)


@contextlib.contextmanager
def control_plane(
    folder: Path,
    *,
    address: str = "127.0.0.1",
    port: int = 0,
    service_range: str = "10.96.0.0/24",
    names: Sequence[str] = (),
    controller_manager: Sequence[str] = (),
) -> Iterator[ControlPlane]:
    """Starts one in `folder` (an empty one, best on tmpfs), waits until it is of use, and ends it.

    `port` 0 takes a free one; `names` are further DNS names of the API server; `controller_manager` are further
    options, such as --node-monitor-grace-period=10s. Every process ends with the one that called this.
    """
    programs = gobuild.cluster()
    folder.mkdir(parents=True, exist_ok=True)
    authority = new_authority(folder / "pki")
    with contextlib.ExitStack() as stack:
        sockets = folder
        if len(str(folder)) > 90:  # the path of a socket has at most 107 characters
            sockets = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="kubooth-")))
        processes = stack.enter_context(contextlib.closing(_Processes(folder)))
        etcd = f"unix://{sockets}/etcd.socket"
        processes.start("etcd", _etcd(programs["etcd"], folder, etcd))
        _wait_for(processes, "etcd", (sockets / "etcd.socket").exists)
        where = _Place(address, service_range, tuple(names))
        plane = _start_apiserver(programs, folder, authority, processes, etcd, where, port)
        _start_controllers(programs, plane, processes, controller_manager)
        _wait_for(processes, "kube-controller-manager", lambda: _namespaces_are_filled(plane))
        yield plane


@dataclass(frozen=True)
class _Place:
    address: str
    service_range: str
    names: tuple[str, ...]

    @property
    def service_address(self) -> str:
        """Of the Service `kubernetes`."""
        return str(next(ipaddress.ip_network(self.service_range).hosts()))


def _etcd(program: Path, folder: Path, endpoint: str) -> list[str]:
    return [
        str(program),
        f"--data-dir={folder}/etcd",
        f"--listen-client-urls={endpoint}",
        f"--advertise-client-urls={endpoint}",
        "--listen-peer-urls=http://127.0.0.1:0",
        "--unsafe-no-fsync",
        "--log-level=warn",
    ]


def _start_apiserver(
    programs: Mapping[str, Path],
    folder: Path,
    authority: Authority,
    processes: _Processes,
    etcd: str,
    where: _Place,
    port: int,
) -> ControlPlane:
    service = [f"kubernetes{suffix}" for suffix in ("", ".default", ".default.svc", ".default.svc.cluster.local")]
    addresses = dict.fromkeys([where.address, where.service_address, "127.0.0.1"])
    serving = authority.server("kube-apiserver", names=["localhost", *service, *where.names], addresses=list(addresses))
    kubelets = authority.client("kube-apiserver-kubelet-client", groups=["system:masters"])
    private, public = signing_pair(authority.folder)
    admin = authority.client("admin", groups=["system:masters"])
    fixed = [
        str(programs["kube-apiserver"]),
        f"--etcd-servers={etcd}",
        f"--bind-address={where.address}",
        f"--advertise-address={where.address}",
        f"--service-cluster-ip-range={where.service_range}",
        f"--tls-cert-file={serving.certificate}",
        f"--tls-private-key-file={serving.key}",
        f"--client-ca-file={authority.certificate}",
        "--authorization-mode=Node,RBAC",
        f"--service-account-key-file={public}",
        f"--service-account-signing-key-file={private}",
        f"--service-account-issuer={_ISSUER}",
        f"--kubelet-client-certificate={kubelets.certificate}",
        f"--kubelet-client-key={kubelets.key}",
        f"--kubelet-certificate-authority={authority.certificate}",
        "--kubelet-preferred-address-types=InternalIP",
    ]
    if ipaddress.ip_address(where.address).is_loopback:  # which Endpoints must not name
        fixed.append("--endpoint-reconciler-type=none")
    for attempt in range(5):
        chosen = port or _free_port(where.address)
        command = [*fixed, f"--secure-port={chosen}"]
        endpoint = f"https://{where.address}:{chosen}"
        kubeconfig = _write_kubeconfig(
            folder / "admin.kubeconfig", endpoint, authority.certificate, _certificate_of(admin), "default"
        )
        plane = ControlPlane(folder, endpoint, authority, kubeconfig, programs["kubectl"], processes, command)
        try:
            plane.start_apiserver()
            return plane
        except RuntimeError:
            taken = "address already in use" in processes.log("kube-apiserver")
            if port or not taken or attempt == 4:  # else somebody was faster: another port
                raise
    raise AssertionError("not reached")


def _start_controllers(
    programs: Mapping[str, Path], plane: ControlPlane, processes: _Processes, options: Sequence[str]
) -> None:
    for name in ("kube-controller-manager", "kube-scheduler"):
        kubeconfig = plane.user_kubeconfig(f"system:{name}")
        common = [f"--kubeconfig={kubeconfig}", "--secure-port=0", "--leader-elect=false", *_NO_LIMITS]
        own = []
        if name == "kube-controller-manager":
            own = [
                "--use-service-account-credentials=true",
                f"--service-account-private-key-file={plane.authority.folder / 'service-accounts.key'}",
                f"--root-ca-file={plane.ca}",
                *options,
            ]
        processes.start(name, [str(programs[name]), *common, *own])


def _namespaces_are_filled(plane: ControlPlane) -> bool:
    """Whether the controllers have filled a namespace with what every pod needs."""
    wanted = ["serviceaccount/default", "configmap/kube-root-ca.crt"]
    return plane.kubectl("get", *wanted, "-n", "default", check=False).returncode == 0


class _Processes:
    """The processes of one control plane, by name, each with a log in the folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._running: dict[str, subprocess.Popen[bytes]] = {}

    def start(self, name: str, command: list[str]) -> None:
        # Where the tool is there, the kernel ends the process also when the one that started it is killed.
        tied = ["setpriv", "--pdeathsig", "KILL"] if shutil.which("setpriv") else []
        env = {"PATH": os.environ.get("PATH", os.defpath), "HOME": str(self._folder)}
        with self._log_file(name).open("ab") as log:
            self._running[name] = subprocess.Popen(
                [*tied, *command], env=env, cwd=self._folder, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )

    def ended(self, name: str) -> bool:
        return self._running[name].poll() is not None

    def log(self, name: str) -> str:
        return self._log_file(name).read_text(errors="replace")

    def kill(self, *names: str) -> None:
        """By SIGKILL, in one go: told to end, an API server whose etcd is gone takes its time."""
        processes = [self._running.pop(name) for name in names if name in self._running]
        for process in processes:
            process.send_signal(signal.SIGKILL)
        for process in processes:
            process.wait()

    def close(self) -> None:
        self.kill(*self._running)

    def _log_file(self, name: str) -> Path:
        return self._folder / f"{name}.log"


def _wait_for(processes: _Processes, name: str, is_there: Callable[[], bool]) -> None:
    deadline = time.monotonic() + START_SECONDS
    while not is_there():
        if processes.ended(name) or time.monotonic() > deadline:
            what = "ended" if processes.ended(name) else f"was not ready after {START_SECONDS} s"
            processes.kill(name)
            raise RuntimeError(f"{name} {what}:\n{processes.log(name)[-4000:]}")
        time.sleep(0.05)


def _free_port(address: str) -> int:
    with socket.socket() as probe:
        probe.bind((address, 0))
        port: int = probe.getsockname()[1]
        return port


def _certificate_of(pair: Pair) -> dict[str, str]:
    return {"client-certificate": str(pair.certificate), "client-key": str(pair.key)}


def _write_kubeconfig(path: Path, endpoint: str, ca: Path, user: Mapping[str, str], namespace: str) -> Path:
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "bed", "cluster": {"server": endpoint, "certificate-authority": str(ca)}}],
        "users": [{"name": "bed", "user": dict(user)}],
        "contexts": [{"name": "bed", "context": {"cluster": "bed", "user": "bed", "namespace": namespace}}],
        "current-context": "bed",
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch(mode=0o600)
    path.write_text(json.dumps(config, indent=1))  # JSON is YAML
    return path
