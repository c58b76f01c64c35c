"""From the API's models to a structural OpenAPI schema as CustomResourceDefinitions want it.

Pydantic's JSON Schema is most of the way; this converts the rest: `$ref` inlined, `anyOf [T, null]` hoisted, `const`
to `enum`, exclusive bounds to booleans, maps to `additionalProperties`, free-form objects to
`x-kubernetes-preserve-unknown-fields`, and the models' rules to `x-kubernetes-validations`. Unit and built-in value
go into the descriptions. Called by `crd` and by `kubooth explain`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from kubooth_operator.api.fields import FACTS_KEY, Facts, Part
from kubooth_operator.api.problems import sub_parts
from kubooth_operator.api.rules import Rule

Schema = dict[str, Any]

_ORDER = (
    "description",
    "type",
    "format",
    "enum",
    "default",
    "pattern",
    "minLength",
    "maxLength",
    "minimum",
    "exclusiveMinimum",
    "maximum",
    "exclusiveMaximum",
    "multipleOf",
    "minItems",
    "maxItems",
    "maxProperties",
    "items",
    "x-kubernetes-list-type",
    "x-kubernetes-list-map-keys",
    "x-kubernetes-int-or-string",
    "x-kubernetes-preserve-unknown-fields",
    "required",
    "properties",
    "additionalProperties",
    "x-kubernetes-validations",
)
_KEPT = frozenset(_ORDER) - {"properties", "items", "additionalProperties", "description", "default", "enum"}


def structural_schema(kind: type[Part]) -> Schema:
    """The schema of a kind (PersonalizationJob, PersonalizationRuntime), in the order of its fields."""
    raw = kind.model_json_schema(by_alias=True)
    models = {model.__name__: model for model in _models(kind)}
    root = _Converter(raw.get("$defs", {}), models).convert({"$ref": f"#/$defs/{kind.__name__}", **raw}, kind)
    # The API server knows these itself, and lets only rules at the root look into metadata.
    metadata_rules = root["properties"]["metadata"].get("x-kubernetes-validations", [])
    # Nothing but the name may be said of metadata; without it no rule could name that field.
    named = {"properties": {"name": root["properties"]["metadata"]["properties"]["name"]}} if metadata_rules else {}
    known = {"apiVersion": {"type": "string"}, "kind": {"type": "string"}, "metadata": {"type": "object", **named}}
    root["properties"] |= known
    root["required"] = [name for name in root.get("required", []) if name not in known]
    rules = [{**rule, "fieldPath": f".metadata{rule['fieldPath']}"} for rule in metadata_rules]
    rules += root.get("x-kubernetes-validations", [])
    if rules:
        root["x-kubernetes-validations"] = rules
    return _in_order(root)


def describe(text: str, facts: Facts) -> str:
    """A description with the unit and the built-in value."""
    parts = [text.strip()]
    if facts.unit:
        parts.append(f"Unit: {facts.unit}.")
    builtin = facts.builtin_text()
    if builtin is not None:
        source = f" ({facts.source})" if facts.source else ""
        parts.append(f"{'If left out' if facts.absent else 'Built-in value'}: {builtin}{source}.")
    return " ".join(parts)


class _Converter:
    def __init__(self, definitions: dict[str, Schema], models: dict[str, type[Part]]) -> None:
        self.definitions, self.models = definitions, models

    def convert(self, raw: Schema, model: type[Part] | None = None) -> Schema:
        node, found = self._inlined(raw)
        model = model or found
        schema = {key: value for key, value in node.items() if key in _KEPT}
        facts = Facts(**node.get(FACTS_KEY, {}))
        if "description" in node:
            schema["description"] = describe(" ".join(node["description"].split()), facts)
        if node.get("default") is not None:
            schema["default"] = node["default"]
        if "const" in node or "enum" in node:
            schema["enum"] = node.get("enum", [node.get("const")])
            if len({type(value) for value in schema["enum"]}) > 1:
                schema["x-kubernetes-int-or-string"] = True
        for bound, exclusive in (("minimum", "exclusiveMinimum"), ("maximum", "exclusiveMaximum")):
            if exclusive in node:
                schema |= {bound: node[exclusive], exclusive: True}
        if "items" in node:
            schema["items"] = self.convert(node["items"])
        if "properties" in node:
            schema["properties"] = {name: self.convert(value) for name, value in node["properties"].items()}
        elif isinstance(node.get("additionalProperties"), dict):
            schema["additionalProperties"] = self.convert(node["additionalProperties"])
        elif schema.get("type") == "object":
            schema["x-kubernetes-preserve-unknown-fields"] = True
        if model is not None and model.rules:
            schema["x-kubernetes-validations"] = [_validation(rule) for rule in model.rules]
        return schema

    def _inlined(self, raw: Schema) -> tuple[Schema, type[Part] | None]:
        """The node with references and `or null` resolved; what stands beside a reference wins over its target."""
        node, model = dict(raw), None
        while "$ref" in node or "anyOf" in node:
            if "$ref" in node:
                name = node.pop("$ref").rsplit("/", 1)[-1]
                model = self.models.get(name)
                node = {**self.definitions.get(name, {}), **node}
            else:
                (inner,) = (each for each in node.pop("anyOf") if each != {"type": "null"})
                node = {**inner, **node}
        return node, model


def _validation(rule: Rule) -> Schema:
    validation: Schema = {"rule": rule.cel, "message": rule.message}
    if rule.field:
        validation["fieldPath"] = f".{rule.field}"
    if rule.transition:
        validation["reason"] = "FieldValueForbidden"
    return validation


def _models(part: type[Part]) -> Iterator[type[Part]]:
    yield part
    for _, inner in sub_parts(part):
        yield from _models(inner)


def _in_order(schema: Schema) -> Schema:
    """Keys in a fixed order, so that generated files are the same everywhere."""
    ordered = {key: schema[key] for key in _ORDER if key in schema}
    for key in ("items", "additionalProperties"):
        if key in ordered:
            ordered[key] = _in_order(ordered[key])
    if "properties" in ordered:
        ordered["properties"] = {name: _in_order(value) for name, value in ordered["properties"].items()}
    return ordered
