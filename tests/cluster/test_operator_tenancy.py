"""One team's jobs and another team's data: what a runtime does not allow is refused, says why, and starts nothing."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from bed.jobs import Bench, Manifest, job, runtime
from bed.operator_process import Operator
from bed.rest import RUNTIMES, condition

PREFIXES = {
    "readPrefixes": ["s3://photos/{namespace}/", "s3://models/shared/"],
    "writePrefixes": ["s3://models/{namespace}/"],
}


@pytest.fixture
def fenced(bench: Bench) -> Iterator[str]:
    """A runtime whose jobs stay with the data of their own namespace."""
    bench.create_runtime(runtime("fenced", limits=PREFIXES))
    yield "fenced"
    bench.rest.delete(f"{RUNTIMES}/fenced")


def own(bench: Bench, runtime_name: str, **other: Manifest) -> Manifest:
    """A job that keeps to its namespace's data, but for `other` parts of its spec."""
    spec: dict[str, Manifest] = {
        "model": {"uri": "s3://models/shared/sd/"},
        "subject": {"className": "dog", "images": f"s3://photos/{bench.namespace}/rex/"},
        "output": {"uri": f"s3://models/{bench.namespace}/rex/"},
    }
    return job(runtime=runtime_name, **{**spec, **other})


def is_refused(bench: Bench, reason: str, *says: str) -> None:
    status = bench.wait_for_reason(reason)
    accepted = condition({"status": status}, "Accepted")
    assert accepted and (accepted["status"], accepted["reason"]) == ("False", reason)
    assert all(words in accepted["message"] for words in says), accepted["message"]
    assert status["phase"] == "Pending" and not status.get("attempts")
    assert not bench.children() and not bench.pods()


def test_a_job_that_keeps_to_its_own_is_accepted(operator: Operator, bench: Bench, fenced: str) -> None:
    bench.create(own(bench, fenced))
    bench.wait_for_pods()


@pytest.mark.parametrize(
    "images",
    [
        "s3://photos/team-b/rex/",
        "s3://photos/{namespace}-b/rex/",  # begins with the same letters, and is another segment
        "s3://photos/",
        "s3://models/shared-not/rex/",
        "file:///etc/",
    ],
)
def test_photos_of_others_are_not_read(operator: Operator, bench: Bench, fenced: str, images: str) -> None:
    uri = images.replace("{namespace}", bench.namespace)
    bench.create(own(bench, fenced, subject={"className": "dog", "images": uri}))
    is_refused(bench, "LocationNotAllowed", "spec.subject.images", f"s3://photos/{bench.namespace}/")


@pytest.mark.parametrize("path", ["s3://photos/{namespace}/../team-b/rex/", "s3://photos/{namespace}//rex/"])
def test_no_spelling_gets_around_a_prefix(operator: Operator, bench: Bench, fenced: str, path: str) -> None:
    uri = path.replace("{namespace}", bench.namespace)
    bench.create(own(bench, fenced, subject={"className": "dog", "images": uri}))
    status = bench.wait_for_phase("Pending")
    accepted = condition({"status": status}, "Accepted")
    assert accepted and accepted["status"] == "False" and "spec.subject.images" in accepted["message"]
    assert not bench.children()


def test_results_of_others_are_not_written(operator: Operator, bench: Bench, fenced: str) -> None:
    bench.create(own(bench, fenced, output={"uri": "s3://models/team-b/rex/"}))
    is_refused(bench, "LocationNotAllowed", "spec.output.uri", f"s3://models/{bench.namespace}/")


def test_a_namespace_has_a_default_of_its_own(operator: Operator, bench: Bench) -> None:
    """Also where the runtime comes after the job, and only for jobs that name none, or `default`."""
    model = {"name": "of-the-team"}  # which only that runtime has
    bench.create(without_runtime(job("early", model=model)))
    accepted = condition({"status": bench.wait_for_phase("Pending", "early")}, "Accepted")
    assert accepted and accepted["status"] == "False" and "spec.model.name" in accepted["message"]
    models = [{**model, "uri": "s3://models/of-the-team/"}]
    bench.create_runtime(runtime("team", models=models, defaultForNamespaces=[bench.namespace]))
    try:
        bench.create(without_runtime(job("late", model=model)))
        bench.create(job("default", runtime="default", model=model))
        for name in ("early", "late", "default"):
            status = bench.wait_for_phase("Starting", name)
            assert status["runtimeSnapshot"]["name"] == "team"
    finally:
        bench.rest.delete(f"{RUNTIMES}/team")


def without_runtime(manifest: Manifest) -> Manifest:
    return {**manifest, "spec": {name: value for name, value in manifest["spec"].items() if name != "runtimeRef"}}


def test_a_runtime_of_others_is_not_used(operator: Operator, bench: Bench) -> None:
    bench.create_runtime(runtime("theirs", allowedNamespaces=["team-b"]))
    bench.create(job(runtime="theirs"))
    is_refused(bench, "NamespaceNotAllowed", "spec.runtimeRef.name", bench.namespace)
    bench.rest.merge(f"{RUNTIMES}/theirs", {"spec": {"allowedNamespaces": ["team-b", bench.namespace]}})
    bench.wait_for_pods()
