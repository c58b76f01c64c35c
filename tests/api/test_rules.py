"""Rules: the Python predicate and the CEL text give the same verdict on the same objects.

The CEL runs in Google's own implementation (PyPI package cel-expr-python, for tests only); the API server's cost
limits are not part of it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from api.bad_specs import BAD_JOBS, BAD_RUNTIMES, GONE, GOOD_JOB, GOOD_RUNTIME, BadSpec, changed, job, runtime

from kubooth_operator.api.fields import Part
from kubooth_operator.api.job import PersonalizationJob
from kubooth_operator.api.problems import sub_parts
from kubooth_operator.api.rules import Rule
from kubooth_operator.api.runtime import PersonalizationRuntime
from kubooth_operator.api.update import check_update
from kubooth_operator.schema import structural_schema

KINDS: dict[str, type[Part]] = {
    "PersonalizationJob": PersonalizationJob,
    "PersonalizationRuntime": PersonalizationRuntime,
}
SCHEMAS = {name: structural_schema(kind) for name, kind in KINDS.items()}
CASES = [case for case in BAD_JOBS + BAD_RUNTIMES if case.by == "rule"]


def all_rules(kind: type[Part]) -> Iterator[Rule]:
    yield from kind.rules
    for _, part in sub_parts(kind):
        yield from all_rules(part)


class Cel:
    """Evaluates the validations of a generated schema on an object, as the API server walks it."""

    def __init__(self) -> None:
        cel = pytest.importorskip("cel_expr_python.cel")
        dyn = cel.Type.DYN
        self.environment = cel.NewEnv(variables={"self": dyn, "oldSelf": dyn})

    def broken(self, schema: dict[str, Any], value: Any, old: Any = None, path: str = "") -> list[tuple[str, str]]:
        found = []
        for validation in schema.get("x-kubernetes-validations", ()):
            transition = "oldSelf" in validation["rule"]
            if transition and old is None:
                continue
            data = {"self": value, "oldSelf": old} if transition else {"self": value}
            if not self.environment.compile(validation["rule"]).eval(data=data).value():
                found.append((path + validation.get("fieldPath", ""), validation["message"]))
        for name, inner in schema.get("properties", {}).items():
            if isinstance(value, dict) and name in value:
                found += self.broken(inner, value[name], None, f"{path}.{name}")
        for index, item in enumerate(value if isinstance(value, list) else ()):
            found += self.broken(schema.get("items", {}), item, None, f"{path}[{index}]")
        return found


@pytest.fixture(scope="module")
def cel() -> Cel:
    return Cel()


@pytest.mark.parametrize("case", CASES, ids=[case.id for case in CASES])
def test_the_cel_refuses_what_the_predicate_refuses_in_the_same_words(case: BadSpec, cel: Cel) -> None:
    found = cel.broken(SCHEMAS[case.kind], case.manifest())
    assert found == [(f".{case.path}", case.message)]


GOOD = [
    ("job", GOOD_JOB),
    ("runtime", GOOD_RUNTIME),
    ("catalogue-model", changed(GOOD_JOB, {"spec.model.uri": GONE, "spec.model.name": "sd15"})),
    ("accumulation-auto", job(training__batchSize=3, training__gradientAccumulation="Auto")),
    ("divisible", job(training__batchSize=8, training__gradientAccumulation=4)),
    ("batch-alone", job(training__batchSize=3)),
    ("warm-up-equals-steps", job(training__steps=50, training__warmupSteps=50)),
    ("ema", job(training__ema={"enabled": True, "decay": 0.99})),
    ("prompts", job(evaluation__prompts=["a {class}", "{identifier}"])),
    ("files", job(subject__images="file:photos/")),
    ("longest-name", changed(GOOD_JOB, {"metadata.name": "r" * 45})),
    ("name-of-one-letter", changed(GOOD_JOB, {"metadata.name": "r"})),
    ("two-models", runtime(models=[{"name": "a", "uri": "s3://x/"}, {"name": "b", "uri": "s3://x/"}])),
    ("prefixes", runtime(limits={"readPrefixes": ["file:///a", "s3://b"], "writePrefixes": []})),
]


@pytest.mark.parametrize("manifest", [case[1] for case in GOOD], ids=[case[0] for case in GOOD])
def test_the_cel_passes_what_the_predicate_passes(manifest: dict[str, Any], cel: Cel) -> None:
    kind = KINDS[manifest["kind"]]
    kind.model_validate_json(json.dumps(manifest))
    assert cel.broken(SCHEMAS[manifest["kind"]], manifest) == []


def test_every_rule_is_broken_by_a_case_of_the_table() -> None:
    said = {case.message for case in CASES}
    rules = {rule for kind in KINDS.values() for rule in all_rules(kind) if not rule.transition}
    assert {rule.message for rule in rules} == said


def test_messages_are_single_lines_that_the_api_server_takes() -> None:
    for kind in KINDS.values():
        for rule in all_rules(kind):
            assert rule.message.strip() == rule.message
            assert "\n" not in rule.message + rule.cel
            assert len(rule.message) < 2048


# Updates


STARTED = {"phase": "Running", "attempts": 1}
UPDATES = [
    ("not-started", {}, {"training": {"steps": 5}}, []),
    ("pending", {"phase": "Pending", "attempts": 0}, {"training": {"steps": 5}}, []),
    ("steps", STARTED, {"training": {"steps": 5}}, ["spec.training"]),
    ("two-groups", STARTED, {"training": {"steps": 5}, "queueName": "q"}, ["spec.training", "spec.queueName"]),
    ("images", STARTED, {"subject": {"className": "dog", "images": "s3://photos/max/"}}, ["spec.subject"]),
    ("runtime", STARTED, {"runtimeRef": {"name": "other"}}, ["spec.runtimeRef"]),
    ("finished", {"phase": "Succeeded", "attempts": 2}, {"method": "LoRA"}, ["spec.method"]),
    ("suspend", STARTED, {"suspend": True}, []),
    ("run-policy", STARTED, {"runPolicy": {"maxRestarts": 5}}, []),
    ("priority", STARTED, {"priorityClassName": "urgent"}, []),
    ("nothing", STARTED, {}, []),
]


@pytest.mark.parametrize(
    ("status", "fields", "paths"), [case[1:] for case in UPDATES], ids=[case[0] for case in UPDATES]
)
def test_a_started_job_takes_some_changes_only(
    status: dict[str, Any], fields: dict[str, Any], paths: list[str], cel: Cel
) -> None:
    served = {"runtimeRef": {"name": "default"}, "method": "DreamBooth", "suspend": False}  # defaults of the schema
    old = {**GOOD_JOB, "spec": {**GOOD_JOB["spec"], **served}, **({"status": status} if status else {})}
    new = {**old, "spec": {**old["spec"], **fields}}
    models = [PersonalizationJob.model_validate_json(json.dumps(each)) for each in (old, new)]
    errors = check_update(*models)
    assert [error.path for error in errors] == paths
    found = cel.broken(SCHEMAS["PersonalizationJob"], new, old)
    assert found == [(f".{error.path}", error.message) for error in errors]
