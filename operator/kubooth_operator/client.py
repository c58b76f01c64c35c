"""The API server as the operator talks to it: requests, watches, and what can go wrong as types.

The only user of the Kubernetes client, with `kubeconfig`; `cluster`, `watch` and `leader` stand on it, and so does the
command line. What may end differently another time (no answer, 429, 5xx) is a `TemporaryError`; what the server will
not have is a `RefusedError`. Nothing is retried here: the work queue and the watches have their own back-off.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from pathlib import Path
from typing import Any, Final

import aiohttp
import yaml
from kubernetes.aio import config as kube_config
from kubernetes.aio.client import ApiClient, Configuration

from kubooth_operator.kubeconfig import KubeconfigError, load
from kubooth_operator.reach import Reach

Manifest = dict[str, Any]
MERGE_PATCH: Final = "application/merge-patch+json"
APPLY_PATCH: Final = "application/apply-patch+yaml"
ONLY_METADATA: Final = "application/json;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io"
REQUEST_SECONDS: Final = 15.0
CONNECT_SECONDS: Final = 5.0
_IDLE_SECONDS = 150.0
"""What brings nothing for this long, of a watch not even a bookmark, is opened anew: the connection may be dead."""

_POD_NAMESPACE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")

Told = Callable[[str, int, float], None]
"""Is called at the end of each request, watches apart: method, status (0: no answer), seconds."""


def _tell_nobody(method: str, status: int, seconds: float) -> None:
    """For those who measure nothing."""


class ApiError(Exception):
    """The API server did not do what was asked."""

    def __init__(self, message: str, *, status: int = 0, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.retry_after = retry_after
        """Seconds that the server asks to wait."""


class NoClusterError(ApiError):
    """No API server is configured, or the configuration cannot be used."""


class TemporaryError(ApiError):
    """No answer, too many requests, or trouble on the server's side."""


class IdleError(TemporaryError):
    """Nothing came for so long that the connection may be dead."""


class RefusedError(ApiError):
    """The server will not have it (400, 401, 403, 405, 422)."""


class NotFoundError(ApiError):
    """There is no such object."""


class ConflictError(ApiError):
    """The object is not what it was when it was read."""


class AlreadyExistsError(ApiError):
    """Another object has the name."""


class GoneError(ApiError):
    """The version to continue from is too old."""


class Api:
    """One connection pool to one API server."""

    def __init__(self, client: ApiClient, told: Told = _tell_nobody) -> None:
        self._client = client
        self._told = told
        self.reach = Reach()

    async def close(self) -> None:
        """Closes all connections."""
        await self._client.close()  # type: ignore[no-untyped-call]

    async def get(self, path: str, *, query: Mapping[str, str] | None = None, accept: str | None = None) -> Manifest:
        """Reads an object or a list."""
        return await self._request("GET", path, query=query, accept=accept)

    async def post(self, path: str, body: Manifest, *, query: Mapping[str, str] | None = None) -> Manifest:
        """Creates an object."""
        return await self._request("POST", path, query=query, body=body)

    async def put(self, path: str, body: Manifest) -> Manifest:
        """Replaces an object, if its resourceVersion is still that of `body`."""
        return await self._request("PUT", path, body=body)

    async def patch(self, path: str, body: Manifest, content_type: str, *, query: Mapping[str, str]) -> Manifest:
        """Changes an object, by merge patch or server-side apply."""
        return await self._request("PATCH", path, query=query, body=body, content_type=content_type)

    async def delete(self, path: str, body: Manifest) -> Manifest:
        """Deletes an object; `body` holds DeleteOptions. Returns the object while it lingers, else a Status."""
        return await self._request("DELETE", path, body=body)

    async def watch(self, path: str, query: Mapping[str, str]) -> AsyncGenerator[Manifest, None]:
        """Yields events until the server ends the stream."""
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_SECONDS, sock_read=_IDLE_SECONDS)
        try:
            async with await self._open("GET", path, query={**query, "watch": "true"}, timeout=timeout) as response:
                await self._check(response)
                async for line in _lines(response.content):
                    self.reach.answered()
                    yield _object(line)
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise TemporaryError(f"watch of {path}: {_words(error)}") from error

    async def lines(self, path: str, query: Mapping[str, str]) -> AsyncIterator[str]:
        """Yields the lines of a text, such as a log, as they come, until the server ends the stream.

        Raises IdleError where nothing comes for long, which need not be trouble.
        """
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_SECONDS, sock_read=_IDLE_SECONDS)
        headers = {"Accept": "*/*"}
        try:
            async with await self._open("GET", path, query=query, headers=headers, timeout=timeout) as response:
                await self._check(response)
                async for line in _lines(response.content):
                    yield line.decode(errors="replace")
        except aiohttp.SocketTimeoutError as error:
            raise IdleError(f"GET {path}: {_words(error)}") from error
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise TemporaryError(f"GET {path}: {_words(error)}") from error

    async def _request(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        body: Manifest | None = None,
        content_type: str = "application/json",
        accept: str | None = None,
    ) -> Manifest:
        timeout = aiohttp.ClientTimeout(total=REQUEST_SECONDS, sock_connect=CONNECT_SECONDS)
        headers = {"Content-Type": content_type, "Accept": accept or "application/json"}
        started, status = time.monotonic(), 0
        try:
            opened = await self._open(method, path, query=query, body=body, headers=headers, timeout=timeout)
            async with opened as response:
                status = response.status
                await self._check(response)
                return _object(await response.read())
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            failure = TemporaryError(f"{method} {path}: {_words(error)}")
            self.reach.failed(failure)
            raise failure from error
        finally:
            self._told(method, status, time.monotonic() - started)

    async def _open(
        self,
        method: str,
        path: str,
        *,
        timeout: aiohttp.ClientTimeout,
        query: Mapping[str, str] | None = None,
        body: Manifest | None = None,
        headers: dict[str, str] | None = None,
    ) -> aiohttp.ClientResponse:
        try:
            request = await self._client.param_serialize(
                method,
                path,
                query_params=list((query or {}).items()),
                header_params={"Accept": "application/json", **(headers or {})},
                body=body,
                auth_settings=["BearerToken"],
            )
        except KubeconfigError as error:  # a token has expired, and there is no other
            raise NoClusterError(_words(error)) from error
        answer = await self._client.call_api(*request, _request_timeout=timeout)
        response: aiohttp.ClientResponse = answer.response
        return response

    async def _check(self, response: aiohttp.ClientResponse) -> None:
        """Raises what the status stands for."""
        if response.status < 500 and response.status != 429:
            self.reach.answered()
        if response.status < 300:
            return
        error = _error(response.status, await response.read(), response.headers.get("Retry-After"))
        if response.status >= 500:
            self.reach.failed(error)
        raise error


