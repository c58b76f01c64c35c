"""What people do at the API with kubectl: explain, dry run, diff, edits, columns."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from api.bad_specs import GOOD_JOB, GOOD_RUNTIME, changed
from bed.controlplane import ControlPlane
from bed.installation import CRDS, ROOT

JOB = json.dumps(GOOD_JOB)
EXAMPLES = sorted((ROOT / "examples").glob("*.yaml"))
TIME = "2026-11-22T12:00:00Z"
STATUS = {
    "phase": "Running",
    "reason": "Training",
    "attempts": 1,
    "progress": {"step": 640, "total": 800, "percent": 80.0, "loss": 0.125, "summary": "640/800 80%", "eta": "3m10s"},
    "output": {"uri": "s3://models/personalized/rex/"},
}


@pytest.fixture
def rex(api_server: ControlPlane, namespace: str) -> str:
    """The namespace that holds the job rex."""
    api_server.kubectl("create", "-n", namespace, "-f", "-", input=JOB)
    return namespace


def patch(plane: ControlPlane, namespace: str, change: Any, *args: str, check: bool = True) -> Any:
    """A patch of rex."""
    return plane.kubectl("patch", "pjob", "rex", "-n", namespace, *args, "-p", json.dumps(change), check=check)


def set_status(plane: ControlPlane, namespace: str, status: dict[str, Any]) -> None:
    patch(plane, namespace, {"status": status}, "--subresource=status", "--type=merge")


def read(plane: ControlPlane, namespace: str) -> Any:
    return plane.get("pjob", "rex", "-n", namespace)


# Examples


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_every_example_is_accepted(path: Path, api_server: ControlPlane, namespace: str) -> None:
    api_server.kubectl("create", "--dry-run=server", "-n", namespace, "-f", path)
    api_server.kubectl("apply", "--server-side", "--dry-run=server", "-n", namespace, "-f", path)


# kubectl explain


def schema_of(plural: str) -> dict[str, Any]:
    definition = yaml.safe_load((CRDS / f"kubooth.io_{plural}.yaml").read_text())
    return definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]


def fields(schema: dict[str, Any], depth: int = 0) -> Iterator[tuple[int, str, str]]:
    """Depth, name and description of every field, in the order of names, as kubectl explains them."""
    while "items" in schema:
        schema = schema["items"]
    for name, inner in sorted(schema.get("properties", {}).items()):
        yield depth, name, inner.get("description", "")
        yield from fields(inner, depth + 1)


@pytest.mark.parametrize(
    ("short", "plural", "part"),
    [
        ("pjob", "personalizationjobs", "spec"),
        ("pjob", "personalizationjobs", "status"),
        ("prt", "personalizationruntimes", "spec"),
    ],
)
def test_explain_documents_every_field(short: str, plural: str, part: str, api_server: ControlPlane) -> None:
    shown = explained_tree(api_server.kubectl("explain", f"{short}.{part}", "--recursive").stdout)
    expected = list(fields(schema_of(plural)[part]))
    assert shown == [(depth, name) for depth, name, _ in expected]
    assert [name for _, name, description in expected if not description] == []


def test_explain_says_what_a_field_means(api_server: ControlPlane) -> None:
    """Each group of the spec: name and words of each of its fields."""

    def check(path: str, schema: dict[str, Any]) -> None:
        while "items" in schema:
            schema = schema["items"]
        if "properties" not in schema:
            return
        words = one_line(api_server.kubectl("explain", path).stdout)
        for name, inner in schema["properties"].items():
            assert name in words and one_line(inner["description"]) in words, f"{path}.{name}"
        for name, inner in schema["properties"].items():
            check(f"{path}.{name}", inner)

    check("pjob.spec", schema_of("personalizationjobs")["spec"])


def explained_tree(text: str) -> list[tuple[int, str]]:
    """Depth and name of each line below FIELDS."""
    lines = text.partition("\nFIELDS:\n")[2].splitlines()
    named = [match for line in lines if (match := re.match(r"^( {2,})([A-Za-z0-9]+)\t<", line))]
    return [(len(match[1]) // 2 - 1, match[2]) for match in named]


def one_line(text: str) -> str:
    return " ".join(text.split())


# dry run, diff and edits


def test_a_dry_run_fills_in_and_changes_nothing(api_server: ControlPlane, namespace: str) -> None:
    args = ("apply", "--dry-run=server", "-o", "json", "-n", namespace, "-f", "-")
    shown = json.loads(api_server.kubectl(*args, input=JOB).stdout)
    assert shown["spec"]["runtimeRef"] == {"name": "default"} and shown["spec"]["method"] == "DreamBooth"
    assert "steps" not in shown["spec"].get("training", {})  # what a runtime may default is not filled in
    assert api_server.kubectl("get", "pjob", "-n", namespace).stdout == ""


def test_diff_shows_the_lines_that_change(api_server: ControlPlane, rex: str) -> None:
    api_server.kubectl("apply", "-n", rex, "-f", "-", input=JOB)
    assert api_server.kubectl("diff", "-n", rex, "-f", "-", input=JOB).stdout == ""
    edited = json.dumps(changed(GOOD_JOB, {"spec.training.steps": 50, "spec.subject.className": "cat"}))
    for args in ([], ["--server-side", "--force-conflicts"]):
        done = api_server.kubectl("diff", *args, "-n", rex, "-f", "-", input=edited, check=False)
        assert done.returncode == 1  # diff's own code for "they differ"
        lines = [line.strip() for line in done.stdout.splitlines() if re.match(r"^[+-] ", line)]
        assert "-    className: dog" in lines and "+    className: cat" in lines and "+    steps: 50" in lines


def test_apply_twice_changes_nothing(api_server: ControlPlane, namespace: str) -> None:
    apply = ("apply", "-n", namespace, "-f", "-")
    assert api_server.kubectl(*apply, input=JOB).stdout.endswith("created\n")
    before = read(api_server, namespace)["metadata"]["resourceVersion"]
    assert api_server.kubectl(*apply, input=JOB).stdout.endswith("unchanged\n")
    assert read(api_server, namespace)["metadata"]["resourceVersion"] == before


def test_apply_takes_out_what_was_taken_out(api_server: ControlPlane, namespace: str) -> None:
    longer = json.dumps(changed(GOOD_JOB, {"spec.training.steps": 50}))
    api_server.kubectl("apply", "-n", namespace, "-f", "-", input=longer)
    api_server.kubectl("apply", "-n", namespace, "-f", "-", input=JOB)
    assert "steps" not in read(api_server, namespace)["spec"].get("training", {})


def test_merge_and_json_patches_apply(api_server: ControlPlane, rex: str) -> None:
    patch(api_server, rex, {"spec": {"training": {"steps": 50}}}, "--type=merge")
    patch(api_server, rex, [{"op": "replace", "path": "/spec/training/steps", "value": 60}], "--type=json")
    assert read(api_server, rex)["spec"]["training"]["steps"] == 60
    bad = patch(api_server, rex, {"spec": {"training": {"steps": 0}}}, "--type=merge", check=False)
    assert bad.returncode == 1 and "spec.training.steps in body should be greater than or equal to 1" in bad.stderr
    assert read(api_server, rex)["spec"]["training"]["steps"] == 60


def test_a_strategic_patch_is_refused_clearly(api_server: ControlPlane, rex: str) -> None:
    before = read(api_server, rex)
    done = patch(api_server, rex, {"spec": {"suspend": True}}, "--type=strategic", check=False)
    assert done.returncode == 1
    assert "application/strategic-merge-patch+json" in done.stderr and "application/merge-patch+json" in done.stderr
    assert read(api_server, rex) == before


def test_an_edit_in_an_editor_applies(api_server: ControlPlane, rex: str) -> None:
    command = ("edit", "pjob", "rex", "-n", rex)
    done = api_server.kubectl(*command, env={"KUBE_EDITOR": "sed -i s/className:.dog/className:\\ cat/"})
    assert done.stdout == "personalizationjob.kubooth.io/rex edited\n"
    assert read(api_server, rex)["spec"]["subject"]["className"] == "cat"


# what a started job takes

SENTENCE = (
    "cannot be changed once the job has started (only suspend, runPolicy and priorityClassName can): make a new job"
)
FROZEN = [
    ("training", {"training": {"steps": 50}}),
    ("output", {"output": {"uri": "s3://models/other/"}}),
    ("subject", {"subject": {"images": "s3://photos/max/"}}),
    ("model", {"model": {"uri": "s3://models/other/"}}),
    ("runtimeRef", {"runtimeRef": {"name": "other"}}),
    ("method", {"method": "LoRA"}),
    ("prior", {"prior": {"images": 5}}),
    ("parallelism", {"parallelism": {"nodes": 2}}),
    ("checkpoints", {"checkpoints": {"keep": 5}}),
    ("evaluation", {"evaluation": {"imagesPerPrompt": 1}}),
    ("queueName", {"queueName": "urgent"}),
    ("tracking", {"tracking": {"name": "other"}}),
]


def test_a_started_job_takes_some_changes_only(api_server: ControlPlane, rex: str) -> None:
    patch(api_server, rex, {"spec": {"training": {"steps": 60}}}, "--type=merge")  # not yet started
    set_status(api_server, rex, STATUS)
    for name, change in FROZEN:
        done = patch(api_server, rex, {"spec": change}, "--type=merge", check=False)
        assert (done.returncode, f"spec.{name}: Forbidden: {SENTENCE}" in done.stderr) == (1, True), done.stderr
    allowed = {"suspend": True, "runPolicy": {"maxRestarts": 5}, "priorityClassName": "urgent"}
    patch(api_server, rex, {"spec": allowed}, "--type=merge")
    patch(api_server, rex, {"metadata": {"labels": {"team": "a"}}}, "--type=merge")
    api_server.kubectl("delete", "pjob", "rex", "-n", rex, "--timeout=30s")


def test_every_field_of_the_spec_is_frozen_or_changeable() -> None:
    changeable = {"suspend", "runPolicy", "priorityClassName"}
    assert {name for name, _ in FROZEN} == set(schema_of("personalizationjobs")["spec"]["properties"]) - changeable


# status


def test_status_is_a_subresource(api_server: ControlPlane, namespace: str) -> None:
    created = {**GOOD_JOB, "status": {"phase": "Succeeded", "attempts": 7}}
    api_server.kubectl("create", "-n", namespace, "-f", "-", input=json.dumps(created))
    assert "status" not in read(api_server, namespace)
    patch(api_server, namespace, {"status": {"phase": "Failed"}, "spec": {"suspend": True}}, "--type=merge")
    job = read(api_server, namespace)
    assert "status" not in job and job["spec"]["suspend"] is True
    generation = job["metadata"]["generation"]
    patch(api_server, namespace, {"status": STATUS, "spec": {"suspend": False}}, "--subresource=status", "--type=merge")
    job = read(api_server, namespace)
    assert job["status"]["phase"] == "Running" and job["spec"]["suspend"] is True
    assert job["metadata"]["generation"] == generation  # which counts changes of the spec only


@pytest.mark.parametrize(
    ("status", "path"),
    [
        ({"phase": "Done"}, "status.phase"),
        ({"attempts": -1}, "status.attempts"),
        ({"stages": [{"name": "Sleep", "state": "Running"}]}, "status.stages[0].name"),
        ({"progress": {"step": 1}}, "status.progress.total"),
        ({"failure": {"message": "no reason"}}, "status.failure.reason"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_bad_status_is_refused(status: dict[str, Any], path: str, api_server: ControlPlane, rex: str) -> None:
    done = patch(api_server, rex, {"status": status}, "--subresource=status", "--type=merge", check=False)
    assert (done.returncode, f"{path}: " in done.stderr) == (1, True), done.stderr


def test_writers_of_different_stages_are_merged_by_name(api_server: ControlPlane, rex: str) -> None:
    """`stages` and `conditions` are maps: server-side apply by one manager leaves the other's entries."""
    for manager, stage in (("one", "Download"), ("two", "Train")):
        status = {"stages": [{"name": stage, "state": "Running", "start": TIME}]}
        manifest = {**{key: GOOD_JOB[key] for key in ("apiVersion", "kind", "metadata")}, "status": status}
        args = ("apply", "--server-side", "--subresource=status", f"--field-manager={manager}", "-n", rex, "-f", "-")
        api_server.kubectl(*args, input=json.dumps(manifest))
    assert {stage["name"] for stage in read(api_server, rex)["status"]["stages"]} == {"Download", "Train"}


