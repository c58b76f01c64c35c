"""The generated schema refuses what the models refuse, at the same field: a small reader of structural schemas.

It knows the keywords that the converter writes and reads them as the API server does; the CEL is in `test_rules`.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator
from typing import Any

import pytest
from api.bad_specs import BAD_JOBS, BAD_RUNTIMES, GOOD_JOB, GOOD_RUNTIME, BadSpec, job

from kubooth_operator.api.job import PersonalizationJob
from kubooth_operator.api.runtime import PersonalizationRuntime
from kubooth_operator.schema import structural_schema

Schema = dict[str, Any]
SCHEMAS = {kind.__name__: structural_schema(kind) for kind in (PersonalizationJob, PersonalizationRuntime)}
CASES = [case for case in BAD_JOBS + BAD_RUNTIMES if case.by in {"schema", "strict"}]
TYPES = {"object": dict, "array": list, "string": str, "boolean": bool, "integer": int, "number": (int, float)}


def refusals(schema: Schema, value: Any, path: str = "") -> Iterator[str]:
    """Paths of what the schema, with strict field validation, refuses."""
    type_ = schema.get("type")
    if type_ is None:
        fits = isinstance(value, int | str) and not isinstance(value, bool)
    else:
        fits = isinstance(value, TYPES[type_]) and (type_ == "boolean" or not isinstance(value, bool))
    if not fits or not _within(schema, value):
        yield path
        return
    if isinstance(value, dict):
        properties = schema.get("properties")
        yield from (f"{path}.{name}" for name in schema.get("required", ()) if name not in value)
        for name, inner in value.items():
            if properties is not None and name in properties:
                yield from refusals(properties[name], inner, f"{path}.{name}")
            elif "additionalProperties" in schema:
                yield from refusals(schema["additionalProperties"], inner, f"{path}.{name}")
            elif properties is not None:
                yield f"{path}.{name}"
    if isinstance(value, list):
        for index, item in enumerate(value):
            yield from refusals(schema["items"], item, f"{path}[{index}]")


def _within(schema: Schema, value: Any) -> bool:
    checks = [value in schema.get("enum", [value])]
    if isinstance(value, int | float) and not isinstance(value, bool):
        low, high = schema.get("minimum", value), schema.get("maximum", value)
        checks += [value >= low, value <= high, value % schema.get("multipleOf", 1) == 0 or "multipleOf" not in schema]
        checks += [not (schema.get("exclusiveMinimum") and value == low)]
        checks += [not (schema.get("exclusiveMaximum") and value == high)]
    if isinstance(value, str):
        checks += [schema.get("minLength", 0) <= len(value) <= schema.get("maxLength", len(value))]
        checks += [re.search(schema.get("pattern", ""), value) is not None]
    if isinstance(value, list):
        checks += [schema.get("minItems", 0) <= len(value) <= schema.get("maxItems", len(value))]
    return all(checks)


@pytest.mark.parametrize("manifest", [GOOD_JOB, GOOD_RUNTIME], ids=["job", "runtime"])
def test_the_schema_passes_what_is_good(manifest: Schema) -> None:
    assert list(refusals(_served(SCHEMAS[manifest["kind"]]), manifest)) == []


@pytest.mark.parametrize("case", CASES, ids=[case.id for case in CASES])
def test_the_schema_refuses_at_the_same_field(case: BadSpec) -> None:
    assert list(refusals(_served(SCHEMAS[case.kind]), case.manifest())) == [f".{case.path}"]


EXTREMES = [
    ("zero-stage", job(parallelism__zeroStage=3)),
    ("zero-stage-auto", job(parallelism__zeroStage="Auto")),
    ("accumulation", job(training__batchSize=8, training__gradientAccumulation=4)),
    ("accumulation-auto", job(training__gradientAccumulation="Auto")),
    ("whole-number-for-number", job(prior__weight=1)),
    ("empty-identifier", job(subject__identifier="")),
    ("no-metrics", job(evaluation__metrics=[])),
]


@pytest.mark.parametrize("manifest", [case[1] for case in EXTREMES], ids=[case[0] for case in EXTREMES])
def test_schema_and_models_pass_the_same_values(manifest: Schema) -> None:
    import json

    PersonalizationJob.model_validate_json(json.dumps(manifest), by_alias=True, by_name=False)
    assert list(refusals(_served(SCHEMAS["PersonalizationJob"]), manifest)) == []


def _served(schema: Schema) -> Schema:
    """The schema with metadata left to Kubernetes."""
    served = copy.deepcopy(schema)
    served["properties"]["metadata"] = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
    return served
