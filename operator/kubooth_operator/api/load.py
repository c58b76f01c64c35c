"""Reads a manifest: YAML as kubectl reads it, checked as the API server would, with everything that is wrong at once.

Called by `kubooth run` and `kubooth validate`.
"""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import ValidationError

from kubooth_operator.api.fields import Part
from kubooth_operator.api.job import API_VERSION, PersonalizationJob
from kubooth_operator.api.problems import FieldError, SpecError, field_errors, path_of, quoted, whole_file
from kubooth_operator.api.runtime import PersonalizationRuntime

__all__ = ["FieldError", "SpecError", "load_any", "load_job", "load_runtime", "override", "parse", "read_manifest"]

Kind = TypeVar("Kind", bound=Part)
MAX_BYTES = 3 * 1024 * 1024  # what the API server takes at most


def load_job(path: Path | str, *, overrides: Sequence[str] = ()) -> PersonalizationJob:
    """The job in a file. `overrides` are like `training.steps=50`: below `spec`, values typed as in YAML.

    Raises SpecError with all that is wrong.
    """
    return parse(override(read_manifest(path), overrides), PersonalizationJob)


def load_runtime(path: Path | str) -> PersonalizationRuntime:
    """The runtime in a file. Raises SpecError with all that is wrong."""
    return parse(read_manifest(path), PersonalizationRuntime)


def load_any(path: Path | str, *, overrides: Sequence[str] = ()) -> PersonalizationJob | PersonalizationRuntime:
    """The job or runtime in a file; `overrides` apply to a job. Raises SpecError with all that is wrong."""
    raw = read_manifest(path)
    if raw.get("kind") == "PersonalizationRuntime":
        return parse(raw, PersonalizationRuntime)
    return parse(override(raw, overrides), PersonalizationJob)


def parse(raw: dict[str, Any], kind: type[Kind], *, known_only: bool = False) -> Kind:
    """Validates a manifest that was read. Raises SpecError with all that is wrong.

    `known_only` leaves out fields that do not exist, as of a manifest that another version has accepted.
    """
    misplaced = list(_other_kind(raw, kind.__name__))
    if misplaced:
        raise SpecError(misplaced)
    empty = list(_empty_fields(raw))
    document = json.dumps(_without_nulls(raw))
    try:
        job_or_runtime = kind.model_validate_json(document, by_alias=True, by_name=False)
    except ValidationError as error:
        unknown = [each["loc"] for each in error.errors() if each["type"] == "extra_forbidden"]
        if known_only and unknown:
            return parse(_without(raw, unknown), kind)
        paths = {each.path for each in empty}
        raise SpecError([*empty, *(e for e in field_errors(error, kind) if e.path not in paths)]) from None
    if empty:
        raise SpecError(empty)
    return job_or_runtime


def parse_readable(raw: dict[str, Any], kind: type[Kind]) -> Kind:
    """What can be read of a manifest that another version has accepted: without fields, and without values, that this
    one does not know. To follow what runs, never to start anything. Raises SpecError where too little is left."""
    try:
        return kind.model_validate_json(json.dumps(_without_nulls(raw)), by_alias=True, by_name=False)
    except ValidationError as error:
        wrong = {_place(raw, each["loc"]) for each in error.errors() if each["type"] != "missing"} - {()}
    return parse_readable(_without(raw, sorted(wrong, reverse=True)), kind) if wrong else parse(raw, kind)


def read_manifest(path: Path | str) -> dict[str, Any]:
    """The one YAML document of a file, as plain values. Raises SpecError."""
    try:
        content = Path(path).read_bytes()
    except OSError as error:
        raise whole_file(f"cannot be read: {error.strerror}") from None
    if len(content) > MAX_BYTES:
        raise whole_file(f"is larger than {MAX_BYTES} bytes: a manifest is a short text")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise whole_file(f"is not text in UTF-8 (byte {error.start})") from None
    return _one_document(text)


