"""What is known of every field, for `kubooth explain` and for an API reference: taken from the models alone."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

from kubooth_operator.api.fields import Facts, Part, facts_of, plain
from kubooth_operator.api.problems import closest, field_names, sub_parts
from kubooth_operator.schema import structural_schema


class UnknownFieldError(LookupError):
    """No such field; the message is a sentence that names the likely one."""


@dataclass(frozen=True, kw_only=True)
class FieldDoc:
    """One field. `path` is as in `spec.training.steps`."""

    path: str
    type: str
    required: bool
    description: str
    facts: Facts
    default: str | None  # of the schema
    choices: tuple[str, ...]
    bounds: str | None
    rules: tuple[str, ...]
    children: tuple[FieldDoc, ...]

    @property
    def name(self) -> str:
        return self.path.rsplit(".", 1)[-1]

    def every(self) -> Iterator[FieldDoc]:
        """This field and all below it."""
        yield self
        for child in self.children:
            yield from child.every()


@cache
def document(kind: type[Part]) -> FieldDoc:
    """The whole of a kind; its children are `spec` and, for a job, `status`."""
    schema = structural_schema(kind)
    children = tuple(
        _field(name, name, schema["properties"][name], kind, required=name == "spec")
        for name in field_names(kind)
        if name not in {"apiVersion", "kind", "metadata"}
    )
    return FieldDoc(
        path="",
        type="object",
        required=True,
        description=schema["description"],
        facts=Facts(),
        default=None,
        choices=(),
        bounds=None,
        rules=_rules(schema),
        children=children,
    )


def find(root: FieldDoc, path: str) -> FieldDoc:
    """The field at a path below the root or below `spec`; "" is the spec. Raises UnknownFieldError."""
    names = [name for name in path.replace("[]", "").split(".") if name]
    tops = {child.name: child for child in root.children}
    here = tops["spec"]
    if names and names[0] in tops:
        here = tops[names.pop(0)]
    for name in names:
        below = {child.name: child for child in here.children}
        if name not in below:
            raise UnknownFieldError(_suggestion(root, here, name))
        here = below[name]
    return here


def _suggestion(root: FieldDoc, here: FieldDoc, name: str) -> str:
    below = [child.name for child in here.children]
    wanted = f"{here.path} has no field {name}"
    close = closest(name, below)
    if close:
        return f"{wanted}; did you mean {here.path}.{close}?"
    elsewhere = [each.path for each in root.every() if each.name.lower() == name.lower()]
    if elsewhere:
        return f"{wanted}; did you mean {min(elsewhere, key=lambda path: path.count('.'))}?"
    return f"{wanted}; it has: {', '.join(below)}" if below else f"{wanted}: it is a plain value"


def _field(path: str, name: str, schema: dict[str, Any], part: type[Part], *, required: bool) -> FieldDoc:
    attribute = next(key for key, field in part.model_fields.items() if (field.alias or key) == name)
    info = part.model_fields[attribute]
    inner = dict(sub_parts(part)).get(name)
    properties = _properties(schema)
    children = tuple(
        _field(f"{path}.{child}", child, node, inner, required=child in _innermost(schema).get("required", ()))
        for child, node in properties.items()
        if inner is not None
    )
    return FieldDoc(
        path=path,
        type=_type(schema),
        required=required,
        description=info.description or schema.get("description", ""),
        facts=facts_of(info),
        default=plain(schema["default"]) if "default" in schema and not properties else None,
        choices=tuple(str(choice) for choice in _innermost(schema).get("enum", ())),
        bounds=_bounds(schema),
        rules=_rules(_innermost(schema)),
        children=children,
    )


def _innermost(schema: dict[str, Any]) -> dict[str, Any]:
    return schema.get("items", schema)  # type: ignore[no-any-return]


def _properties(schema: dict[str, Any]) -> dict[str, Any]:
    return _innermost(schema).get("properties", {})  # type: ignore[no-any-return]


def _type(schema: dict[str, Any]) -> str:
    if "x-kubernetes-int-or-string" in schema:
        return "integer or string"
    if "items" in schema:
        return f"list of {_type(schema['items'])}"
    if "additionalProperties" in schema:
        return f"map of {_type(schema['additionalProperties'])}"
    return str(schema.get("format") or schema.get("type"))


def _bounds(schema: dict[str, Any]) -> str | None:
    words = []
    if "minimum" in schema:
        words.append(f"{'more than' if schema.get('exclusiveMinimum') else 'at least'} {plain(schema['minimum'])}")
    if "maximum" in schema:
        words.append(f"{'less than' if schema.get('exclusiveMaximum') else 'at most'} {plain(schema['maximum'])}")
    if "multipleOf" in schema:
        words.append(f"a multiple of {schema['multipleOf']}")
    if "maxLength" in schema:
        words.append(f"at most {schema['maxLength']} characters")
    if "maxItems" in schema:
        words.append(f"at most {schema['maxItems']} entries")
    return ", ".join(words) or None


def _rules(schema: dict[str, Any]) -> tuple[str, ...]:
    found = [
        f"{rule['fieldPath'].lstrip('.')}: {rule['message']}" if "fieldPath" in rule else rule["message"]
        for rule in schema.get("x-kubernetes-validations", ())
    ]
    return tuple(found)
