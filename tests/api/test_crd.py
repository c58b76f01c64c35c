"""The generated CustomResourceDefinitions: structural, bounded, complete, and equal to the committed files."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import pytest
import yaml

from kubooth_operator import crd
from kubooth_operator.api import status
from kubooth_operator.api.job import CHANGEABLE, PersonalizationJob
from kubooth_operator.api.problems import sub_parts
from kubooth_operator.api.runtime import JobDefaults
from kubooth_trainer import progress

ROOT = Path(__file__).parents[2]
Schema = dict[str, Any]
DEFINITIONS = {
    definition["metadata"]["name"]: definition for definition in (crd.job_definition(), crd.runtime_definition())
}
ALLOWED = {
    "description", "type", "format", "enum", "default", "pattern", "minLength", "maxLength", "minimum", "maximum",
    "exclusiveMinimum", "exclusiveMaximum", "multipleOf", "minItems", "maxItems", "maxProperties", "items", "required",
    "properties", "additionalProperties", "x-kubernetes-list-type", "x-kubernetes-list-map-keys",
    "x-kubernetes-int-or-string", "x-kubernetes-preserve-unknown-fields", "x-kubernetes-validations",
}  # fmt: skip


@pytest.fixture(params=DEFINITIONS, ids=lambda name: name.split(".")[0])
def schema(request: pytest.FixtureRequest) -> Schema:
    return DEFINITIONS[request.param]["spec"]["versions"][0]["schema"]["openAPIV3Schema"]  # type: ignore[no-any-return]


def nodes(schema: Schema, path: str = "") -> Iterator[tuple[str, Schema]]:
    yield path, schema
    for name, inner in schema.get("properties", {}).items():
        yield from nodes(inner, f"{path}.{name}")
    for key in ("items", "additionalProperties"):
        if key in schema:
            yield from nodes(schema[key], f"{path}[{key}]")


def test_committed_files_are_what_the_models_say(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    assert crd.main(["--check"]) == 0


def test_check_finds_drift_and_writing_mends_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert crd.main(["--folder", str(tmp_path), "--check"]) == 1
    assert "personalizationjobs.yaml" in capsys.readouterr().err
    assert crd.main(["--folder", str(tmp_path)]) == 0
    assert crd.main(["--folder", str(tmp_path), "--check"]) == 0
    edited = tmp_path / "kubooth.io_personalizationjobs.yaml"
    edited.write_text(edited.read_text().replace("pjob", "pj"))
    assert crd.main(["--folder", str(tmp_path), "--check"]) == 1


def test_the_files_read_back_as_the_definitions() -> None:
    assert {
        yaml.safe_load(text)["metadata"]["name"]: yaml.safe_load(text) for text in crd.files().values()
    } == DEFINITIONS


def test_only_keys_of_structural_schemas_are_used(schema: Schema) -> None:
    for path, node in nodes(schema):
        assert set(node) <= ALLOWED, path


def test_every_node_has_a_type(schema: Schema) -> None:
    for path, node in nodes(schema):
        assert ("type" in node) != ("x-kubernetes-int-or-string" in node), path
        assert node.get("type") in {"object", "array", "string", "integer", "number", "boolean", None}, path


def test_an_object_has_fields_or_a_value_type_or_is_open(schema: Schema) -> None:
    for path, node in nodes(schema):
        if node.get("type") == "object" and path != ".metadata":
            shapes = {"properties", "additionalProperties", "x-kubernetes-preserve-unknown-fields"}
            assert len(shapes & set(node)) == 1, path
            assert node.get("x-kubernetes-preserve-unknown-fields", True) is True


def test_required_fields_exist_and_have_no_default(schema: Schema) -> None:
    for path, node in nodes(schema):
        for name in node.get("required", ()):
            assert "default" not in node["properties"][name], f"{path}.{name}"


def test_everything_is_bounded_for_the_cost_estimate_of_cel(schema: Schema) -> None:
    for path, node in nodes(schema):
        if node.get("type") == "string" and path not in {".apiVersion", ".kind"}:
            assert {"maxLength", "enum", "format"} & set(node), path
        if node.get("type") == "array":
            assert "maxItems" in node, path
        if "additionalProperties" in node:
            assert "maxProperties" in node, path


def test_exclusive_bounds_are_booleans_beside_a_bound(schema: Schema) -> None:
    for path, node in nodes(schema):
        for exclusive, bound in (("exclusiveMinimum", "minimum"), ("exclusiveMaximum", "maximum")):
            assert (exclusive not in node) or (node[exclusive] is True and bound in node), path


def test_list_maps_have_required_keys(schema: Schema) -> None:
    for path, node in nodes(schema):
        if node.get("x-kubernetes-list-type") == "map":
            assert set(node["x-kubernetes-list-map-keys"]) <= set(node["items"]["required"]), path


def test_paths_of_validations_exist(schema: Schema) -> None:
    for path, node in nodes(schema):
        for validation in node.get("x-kubernetes-validations", ()):
            here = node
            for name in validation.get("fieldPath", "").split(".")[1:]:
                here = here["properties"][name]
            assert set(validation) <= {"rule", "message", "fieldPath", "reason"}, path


def test_every_field_is_described(schema: Schema) -> None:
    for path, node in nodes(schema):
        if path.count(".") and not path.endswith("]") and path not in {".apiVersion", ".kind", ".metadata"}:
            assert node.get("description", "").endswith("."), path


def test_field_names_avoid_the_words_that_yaml_reads_as_booleans(schema: Schema) -> None:
    for path, _ in nodes(schema):
        assert path.rsplit(".", 1)[-1] not in {"n", "y", "on", "off", "yes", "no"}, path


def test_what_a_runtime_may_default_has_no_default_in_the_schema() -> None:
    spec = DEFINITIONS["personalizationjobs.kubooth.io"]["spec"]["versions"][0]["schema"]["openAPIV3Schema"][
        "properties"
    ]["spec"]
    for group, part in sub_parts(JobDefaults):
        defaultable = {field.alias for field in part.model_fields.values()}
        for path, node in nodes({**spec["properties"][group], "required": []}):
            if not path or path.split(".")[1] in defaultable:
                assert "default" not in node, f"{group}{path}"


def test_names_scope_and_columns() -> None:
    spec = DEFINITIONS["personalizationjobs.kubooth.io"]["spec"]
    assert (spec["scope"], spec["names"]["shortNames"]) == ("Namespaced", ["pjob"])
    assert spec["versions"][0]["subresources"] == {"status": {}}
    columns = spec["versions"][0]["additionalPrinterColumns"]
    always = [column["name"].upper() for column in columns if not column.get("priority")]
    assert always == ["PHASE", "METHOD", "STEP", "PROGRESS", "ETA", "AGE"]
    assert [column["name"].upper() for column in columns if column.get("priority")] == ["LOSS", "OUTPUT", "REASON"]
    runtime = DEFINITIONS["personalizationruntimes.kubooth.io"]["spec"]
    assert (runtime["scope"], runtime["names"]["shortNames"]) == ("Cluster", ["prt"])


def test_columns_point_at_fields() -> None:
    for definition in DEFINITIONS.values():
        version = definition["spec"]["versions"][0]
        for column in version["additionalPrinterColumns"]:
            if column["jsonPath"] != ".metadata.creationTimestamp":
                here = version["schema"]["openAPIV3Schema"]
                for name in column["jsonPath"].split(".")[1:]:
                    here = here["properties"][name]
                assert here["type"] == column["type"], column["name"]


def test_stage_states_are_those_of_the_trainer() -> None:
    assert get_args(status.StageState) == get_args(progress.StageState)


def test_changeable_fields_exist() -> None:
    assert set(PersonalizationJob.model_fields["spec"].annotation.model_fields) >= CHANGEABLE  # type: ignore[union-attr]
