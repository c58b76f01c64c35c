"""Where the trainer's status goes: a file for the launcher, and on a cluster the API server. Used by `status`.

Each outlet delivers the newest state from a thread of its own, so that one that hangs or refuses holds nobody up.
"""

from __future__ import annotations

import json
import os
import re
import sys
import threading
import time
from collections.abc import Callable
from http import HTTPStatus
from pathlib import Path
from typing import Any

from kubooth_trainer.config import JobIdentity

FIELD_MANAGER = "kubooth-trainer"
SERVICE_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
API_SECONDS_BETWEEN = 10.0  # stage ends do not wait for it
FILE_SECONDS_BETWEEN = 0.5
_LONGEST_PAUSE = 60.0
_LONGEST_AFTER = 6  # failures
_LAST_PAUSE = 0.3  # between tries at the end
_LASTING = ("identifier", "className", "prior", "checkpoint")  # true of a job over all its attempts
_CONFLICTS = 3  # how often a job that changes meanwhile is looked at again
_ESCAPES = re.compile(r"\\\\|(?P<pair>\\ud[89ab][0-9a-f]{2}\\ud[c-f][0-9a-f]{2})|(?P<half>\\ud[89a-f][0-9a-f]{2})")

Status = dict[str, Any]


class Outlet:
    """Delivers the newest state from a thread of its own: one at a time, not too often, again after a failure."""

    def __init__(self, name: str, write: Callable[[Status], None], *, seconds_between: float) -> None:
        self._name = name
        self._write = write
        self._seconds_between = seconds_between
        self._changed = threading.Condition()
        self._waiting: Status | None = None
        self._urgent = False
        self._closing = False
        self._failures = 0
        self._not_before = 0.0
        self._thread = threading.Thread(target=self._deliver, name=f"status to {name}", daemon=True)
        self._thread.start()

    def offer(self, status: Status, *, now: bool = False) -> None:
        """Replaces what waits to be delivered. `now`: do not wait for the time between deliveries to pass."""
        with self._changed:
            self._waiting = status
            self._urgent = self._urgent or now
            self._changed.notify()

    def close(self) -> None:
        """What waits is delivered at once; nothing is taken any more."""
        with self._changed:
            self._closing = True
            self._not_before = 0.0
            self._changed.notify()

    def wait(self, seconds: float) -> None:
        """Waits for the last delivery. The thread ends with the process in any case."""
        self._thread.join(seconds)

    def _deliver(self) -> None:
        while (status := self._next()) is not None:
            try:
                self._write(status)
            except Exception as error:  # noqa: BLE001 - whatever it was, training goes on and it is tried again
                self._failed(status, error)
            else:
                self._succeeded()

    def _next(self) -> Status | None:
        """Waits for the next state and for its time; None when closed and all is delivered."""
        with self._changed:
            while True:
                if self._waiting is None:
                    if self._closing:
                        return None
                    self._changed.wait()
                    continue
                early = self._not_before - time.monotonic()
                if early > 0 and (self._failures or not self._urgent):
                    self._changed.wait(early)
                    continue
                status, self._waiting, self._urgent = self._waiting, None, False
                return status

    def _failed(self, status: Status, error: Exception) -> None:
        with self._changed:
            self._failures += 1
            if self._waiting is None:
                self._waiting = status
            pause = _LAST_PAUSE if self._closing else min(_LONGEST_PAUSE, 2.0 ** min(self._failures, _LONGEST_AFTER))
            self._not_before = time.monotonic() + pause
        if self._failures == 1:
            print(f"{self._name} cannot be written now, which is tried again: {error}", file=sys.stderr, flush=True)

    def _succeeded(self) -> None:
        if self._failures:
            print(f"{self._name} is written again", file=sys.stderr, flush=True)
        with self._changed:
            self._failures = 0
            self._not_before = 0.0 if self._closing else time.monotonic() + self._seconds_between


def file_outlet(path: Path) -> Outlet:
    """The summary for the launcher, replaced as a whole."""

    def write(status: Status) -> None:
        partial = path.with_suffix(".partial")
        partial.write_text(json.dumps(status))
        partial.replace(path)

    return Outlet("the summary for the launcher", write, seconds_between=FILE_SECONDS_BETWEEN)


