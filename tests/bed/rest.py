"""The API server for tests that ask it often: JSON over one connection, as admin. kubectl takes longer to start."""

from __future__ import annotations

import http.client
import json
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import urlencode

from bed.controlplane import ControlPlane

Manifest = dict[str, Any]
JOBS = "/apis/kubooth.io/v1alpha1/namespaces/{}/personalizationjobs"
RUNTIMES = "/apis/kubooth.io/v1alpha1/personalizationruntimes"
_PATCHES = {"merge": "application/merge-patch+json", "apply": "application/apply-patch+yaml"}
_TRIES = 10  # as many as kubectl's


class ApiError(AssertionError):
    """The API server refused."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(f"{status}: {message}")
        self.status = status


class Rest:
    """Each thread has a connection of its own."""

    def __init__(self, plane: ControlPlane) -> None:
        admin = plane.authority.folder / "admin"
        self._context = ssl.create_default_context(cafile=str(plane.ca))
        self._context.load_cert_chain(admin.with_suffix(".crt"), admin.with_suffix(".key"))
        host, _, port = plane.endpoint.removeprefix("https://").rpartition(":")
        self._address = (host, int(port))
        self._local = threading.local()

    def call(
        self, method: str, path: str, body: Manifest | None = None, *, kind: str = "", **query: str | None
    ) -> Manifest:
        """One request. `kind` is "merge" or "apply" for a PATCH."""
        headers = {"Content-Type": _PATCHES.get(kind, "application/json"), "Accept": "application/json"}
        given = {name: value for name, value in query.items() if value is not None}
        target = f"{path}?{urlencode(given)}" if given else path
        payload = None if body is None else json.dumps(body)
        for attempt in range(_TRIES):
            connection = self._connection()
            try:
                connection.request(method, target, payload, headers)
                answer = connection.getresponse()
                data = answer.read()
            except (OSError, http.client.HTTPException):  # a connection that was kept open too long
                connection.close()
                if attempt:
                    raise
                continue
            wait = answer.headers.get("Retry-After")
            if answer.status != 429 or wait is None or attempt + 1 == _TRIES:
                break
            time.sleep(float(wait))  # it has just started: clients are told to come again, and kubectl does
        told = json.loads(data)
        if answer.status >= 300:
            raise ApiError(answer.status, told.get("message", ""))
        result: Manifest = told
        return result

    def get(self, path: str, **query: str | None) -> Manifest:
        return self.call("GET", path, **query)

    def items(self, path: str, selector: str | None = None) -> list[Manifest]:
        found: list[Manifest] = self.get(path, labelSelector=selector)["items"]
        return found

    def post(self, path: str, body: Manifest) -> Manifest:
        return self.call("POST", path, body)

    def merge(self, path: str, body: Manifest) -> Manifest:
        return self.call("PATCH", path, body, kind="merge")

    def delete(self, path: str, **options: Any) -> None:
        """Deletes; what is gone already is no error."""
        try:
            self.call("DELETE", path, {"apiVersion": "v1", "kind": "DeleteOptions", **options})
        except ApiError as error:
            if error.status != 404:
                raise

    def find(self, path: str) -> Manifest | None:
        """An object, or None where there is none."""
        try:
            return self.get(path)
        except ApiError as error:
            if error.status == 404:
                return None
            raise

    def watch(self, path: str, version: str) -> Iterator[Manifest]:
        """Events from a version on, on a connection of its own; ends with the server's patience."""
        host, port = self._address
        connection = http.client.HTTPSConnection(host, port, context=self._context)
        connection.request("GET", f"{path}?{urlencode({'watch': 'true', 'resourceVersion': version})}")
        answer = connection.getresponse()
        while line := answer.readline():
            yield json.loads(line)

    def close(self) -> None:
        """Closes this thread's connection."""
        self._connection().close()

    def _connection(self) -> http.client.HTTPSConnection:
        if not hasattr(self._local, "connection"):
            host, port = self._address
            self._local.connection = http.client.HTTPSConnection(host, port, context=self._context, timeout=30)
        connection: http.client.HTTPSConnection = self._local.connection
        return connection


def condition(job: Manifest, type_: str) -> Manifest | None:
    """One condition of a job's status."""
    conditions = (job.get("status") or {}).get("conditions") or ()
    return next((each for each in conditions if each["type"] == type_), None)


Predicate = Callable[[Manifest], object]
