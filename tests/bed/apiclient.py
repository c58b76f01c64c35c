"""A client of the API server for the process nodes and their DNS: plain HTTPS, a connection for each request.

Everything here runs in threads that a test may cut off from the API server, so that errors are few and of one kind.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import logging
import socket
import ssl
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

Object = dict[str, Any]
REQUEST_SECONDS = 10
_WATCH_SECONDS = 300
_RETRY_SECONDS = 0.2
_log = logging.getLogger(__name__)


class UnavailableError(Exception):
    """No answer, or one that says to come again."""


class RefusedError(Exception):
    """The API server said no, for good."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


@dataclass
class Api:
    """The API server as the holder of a client certificate sees it. While `cut` is set it cannot be reached."""

    endpoint: str
    context: ssl.SSLContext
    cut: threading.Event = field(default_factory=threading.Event)

    @classmethod
    def of(cls, endpoint: str, *, ca: Path, certificate: Path, key: Path) -> Api:
        context = ssl.create_default_context(cafile=str(ca))
        context.load_cert_chain(certificate, key)
        return cls(endpoint, context)

    def separable(self) -> Api:
        """The same for a client that can be cut off by itself."""
        return Api(self.endpoint, self.context)

    def connect(self, timeout: float) -> http.client.HTTPSConnection:
        if self.cut.is_set():
            raise UnavailableError("cut off from the API server")
        host, _, port = self.endpoint.removeprefix("https://").rpartition(":")
        return http.client.HTTPSConnection(host, int(port), context=self.context, timeout=timeout)

    def request(self, method: str, path: str, body: Object | None = None, kind: str = "application/json") -> Object:
        """Raises UnavailableError or RefusedError."""
        with contextlib.closing(self.connect(REQUEST_SECONDS)) as connection:
            try:
                data = None if body is None else json.dumps(body)
                connection.request(method, path, data, {"Content-Type": kind, "Accept": "application/json"})
                answer = connection.getresponse()
                text = answer.read()
            except (OSError, http.client.HTTPException) as error:
                raise UnavailableError(f"{method} {path}: {error}") from error
        if answer.status == 429 or answer.status >= 500:
            raise UnavailableError(f"{method} {path}: {answer.status}")
        if answer.status >= 400:
            raise RefusedError(answer.status, _message(text))
        result: Object = json.loads(text)
        return result

    def get(self, path: str) -> Object | None:
        """None where there is no such object."""
        try:
            return self.request("GET", path)
        except RefusedError as error:
            if error.status == 404:
                return None
            raise

    def post(self, path: str, body: Object) -> Object:
        return self.request("POST", path, body)

    def create(self, path: str, body: Object) -> None:
        """Fine where it is there already."""
        try:
            self.post(path, body)
        except RefusedError as error:
            if error.status != 409:
                raise

    def patch(self, path: str, body: Object) -> Object:
        """A strategic merge patch: conditions that others wrote stay."""
        return self.request("PATCH", path, body, "application/strategic-merge-patch+json")


class Watch(threading.Thread):
    """Lists and watches; `changed` is called in this thread with everything there is (by UID), after each event."""

    def __init__(self, api: Api, path: str, changed: Callable[[dict[str, Object]], None], query: str = "") -> None:
        super().__init__(name=f"watch {path}", daemon=True)
        self._api, self._path, self._query, self._changed = api, path, query, changed
        self._ended = threading.Event()
        self._lock = threading.Lock()
        self._socket: socket.socket | None = None
        self.objects: dict[str, Object] = {}

    def run(self) -> None:
        while not self._ended.is_set():
            try:
                self._follow(self._list())
            except (UnavailableError, RefusedError, OSError, http.client.HTTPException, ValueError) as error:
                _log.debug("%s: %s", self.name, error)
                self._ended.wait(_RETRY_SECONDS)

    def end(self) -> None:
        """Returns when `changed` will not be called again (unless `changed` itself calls this)."""
        self._ended.set()
        with self._lock, contextlib.suppress(OSError):
            if self._socket:
                self._socket.shutdown(socket.SHUT_RDWR)
        if self.is_alive() and threading.current_thread() is not self:
            self.join()

    def _list(self) -> str:
        listed = self._api.request("GET", f"{self._path}?{self._query}")
        self.objects = {each["metadata"]["uid"]: each for each in listed["items"]}
        self._tell()
        version: str = listed["metadata"]["resourceVersion"]
        return version

    def _follow(self, version: str) -> None:
        query = f"{self._query}&watch=1&resourceVersion={version}&timeoutSeconds={_WATCH_SECONDS}"
        with contextlib.closing(self._api.connect(_WATCH_SECONDS + 30)) as connection:
            connection.connect()
            with self._lock:
                if self._ended.is_set():
                    return
                self._socket = connection.sock
            try:
                connection.request("GET", f"{self._path}?{query}")
                with connection.getresponse() as answer:
                    if answer.status != 200:
                        raise UnavailableError(f"the watch was answered with {answer.status}")
                    for line in answer:
                        self._take(json.loads(line))
            finally:
                with self._lock:
                    self._socket = None

    def _take(self, event: Object) -> None:
        thing = event["object"]
        if event["type"] == "ERROR":
            raise UnavailableError(thing.get("message", "the watch ended"))
        if event["type"] == "DELETED":
            self.objects.pop(thing["metadata"]["uid"], None)
        else:
            self.objects[thing["metadata"]["uid"]] = thing
        self._tell()

    def _tell(self) -> None:
        if not self._ended.is_set():
            self._changed(self.objects)


def _message(text: bytes) -> str:
    try:
        return str(json.loads(text)["message"])
    except (ValueError, KeyError, TypeError):
        return text[:500].decode(errors="replace")