def override(raw: dict[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """`raw` with `training.steps=50` and the like set below `spec`. Raises SpecError for one that cannot be set."""
    result = copy.deepcopy(raw)
    errors: list[FieldError] = []
    for assignment in overrides:
        key, equals, text = assignment.partition("=")
        names = key.removeprefix("spec.").split(".")
        if not equals or not all(names):
            errors.append(FieldError(path="--set", message=f"must be like training.steps=50, got {quoted(assignment)}"))
            continue
        try:
            value = _plain(yaml.load(text, _Loader))
        except (yaml.YAMLError, SpecError):
            errors.append(FieldError(path=path_of(names, "spec"), message=f"--set: {quoted(text)} is not a YAML value"))
            continue
        place = result.setdefault("spec", {})
        for name in names[:-1]:
            if isinstance(place, dict):
                place = place.setdefault(name, {}) if place.get(name) is not None else _fresh(place, name)
        if not isinstance(place, dict):
            errors.append(FieldError(path=path_of(names, "spec"), message="--set: there is no field below this one"))
            continue
        place[names[-1]] = value
    if errors:
        raise SpecError(errors)
    return result


class _Loader(yaml.SafeLoader):
    """YAML as kubectl reads it: 5e-6 is a number, dates and 1:30 are text; a field given twice is refused."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: dict[str, int] = {}
        for key_node, _ in node.value:
            if isinstance(key_node, yaml.ScalarNode) and key_node.tag != "tag:yaml.org,2002:merge":
                line = key_node.start_mark.line + 1
                if key_node.value in seen:
                    raise whole_file(
                        f"line {line}: {key_node.value} is given twice (first in line {seen[key_node.value]})"
                    )
                seen[key_node.value] = line
        return super().construct_mapping(node, deep)


_REPLACED_TAGS = frozenset(f"tag:yaml.org,2002:{name}" for name in ("int", "float", "timestamp"))
_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag not in _REPLACED_TAGS]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:int",
    re.compile(r"^[-+]?(0|[1-9][0-9_]*|0o?[0-7]+|0x[0-9a-fA-F]+|0b[01]+)$"),
    list("-+0123456789"),
)
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(
        r"^([-+]?(\.[0-9]+|[0-9]+\.[0-9]*|[0-9]+(?=[eE]))([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN))$"
    ),
    list("-+0123456789."),
)


def _one_document(text: str) -> dict[str, Any]:
    try:
        documents = [each for each in yaml.load_all(text, _Loader) if each is not None]
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = f"line {mark.line + 1}: " if mark else ""
        raise whole_file(f"{line}is not valid YAML: {error.problem or error.context}") from None
    except yaml.YAMLError as error:
        raise whole_file(f"is not valid YAML: {' '.join(str(error).split())}") from None
    except (RecursionError, ValueError) as error:
        why = "it is nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise whole_file(f"is not valid YAML: {why}") from None
    if not documents:
        raise whole_file("is empty")
    if len(documents) > 1:
        raise whole_file(f"holds {len(documents)} documents: put each job or runtime into a file of its own")
    if not isinstance(documents[0], dict):
        raise whole_file(f"must be a group of fields (apiVersion, kind, ...), got {quoted(documents[0])}")
    plain_values = _plain(documents[0])
    assert isinstance(plain_values, dict)
    return plain_values


def _plain(value: Any, loc: tuple[int | str, ...] = ()) -> Any:
    """YAML's values as JSON could hold them; keys must be text."""
    match value:
        case dict():
            for key in value:
                if not isinstance(key, str):
                    raise SpecError(
                        [FieldError(path=path_of(loc), message=f"a field's name must be text, got {quoted(key)}")]
                    )
            return {key: _plain(inner, (*loc, key)) for key, inner in value.items()}
        case list():
            return [_plain(inner, (*loc, index)) for index, inner in enumerate(value)]
        case None | bool() | int() | float() | str():
            return value
        case _:
            message = f"a value of this kind cannot be used ({type(value).__name__}): put it in quotes"
            raise SpecError([FieldError(path=path_of(loc), message=message)])


def _other_kind(raw: dict[str, Any], expected: str) -> Iterator[FieldError]:
    version, kind = raw.get("apiVersion"), raw.get("kind")
    if version != API_VERSION:
        yield FieldError(path="apiVersion", message=f"must be {API_VERSION}, got {quoted(version)}")
    if kind != expected:
        yield FieldError(path="kind", message=f"must be {expected}, got {quoted(kind)}")


def _empty_fields(value: Any, loc: tuple[int | str, ...] = ()) -> Iterator[FieldError]:
    if value is None and loc:
        yield FieldError(path=path_of(loc), message="is empty: give it a value or take the line out")
    elif isinstance(value, dict):
        for key, inner in value.items():
            if (*loc, key) not in {("status",), ("metadata", "creationTimestamp")}:
                yield from _empty_fields(inner, (*loc, key))
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            yield from _empty_fields(inner, (*loc, index))


def _without_nulls(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nulls(inner) for key, inner in value.items() if inner is not None}
    return [_without_nulls(inner) for inner in value] if isinstance(value, list) else value


def _without(raw: dict[str, Any], locs: Sequence[tuple[int | str, ...]]) -> dict[str, Any]:
    result = copy.deepcopy(raw)
    for *path, name in locs:
        place: Any = result
        for step in path:
            place = place[step]
        del place[name]
    return result


def _place(raw: Any, loc: tuple[int | str, ...]) -> tuple[int | str, ...]:
    """The part of an error's location that exists: below it pydantic names the members of a union."""
    place = raw
    for depth, step in enumerate(loc):
        if not (step in place if isinstance(place, dict) else isinstance(place, list) and isinstance(step, int)):
            return loc[:depth]
        place = place[step]
    return loc


def _fresh(place: dict[str, Any], name: str) -> dict[str, Any]:
    place[name] = {}
    fresh: dict[str, Any] = place[name]
    return fresh
