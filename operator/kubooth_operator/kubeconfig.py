"""A person's kubeconfig as kubectl reads it, where the Kubernetes client reads it otherwise.

`client` connects by it. Of several files the first current-context counts; credential plugins (`exec`: aws, gcloud,
kubelogin) talk to the terminal, say why they failed, and are called again before their token expires.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

import yaml
from kubernetes.aio.client import Configuration
from kubernetes.aio.config.kube_config import FileOrData, KubeConfigLoader, KubeConfigMerger

_RENEW_BEFORE: Final = timedelta(seconds=30)


class KubeconfigError(Exception):
    """The kubeconfig cannot be used, or its credential plugin has failed: one sentence."""


async def load(files: Sequence[Path], context: str | None, configuration: Configuration) -> str:
    """Fills `configuration` for the context, or else the current one; returns its namespace.

    Raises KubeconfigError, and for a file in disorder whatever that leads to.
    """
    contents = {file: yaml.safe_load(file.read_text()) for file in files}
    there = [file for file, content in contents.items() if content is not None]
    if not there:
        raise KubeconfigError("the kubeconfig cannot be used: it is empty")
    for file in there:
        if not isinstance(contents[file], dict):
            raise KubeconfigError(f"the kubeconfig cannot be used: {file} holds no fields")
    context = context or next((each for file in there if (each := contents[file].get("current-context"))), None)
    if context is None:
        raise KubeconfigError("the kubeconfig has no current-context: name one with --context")
    merged = KubeConfigMerger(os.pathsep.join(map(str, there)))  # type: ignore[no-untyped-call]
    loader = _Loader(merged.config, active_context=context, config_base_path=None)
    await loader.load_and_set(configuration)  # type: ignore[no-untyped-call]
    if loader.expires is not None:
        configuration.refresh_api_key_hook = loader.renew  # type: ignore[assignment]
    return str(loader.current_context["context"].get("namespace") or "default")


class _Loader(KubeConfigLoader):
    """The client's own keeps a plugin's words to itself, takes its failure for no credentials, and calls it once."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)  # type: ignore[no-untyped-call]
        self.expires: datetime | None = None
        self._renewing = asyncio.Lock()

    async def load_from_exec_plugin(self) -> bool:
        """Asks the plugin. Raises KubeconfigError."""
        assert self._user is not None
        plugin = self._user["exec"]
        status = await _ask(plugin.value, Path(plugin.path or ".").parent)
        token, pair = status.get("token"), ("clientCertificateData", "clientKeyData")
        if token:
            self.token = f"Bearer {token}"
        elif all(status.get(each) for each in pair):
            self.cert_file, self.key_file = (_file(str(status[each])) for each in pair)
        else:
            raise KubeconfigError(f"the credential plugin {plugin['command']} gave no credentials")
        self.expires = _time(status.get("expirationTimestamp")) if token else None
        return True

    async def renew(self, configuration: Configuration) -> None:
        """Before each request: another token, where this one expires. Raises KubeconfigError."""
        async with self._renewing:  # many pods' logs are asked for at once
            if self.expires is None or datetime.now(UTC) < self.expires - _RENEW_BEFORE:
                return
            await self.load_from_exec_plugin()
            configuration.api_key["BearerToken"] = self.token


async def _ask(plugin: dict[str, Any], folder: Path) -> dict[str, Any]:
    """The ExecCredential's status. The plugin has this process' terminal, for what it asks and what it complains of."""
    command, version = str(plugin["command"]), str(plugin["apiVersion"])
    if os.sep in command:
        command = str(folder / command)  # as kubectl: from the kubeconfig's folder
    interactive = sys.stdin.isatty() and plugin.get("interactiveMode") != "Never"
    request = {"apiVersion": version, "kind": "ExecCredential", "spec": {"interactive": interactive}}
    variables = {each["name"]: each["value"] for each in plugin.get("env") or ()}
    try:
        process = await asyncio.create_subprocess_exec(
            command,
            *map(str, plugin.get("args") or ()),
            env={**os.environ, **variables, "KUBERNETES_EXEC_INFO": json.dumps(request)},
            stdin=None if interactive else asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
        )
    except OSError as error:
        hint = f" ({' '.join(str(plugin['installHint']).split())})" if plugin.get("installHint") else ""
        raise KubeconfigError(f"the credential plugin {command} cannot be started: {error.strerror}{hint}") from error
    told, _ = await process.communicate()
    if process.returncode:
        raise KubeconfigError(f"the credential plugin {command} has failed with exit code {process.returncode}")
    try:
        answer = json.loads(told)
        status: dict[str, Any] = dict(answer["status"])
    except (ValueError, TypeError, KeyError) as error:
        raise KubeconfigError(f"the credential plugin {command} does not answer with an ExecCredential") from error
    if answer.get("apiVersion") != version:
        raise KubeconfigError(f"the credential plugin {command} answers as {answer.get('apiVersion')}, not {version}")
    return status


def _file(content: str) -> str:
    """A file of this content, until the process ends."""
    made = FileOrData({"data": content}, None, data_key_name="data", base64_file_content=False)  # type: ignore[no-untyped-call]
    return str(made.as_file())  # type: ignore[no-untyped-call]


def _time(text: Any) -> datetime | None:
    if not text:
        return None
    try:
        time = datetime.fromisoformat(str(text))
    except ValueError as error:
        raise KubeconfigError(f"the credential plugin's expirationTimestamp is no time: {text}") from error
    return time if time.tzinfo else time.replace(tzinfo=UTC)
