"""The network of a bed: one bridge with a subnet of its own, a veth pair and namespaces for each pod.

Everything carries the process id of its bed in its name, so that the next bed removes what a killed one left. The
first address is the bridge's own: there the API server, the DNS and the S3 server of the bed listen.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import ipaddress
import itertools
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

_CLONE_NEWUTS, _CLONE_NEWIPC, _CLONE_NEWNET = 0x04000000, 0x08000000, 0x40000000
_SUBNETS = [ipaddress.ip_network(f"10.{second}.{third}.0/22") for second in (213, 214) for third in range(0, 256, 4)]
# Of a bridge's port. The kernel leaves a listening port as it is, while it takes a disabled one up again by itself.
_LISTENING, _FORWARDING = 1, 3
_LINK_SECONDS = 5
_OWNED = re.compile(r"kb(\d+)b\d+")
_FOLDER = "kubooth-bed-"
_beds = itertools.count(1)
_ports = itertools.count(1)  # of all bridges of this process: they may be there at the same time
_libc = ctypes.CDLL(None, use_errno=True)


@functools.cache
def obstacle() -> str | None:
    """Why no pod can run here; None where one can."""
    if not shutil.which("ip"):
        return "pods need the program `ip` (iproute2)"
    launcher = Path(__file__).with_name("podinit.py")
    done = subprocess.run([sys.executable, "-IS", str(launcher), "try"], capture_output=True, text=True, timeout=60)
    if done.returncode == 0:
        return None
    reason = done.stderr.strip().rpartition("\n")[2] or f"exit code {done.returncode}"
    return f"no namespaces for pods can be made here ({reason}): run as root, or inside `unshare -Urnm`"


@dataclass
class PodNetwork:
    """Network, host name and IPC of one pod: the namespaces live as long as these descriptors or a process in them."""

    address: str
    port: str
    namespaces: list[int]

    def silence(self) -> None:
        """The bridge drops every packet from and to the pod; nothing is closed, and the pod's link stays up."""
        self._set_state(_LISTENING)

    def unsilence(self) -> None:
        self._set_state(_FORWARDING)

    def _set_state(self, state: int) -> None:
        deadline = time.monotonic() + _LINK_SECONDS
        while True:
            try:
                return _ip(f"link set {self.port} type bridge_slave state {state}")
            except RuntimeError:  # a port that is new is down for a moment
                if time.monotonic() > deadline:
                    raise
            time.sleep(0.02)

    def close(self) -> None:
        while self.namespaces:
            os.close(self.namespaces.pop())


@dataclass
class Bridge:
    """The bridge of one bed, in this process' network namespace. Use as a context."""

    name: str = field(init=False)
    network: ipaddress.IPv4Network = field(init=False)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def __enter__(self) -> Bridge:
        sweep()
        self.network, self._claim = _take_subnet()
        self.name = f"kb{os.getpid()}b{next(_beds)}"
        self._free = itertools.cycle(list(self.network.hosts())[256:])
        self._used: set[str] = set()
        _ip(
            "link set lo up",
            # Without a delay: a new port's delay, 15 s by default, would end a silence that began before it was over.
            f"link add {self.name} address {_mac(self.address)} type bridge forward_delay 0",
            f"link set {self.name} addrgenmode none up",
            f"addr add {self.address}/{self.network.prefixlen} dev {self.name}",
        )
        return self

    def __exit__(self, *_: object) -> None:
        _ip(f"link del {self.name}")
        self._claim.close()

    @property
    def address(self) -> str:
        """Of this machine on the bridge."""
        return str(self.network[1])

    @property
    def service_range(self) -> str:
        """For the addresses of Services: its first one is `address`."""
        return str(next(self.network.subnets(new_prefix=24)))

    def new_address(self) -> str:
        """One outside the range of Services, not given out again soon."""
        with self._lock:
            for candidate in self._free:
                if str(candidate) not in self._used:
                    self._used.add(str(candidate))
                    return str(candidate)
        raise AssertionError("endless")

    def release(self, address: str) -> None:
        with self._lock:
            self._used.discard(address)

    def add_own(self, address: str) -> None:
        """Gives this machine one more address on the bridge: a node's."""
        _ip(f"addr add {address}/{self.network.prefixlen} dev {self.name} noprefixroute")

    def remove_own(self, address: str) -> None:
        _ip(f"addr del {address}/{self.network.prefixlen} dev {self.name}")

    def attach(self, hostname: str) -> PodNetwork:
        """Makes the namespaces of a pod and joins them to the bridge."""
        address = self.new_address()
        port = f"kb{os.getpid()}v{next(_ports)}"
        lines = [
            f"link add eth0 address {_mac(address)} type veth peer name {port} netns {os.getpid()}",
            "link set lo up",
            "link set eth0 addrgenmode none up",
            f"addr add {address}/{self.network.prefixlen} dev eth0",
            f"route add default via {self.address}",
            # Else a silenced pod would soon hear "no route to host" where a real network says nothing.
            f"neigh replace {self.address} lladdr {_mac(self.address)} dev eth0 nud permanent",
        ]
        namespaces = _in_thread_of_its_own(lambda: _new_namespaces(hostname, lines))
        _ip(f"link set {port} master {self.name} addrgenmode none up")
        return PodNetwork(address, port, namespaces)