def is_in_cluster() -> bool:
    """Whether the API server is that of the cluster this runs in; else KUBECONFIG, or ~/.kube/config, names it."""
    return "KUBECONFIG" not in os.environ and "KUBERNETES_SERVICE_HOST" in os.environ


def _in_cluster(configuration: Configuration) -> None:
    """The pod's own API server, never through a proxy. Python takes no ranges of addresses in NO_PROXY."""
    kube_config.load_incluster_config(client_configuration=configuration)  # type: ignore[no-untyped-call]
    host = os.environ["KUBERNETES_SERVICE_HOST"]
    name = "no_proxy" if "no_proxy" in os.environ else "NO_PROXY"  # the small one goes before the other
    named = [each for each in os.environ.get(name, "").split(",") if each.strip()]
    if "*" not in named and host not in named:
        os.environ[name] = ",".join([*named, host])


async def connect(user_agent: str, told: Told) -> Api:
    """Opens nothing yet: the first request does."""
    configuration = Configuration()
    if is_in_cluster():
        _in_cluster(configuration)
    else:
        await kube_config.load_kube_config(client_configuration=configuration)  # type: ignore[no-untyped-call]
    return _api(configuration, user_agent, told)


async def connect_as_user(user_agent: str, *, kubeconfig: str | None, context: str | None) -> tuple[Api, str, str]:
    """As kubectl connects: `kubeconfig`, else KUBECONFIG, else ~/.kube/config, else the pod's own ServiceAccount.

    Returns the connection, the namespace where none is given, and the server's address. Raises NoClusterError.
    """
    configuration = Configuration()
    named = kubeconfig or os.environ.get("KUBECONFIG") or "~/.kube/config"
    files = [path for each in named.split(os.pathsep) if each and (path := Path(each).expanduser()).exists()]
    if not files and (kubeconfig or context or not is_in_cluster()):
        raise NoClusterError(f"there is no kubeconfig at {named}")
    try:
        if files:
            namespace = await load(files, context, configuration)
        else:
            _in_cluster(configuration)
            namespace = _POD_NAMESPACE.read_text().strip()
    except (KubeconfigError, kube_config.ConfigException) as error:
        raise NoClusterError(_words(error)) from error
    except (OSError, ValueError, TypeError, KeyError, yaml.YAMLError) as error:  # what a file in disorder leads to
        raise NoClusterError(f"the kubeconfig cannot be used: {_words(error)}") from error
    return _api(configuration, user_agent), namespace, str(configuration.host)


def _api(configuration: Configuration, user_agent: str, told: Told = _tell_nobody) -> Api:
    client = ApiClient(configuration)
    client.user_agent = user_agent
    return Api(client, told)


def _object(text: bytes) -> Manifest:
    """What a server says. Raises TemporaryError where that is no JSON object: a proxy's page, or a line cut short."""
    try:
        answer = json.loads(text)
    except ValueError:
        answer = None
    if not isinstance(answer, dict):
        raise TemporaryError(f"this is not what an API server answers: {text[:80].decode(errors='replace')!r}")
    return answer


def _error(status: int, body: bytes, retry_after: str | None) -> ApiError:
    try:
        told = json.loads(body)
        message, reason = str(told.get("message") or told), told.get("reason")
    except (ValueError, AttributeError):
        message, reason = body.decode(errors="replace")[:500], None
    if status == 409:
        return (AlreadyExistsError if reason == "AlreadyExists" else ConflictError)(message, status=status)
    if status == 429 or status >= 500:
        seconds = float(retry_after) if retry_after and retry_after.isdigit() else None
        return TemporaryError(message, status=status, retry_after=seconds)
    return {404: NotFoundError, 410: GoneError}.get(status, RefusedError)(message, status=status)


async def _lines(stream: aiohttp.StreamReader) -> AsyncIterator[bytes]:
    """Lines of any length (the reader's own `readline` has a limit)."""
    pending = bytearray()
    async for chunk in stream.iter_any():
        pending += chunk
        while (end := pending.find(b"\n")) >= 0:
            line = bytes(pending[:end])
            del pending[: end + 1]
            if line:
                yield line
    if pending:
        yield bytes(pending)


def _words(error: BaseException) -> str:
    return str(error) or type(error).__name__