def api_outlet(job: JobIdentity, server: str | None = None, credentials: Path = SERVICE_ACCOUNT) -> Outlet:
    """The status of the pod's own job, with the credentials of the pod's service account."""
    made: list[StatusApi] = []

    def write(status: Status) -> None:
        if not made:  # here, so that whatever is missing counts as one more failed write
            made.append(StatusApi(job, server or in_cluster_server(), credentials))
        made[0].write(status)

    return Outlet("the status of the job", write, seconds_between=API_SECONDS_BETWEEN)


def in_cluster_server() -> str:
    """The API server as pods find it."""
    host, port = os.environ["KUBERNETES_SERVICE_HOST"], os.environ.get("KUBERNETES_SERVICE_PORT", "443")
    return f"https://[{host}]:{port}" if ":" in host else f"https://{host}:{port}"


class StatusRefusedError(Exception):
    """The API server answered, and the answer is no."""


class StatusApi:
    """Server-side apply, with force, of the trainer's fields in the status of one job."""

    def __init__(self, job: JobIdentity, server: str, credentials: Path) -> None:
        import urllib3  # comes with botocore

        authority = credentials / "ca.crt"
        self._job = job
        self._before: Status | None = None  # of what an earlier attempt has found out, until this one knows better
        self._credentials = credentials
        self._http = urllib3.PoolManager(
            ca_certs=str(authority) if authority.exists() else None,
            timeout=urllib3.Timeout(connect=5.0, read=10.0),
            retries=False,
        )
        self._url = (
            f"{server}/apis/kubooth.io/v1alpha1/namespaces/{job.namespace}/personalizationjobs/{job.name}/status"
        )

    def write(self, status: Status) -> None:
        """Raises StatusRefusedError, or urllib3's error where there was no answer."""
        for _ in range(_CONFLICTS):
            precondition = self._precondition()
            body = {
                "apiVersion": "kubooth.io/v1alpha1",
                "kind": "PersonalizationJob",
                "metadata": {"name": self._job.name, "namespace": self._job.namespace, **precondition},
                "status": {**(self._before or {}), **status},
            }
            code, answer = self._call("PATCH", f"{self._url}?fieldManager={FIELD_MANAGER}&force=true", body)
            if code < 300:
                return
            if code != HTTPStatus.CONFLICT:
                break
        raise StatusRefusedError(f"HTTP {code}: {_reason(answer)}")

    def _precondition(self) -> dict[str, str]:
        """That the job is still the one we train for: one that was deleted and made again is another.

        On a status subresource the API server does not check a uid that is sent along, but does check the version.
        """
        if self._job.uid is None:
            return {}
        code, answer = self._call("GET", self._url)
        if code >= 300:
            raise StatusRefusedError(f"HTTP {code}: {_reason(answer)}")
        job = json.loads(answer)
        metadata = job["metadata"]
        if metadata["uid"] != self._job.uid:
            raise StatusRefusedError("the job was deleted and made again under its name")
        if self._before is None:
            self._before = {name: value for name, value in job.get("status", {}).items() if name in _LASTING}
        return {"uid": metadata["uid"], "resourceVersion": metadata["resourceVersion"]}

    def _call(self, method: str, url: str, body: dict[str, Any] | None = None) -> tuple[int, bytes]:
        token = (self._credentials / "token").read_text().strip()  # read anew: the kubelet replaces it
        answer = self._http.request(
            method,
            url,
            body=None if body is None else as_yaml(body),
            headers={"Authorization": f"Bearer {token}", "Content-Type": "application/apply-patch+yaml"},
        )
        return answer.status, answer.data


def as_yaml(body: dict[str, Any]) -> bytes:
    """JSON as the API server's reader of YAML takes it, which knows no surrogates: a character beyond U+FFFF stands as
    it is, and half of one as U+FFFD."""

    def mended(found: re.Match[str]) -> str:
        if found["pair"]:
            return str(json.loads(f'"{found["pair"]}"'))
        return r"\ufffd" if found["half"] else found[0]

    return _ESCAPES.sub(mended, json.dumps(body)).encode()


def _reason(body: bytes) -> str:
    try:
        return str(json.loads(body)["message"])[:300]
    except (ValueError, KeyError, TypeError):
        return "no reason given"
