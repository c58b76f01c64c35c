"""The default runtime of a namespace, and which jobs hear of a change to it."""

from __future__ import annotations

from typing import Any

from kubooth_operator.cache import Cache, Key
from kubooth_operator.defaults import default_of
from kubooth_operator.handlers import Events
from kubooth_operator.kinds import JOB, RUNTIME


def runtime(name: str, *namespaces: str, made: str = "2026-01-01T00:00:00Z", version: int = 1) -> dict[str, Any]:
    metadata = {"name": name, "uid": name, "creationTimestamp": made, "resourceVersion": str(version)}
    return {"metadata": metadata, "spec": {"defaultForNamespaces": list(namespaces)} if namespaces else {}}


def job(namespace: str, name: str, runtime_name: str) -> dict[str, Any]:
    metadata = {"namespace": namespace, "name": name, "uid": f"{namespace}-{name}", "resourceVersion": "1"}
    return {"metadata": metadata, "spec": {"runtimeRef": {"name": runtime_name}}}


class Queue:
    def __init__(self) -> None:
        self.keys: set[Key] = set()

    def add(self, key: Key) -> None:
        self.keys.add(key)


def test_a_runtime_may_be_the_default_of_some_namespaces() -> None:
    known = [runtime("default"), runtime("a", "team-a"), runtime("b", "team-b", "team-c")]
    assert [default_of(f"team-{each}", known) for each in "abcd"] == [known[1], known[2], known[2], None]


def test_of_several_the_oldest_counts() -> None:
    young, old = runtime("a", "team", made="2026-05-01T00:00:00Z"), runtime("z", "team", made="2026-04-01T00:00:00Z")
    assert default_of("team", [young, old]) == old
    assert default_of("team", [runtime("b", "team"), runtime("a", "team")]) == runtime("a", "team")


def test_jobs_hear_of_a_default_that_comes_and_goes() -> None:
    cache, queue = Cache(), Queue()
    events = Events(cache, queue, lambda _: None)  # type: ignore[arg-type]
    for each in (job("team", "mine", "default"), job("team", "named", "other"), job("else", "theirs", "default")):
        events.of_own_kind(JOB, "ADDED", each)
    for type_, each in (
        ("ADDED", runtime("gpu", "team", version=2)),
        ("MODIFIED", runtime("gpu", version=3)),
        ("MODIFIED", runtime("gpu", "team", version=4)),
        ("DELETED", runtime("gpu", "team", version=5)),
    ):
        queue.keys.clear()
        events.of_own_kind(RUNTIME, type_, each)
        assert queue.keys == {Key("team", "mine")}, type_