# columns


def test_columns_of_a_job(api_server: ControlPlane, rex: str) -> None:
    set_status(api_server, rex, STATUS)
    header, row = table(api_server.kubectl("get", "pjob", "-n", rex).stdout)
    assert header == ["NAME", "PHASE", "METHOD", "STEP", "PROGRESS", "ETA", "AGE"]
    assert row[:-1] == ["rex", "Running", "DreamBooth", "640", "640/800 80%", "3m10s"]
    header, row = table(api_server.kubectl("get", "pjob", "-n", rex, "-o", "wide").stdout)
    assert header[-4:] == ["AGE", "LOSS", "OUTPUT", "REASON"]
    assert row[-3:] == ["0.125", "s3://models/personalized/rex/", "Training"]
    assert "rex" in api_server.kubectl("get", "all", "-n", rex).stdout


def test_columns_of_a_runtime(api_server: ControlPlane) -> None:
    runtime = changed(GOOD_RUNTIME, {"metadata.name": "columns"})
    api_server.apply(runtime)
    header, row = table(api_server.kubectl("get", "prt", "columns", "-o", "wide").stdout)
    api_server.kubectl("delete", "prt", "columns")
    assert header == ["NAME", "ACCELERATOR", "PER NODE", "MAX DEVICES", "AGE", "IMAGE"]
    assert row[:3] == ["columns", "nvidia.com/gpu", "8"]


def table(text: str) -> list[list[str]]:
    return [re.split(r"\s{2,}", line.strip()) for line in text.splitlines()]
