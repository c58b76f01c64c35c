"""A TCP proxy in front of a server that misbehaves on request: the faults that networks and endpoints show.

Each rule looks at one request's first line and decides what happens to that request; without a rule it passes.
"""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

_UNAVAILABLE = b"<Error><Code>%s</Code><Message>try later</Message></Error>"


@dataclass
class Fault:
    """Applies to the next `times` requests whose first line holds `match`."""

    match: str = ""
    times: int = 1
    answer: tuple[int, str] | None = None  # status and S3 error code, without asking the server
    cut_after: int | None = None  # bytes of the answer that pass before the connection is closed
    silent: bool = False  # the request is read and never answered
    before: Callable[[], object] | None = None  # called before the request is passed on
    lose_answer: bool = False  # the server does its work, the client hears nothing of it


@dataclass
class Proxy:
    """`http://127.0.0.1:port` in front of `upstream` (host, port)."""

    upstream: tuple[str, int]
    endpoint: str = ""
    requests: list[str] = field(default_factory=list)  # the first lines, in order of arrival
    faults: list[Fault] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def next_fault(self, line: str) -> Fault | None:
        with self._lock:
            self.requests.append(line)
            for fault in self.faults:
                if fault.times > 0 and fault.match in line:
                    fault.times -= 1
                    return fault
        return None


@contextlib.contextmanager
def proxied(endpoint: str) -> Iterator[Proxy]:
    """A proxy to `endpoint` for the time of the block."""
    host, _, port = endpoint.removeprefix("http://").partition(":")
    proxy = Proxy((host, int(port)))
    stop = threading.Event()
    threads: list[threading.Thread] = []
    with socket.create_server(("127.0.0.1", 0)) as listener:
        proxy.endpoint = f"http://127.0.0.1:{listener.getsockname()[1]}"

        def accept() -> None:
            while True:
                try:
                    client, _ = listener.accept()
                except OSError:
                    return
                if stop.is_set():
                    client.close()
                    return
                worker = threading.Thread(target=_serve, args=(proxy, client, stop))
                threads.append(worker)
                worker.start()

        acceptor = threading.Thread(target=accept)
        acceptor.start()
        try:
            yield proxy
        finally:
            stop.set()
            with contextlib.suppress(OSError):
                socket.create_connection(listener.getsockname(), timeout=5).close()
            acceptor.join()
            for worker in threads:
                worker.join()


def _serve(proxy: Proxy, client: socket.socket, stop: threading.Event) -> None:
    """One request per connection, so that each finds its own rule."""
    client.settimeout(0.05)
    with client, contextlib.suppress(OSError):
        head = _read_head(client, stop)
        if not head:
            return
        fault = proxy.next_fault(head.split(b"\r\n", 1)[0].decode())
        if fault and fault.before:
            fault.before()
        if fault and fault.silent:
            while not stop.is_set() and not _is_closed(client):
                pass
            return
        if fault and fault.answer:
            _drain(client, head)
            status, code = fault.answer
            body = _UNAVAILABLE % code.encode()
            client.sendall(
                f"HTTP/1.1 {status} Fault\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n".encode() + body
            )
            return
        with socket.create_connection(proxy.upstream) as server:
            server.sendall(_closing(head))
            _pump(client, server, fault, stop)


def _read_head(client: socket.socket, stop: threading.Event) -> bytes:
    """The request up to its blank line, and what of the body came with it."""
    data = b""
    while b"\r\n\r\n" not in data:
        if stop.is_set():
            return b""
        try:
            piece = client.recv(65536)
        except TimeoutError:
            continue
        if not piece:
            return b""
        data += piece
    return data


def _closing(head: bytes) -> bytes:
    """Asks the server to close after its answer (the header is not among the signed ones)."""
    line, _, rest = head.partition(b"\r\n")
    return line + b"\r\nConnection: close\r\n" + rest


def _drain(client: socket.socket, head: bytes) -> None:
    """Reads the body, so that the answer is not lost in a reset connection."""
    fields, _, body = head.partition(b"\r\n\r\n")
    length = 0
    for line in fields.split(b"\r\n"):
        name, _, value = line.partition(b":")
        if name.lower() == b"content-length":
            length = int(value)
        if name.lower() == b"expect":
            return
    client.settimeout(5)
    left = length - len(body)
    while left > 0 and (piece := client.recv(min(left, 65536))):
        left -= len(piece)


def _pump(client: socket.socket, server: socket.socket, fault: Fault | None, stop: threading.Event) -> None:
    def forward() -> None:
        with contextlib.suppress(OSError):
            while not stop.is_set():
                try:
                    piece = client.recv(65536)
                except TimeoutError:
                    continue
                if not piece:  # the client went away before its answer
                    server.shutdown(socket.SHUT_RDWR)
                    return
                server.sendall(piece)

    sender = threading.Thread(target=forward)
    sender.start()
    passed = 0
    with contextlib.suppress(OSError):
        while piece := server.recv(65536):
            if fault and fault.lose_answer:
                continue
            if fault and fault.cut_after is not None and passed + len(piece) > fault.cut_after:
                client.sendall(piece[: fault.cut_after - passed])
                break
            client.sendall(piece)
            passed += len(piece)
    with contextlib.suppress(OSError):
        client.shutdown(socket.SHUT_RDWR)
    sender.join()


def _is_closed(client: socket.socket) -> bool:
    try:
        return client.recv(65536) == b""
    except TimeoutError:
        return False
