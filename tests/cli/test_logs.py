"""`kubooth logs`, where a cluster would have to be caught at the moment."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any

import pytest

from kubooth_cli.logs import _Logs
from kubooth_operator.client import NotFoundError


class Node:
    """Has not heard of the pod when it is first asked."""

    def __init__(self) -> None:
        self.asked = 0

    async def lines(self, path: str, query: dict[str, str]) -> AsyncIterator[str]:
        self.asked += 1
        if self.asked == 1:
            raise NotFoundError("pod does not exist", status=404)
        yield "a line"


@pytest.mark.parametrize(("phase", "shown"), [("Pending", True), ("Running", True), ("Succeeded", False)])
def test_a_pod_that_its_node_has_not_heard_of_is_asked_again(
    phase: str, shown: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    node = Node()
    session: Any = SimpleNamespace(api=node, namespace="default")
    logs = _Logs(session, "rex", attempt=None, tail=None, raw=False)
    pod = {"metadata": {"name": "rex-kubooth-1-0-x"}, "status": {"phase": phase}}
    asyncio.run(logs._show(pod, follow=True))
    assert not logs.shown and ("rex-kubooth-1-0-x" in logs._over) != shown
    asyncio.run(logs._show(pod, follow=True))
    assert "a line" in capsys.readouterr().out
