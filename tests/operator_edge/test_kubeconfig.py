"""A person's kubeconfig, read as kubectl reads it, and the plugins that it gets credentials from."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from operator_edge.fake_server import served

from kubooth_operator.client import Api, NoClusterError, connect_as_user

Manifest = dict[str, Any]


def config(folder: Path, name: str, *, server: str | None = None, user: Manifest | None = None, **more: Any) -> Path:
    """A kubeconfig with one context, named as the file is, which is current unless `more` says otherwise."""
    content = {
        "clusters": [{"name": name, "cluster": {"server": server or f"http://{name}"}}],
        "users": [{"name": name, "user": user or {"token": name}}],
        "contexts": [{"name": name, "context": {"cluster": name, "user": name, "namespace": f"ns-{name}"}}],
        "current-context": name,
        **more,
    }
    path = folder / name
    path.write_text(json.dumps(content))
    return path


def connected_to(files: list[Path], context: str | None = None) -> tuple[str, str]:
    """Namespace and server."""

    async def connect() -> tuple[str, str]:
        api, namespace, server = await connect_as_user(
            "test", kubeconfig=os.pathsep.join(map(str, files)), context=context
        )
        await api.close()
        return namespace, server

    return asyncio.run(connect())


def test_of_several_files_the_first_current_context_counts(tmp_path: Path) -> None:
    a, b = config(tmp_path, "a"), config(tmp_path, "b")
    none, blank = config(tmp_path, "none", **{"current-context": ""}), tmp_path / "blank"
    blank.write_text("")
    assert connected_to([a, b]) == ("ns-a", "http://a")
    assert connected_to([b, a]) == ("ns-b", "http://b")
    assert connected_to([blank, none, b, a, blank, none, tmp_path / "nowhere"]) == ("ns-b", "http://b")
    assert connected_to([a, b], "b") == ("ns-b", "http://b")
    for files, words in (([none], "no current-context"), ([blank], "it is empty")):
        with pytest.raises(NoClusterError, match=words):
            connected_to(files)


# Credential plugins


def plugin(folder: Path, script: str, **more: Any) -> Manifest:
    """A user whose credentials come from a script, which appends a letter to `calls`."""
    path = folder / "plugin"
    path.write_text(
        f"#!{sys.executable}\nimport json, os, sys\nopen({str(folder / 'calls')!r}, 'a').write('x')\n{script}"
    )
    path.chmod(0o700)
    return {"exec": {"apiVersion": "client.authentication.k8s.io/v1", "command": "./plugin", **more}}


def gives(seconds: float) -> str:
    """A script: another token at each call, which lives for that long."""
    expires = (datetime.now(UTC) + timedelta(seconds=seconds)).strftime("%Y-%m-%dT%H:%M:%SZ")
    return f"""
token = "t%d" % os.path.getsize(os.path.join(os.path.dirname(__file__), "calls"))
status = {{"token": token, "expirationTimestamp": {expires!r}}}
asked = json.loads(os.environ["KUBERNETES_EXEC_INFO"])
print(json.dumps({{"apiVersion": asked["apiVersion"], "kind": "ExecCredential", "status": status}}))
"""


def tokens_of(folder: Path, user: Manifest, requests: int = 3) -> list[str]:
    """What the server is shown, at requests that are made at once after a first one."""
    seen = []

    async def handler(request: web.Request) -> web.Response:
        seen.append(request.headers["Authorization"])
        return web.json_response({})

    async def run() -> None:
        async with served(handler) as server:
            path = config(folder, "c", server=server, user=user)
            api: Api = (await connect_as_user("test", kubeconfig=str(path), context=None))[0]
            try:
                await api.get("/version")
                await asyncio.gather(*(api.get("/version") for _ in range(requests - 1)))
            finally:
                await api.close()

    asyncio.run(run())
    return seen


def test_a_token_is_renewed_before_it_expires(tmp_path: Path) -> None:
    seen = tokens_of(tmp_path, plugin(tmp_path, gives(seconds=5)))
    assert seen == ["Bearer t2", "Bearer t3", "Bearer t4"]


def test_a_token_that_lasts_is_asked_for_once(tmp_path: Path) -> None:
    assert tokens_of(tmp_path, plugin(tmp_path, gives(seconds=900))) == ["Bearer t1"] * 3


def test_a_plugin_that_fails_says_why(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    user = plugin(tmp_path, "sys.exit('log in at https://example.test')")
    with pytest.raises(NoClusterError, match=r"the credential plugin .*plugin has failed with exit code 1"):
        tokens_of(tmp_path, user)
    assert capfd.readouterr().err == "log in at https://example.test\n"


def test_a_plugin_that_fails_later_says_why(tmp_path: Path) -> None:
    """Not that anonymous users have no rights."""
    once = f"if os.path.getsize({str(tmp_path / 'calls')!r}) > 1: sys.exit(3)\n"
    with pytest.raises(NoClusterError, match="has failed with exit code 3"):
        tokens_of(tmp_path, plugin(tmp_path, once + gives(seconds=5)))


@pytest.mark.parametrize(
    ("script", "words"),
    [
        ("print('hello')", "does not answer with an ExecCredential"),
        ('print(\'{"apiVersion": "v2", "status": {}}\')', "answers as v2, not client.authentication.k8s.io/v1"),
        ('print(\'{"apiVersion": "client.authentication.k8s.io/v1", "status": {}}\')', "gave no credentials"),
    ],
)
def test_a_plugin_that_answers_something_else(tmp_path: Path, script: str, words: str) -> None:
    with pytest.raises(NoClusterError, match=words):
        tokens_of(tmp_path, plugin(tmp_path, script))


def test_a_plugin_that_is_not_there(tmp_path: Path) -> None:
    user = plugin(tmp_path, "", installHint="get it at\nexample.test")
    (tmp_path / "plugin").unlink()
    with pytest.raises(
        NoClusterError, match=r"cannot be started: No such file or directory \(get it at example.test\)"
    ):
        tokens_of(tmp_path, user)