def bed_folder() -> Path:
    """A fresh folder for a bed, on tmpfs where that is large enough."""
    shared = Path("/dev/shm")
    roomy = shared.is_dir() and os.access(shared, os.W_OK) and shutil.disk_usage(shared).free > 4 << 30
    return Path(tempfile.mkdtemp(prefix=f"{_FOLDER}{os.getpid()}-", dir=shared if roomy else None))


def sweep() -> None:
    """Removes what beds left whose process is gone."""
    listed = subprocess.run(["ip", "-json", "link", "show", "type", "bridge"], capture_output=True, check=True).stdout
    for link in json.loads(listed or b"[]"):
        owner = _OWNED.fullmatch(link.get("ifname", ""))
        if owner and not Path("/proc", owner[1]).exists():
            subprocess.run(["ip", "link", "del", link["ifname"]], capture_output=True)  # another bed may be faster
    for place in {tempfile.gettempdir(), "/dev/shm"}:
        for folder in Path(place).glob(f"{_FOLDER}*"):
            pid = folder.name.removeprefix(_FOLDER).partition("-")[0]
            with contextlib.suppress(FileNotFoundError):  # another bed may be faster here too
                if not Path("/proc", pid).exists() and folder.stat().st_uid == os.geteuid():
                    shutil.rmtree(folder, ignore_errors=True)


def _take_subnet() -> tuple[ipaddress.IPv4Network, socket.socket]:
    """One that nothing here uses, and the claim to it: a socket's name, which no two beds of a network can hold."""
    listed = subprocess.run(["ip", "-json", "-4", "route", "show", "table", "all"], capture_output=True, check=True)
    routes = [route["dst"] for route in json.loads(listed.stdout or b"[]") if route["dst"] != "default"]
    taken = [ipaddress.ip_network(route, strict=False) for route in routes]
    for subnet in _SUBNETS:
        if any(subnet.overlaps(other) for other in taken):
            continue
        claim = socket.socket(socket.AF_UNIX)
        try:
            claim.bind(f"\0kubooth-bed/{subnet}")
        except OSError:
            claim.close()
            continue
        return subnet, claim
    raise RuntimeError("no free subnet for a bed")


def _mac(address: str) -> str:
    """Made from the address, so that an address that is used again needs no new neighbour entry."""
    return ":".join(f"{byte:02x}" for byte in (2, 0, *ipaddress.ip_address(address).packed))


def _in_thread_of_its_own(work: Callable[[], list[int]]) -> list[int]:
    """The thread ends afterwards: the namespaces it has entered are its alone."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(work).result()


def _new_namespaces(hostname: str, lines: list[str]) -> list[int]:
    if _libc.unshare(_CLONE_NEWNET | _CLONE_NEWUTS | _CLONE_NEWIPC) != 0:
        raise OSError(ctypes.get_errno(), "unshare of network, host name and IPC")
    socket.sethostname(hostname)
    _ip(*lines)
    return [os.open(f"/proc/thread-self/ns/{kind}", os.O_RDONLY | os.O_CLOEXEC) for kind in ("net", "uts", "ipc")]


def _ip(*lines: str) -> None:
    done = subprocess.run(["ip", "-batch", "-"], input="\n".join(lines), capture_output=True, text=True)
    if done.returncode != 0:
        raise RuntimeError(f"ip {'; '.join(lines)}:\n{done.stderr}")
