"""What is wrong with a file: field paths and sentences, all at once; and how pydantic's findings become those."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal, get_args

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from kubooth_operator.api.fields import Part, plain
from kubooth_trainer.errors import ConfigError

Refusal = Literal[
    "InvalidSpec",
    "InvalidRuntime",
    "RuntimeNotFound",
    "NamespaceNotAllowed",
    "LimitExceeded",
    "LocationNotAllowed",
    "ModelNotFound",
    "ConsentRequired",
    "LabelRequired",
    "PriorityClassNotAllowed",
    "UnsupportedFeature",
]
"""Why a job is not accepted, as a word that does not change between releases."""


@dataclass(frozen=True)
class FieldError:
    """One thing that is wrong. `path` is as in `spec.training.steps`; "" stands for the whole file."""

    path: str
    message: str
    refusal: Refusal = "InvalidSpec"

    def __str__(self) -> str:
        return f"{self.path}: {self.message}" if self.path else self.message


class SpecError(ConfigError):
    """Everything that is wrong with a job or runtime; a retry cannot mend it."""

    def __init__(self, errors: Sequence[FieldError]) -> None:
        self.errors = tuple(errors)
        super().__init__("\n".join(str(error) for error in self.errors))

    @property
    def refusal(self) -> Refusal:
        """The reason of the first error: what condition Accepted gives."""
        return self.errors[0].refusal if self.errors else "InvalidSpec"


def whole_file(message: str) -> SpecError:
    """A SpecError about a file as such."""
    return SpecError([FieldError(path="", message=message)])


def field_errors(error: ValidationError, kind: type[Part], *, prefix: str = "") -> list[FieldError]:
    """Pydantic's findings in plain words. `prefix` is the path of the validated part, such as "spec"."""
    found = [
        FieldError(path=path_of(detail["loc"], prefix), message=_sentence(detail, kind))
        for detail in error.errors(include_url=False)
    ]
    return sorted(set(found), key=lambda each: found.index(each))


def path_of(loc: Sequence[int | str], prefix: str = "") -> str:
    """`("spec", "models", 0, "uri")` as `spec.models[0].uri`."""
    path = prefix
    for step in loc:
        path += f"[{step}]" if isinstance(step, int) else f".{step}" if path else step
    return path


def _sentence(detail: ErrorDetails, kind: type[Part]) -> str:
    """One finding. Bounds are in the API server's own words: one error reads the same everywhere."""
    context: dict[str, Any] = detail.get("ctx", {})
    got = f", got {quoted(detail['input'])}"
    match detail["type"]:
        case "rule":
            return str(context["sentence"])
        case "form":
            return str(context["sentence"]) + got
        case "missing":
            return "is required"
        case "extra_forbidden":
            return unknown_field(detail["loc"], kind)
        case "int_type" | "int_from_float" | "int_parsing" | "int_parsing_size":
            return "must be a whole number" + got
        case "float_type" | "float_parsing" | "finite_number":
            return "must be a number" + got
        case "bool_type" | "bool_parsing":
            return "must be true or false" + got
        case "string_type":
            return "must be text" + got + _put_in_quotes(detail["input"])
        case "literal_error":
            return _not_one_of(detail, kind) + got
        case "greater_than_equal":
            return f"should be greater than or equal to {plain(context['ge'])}" + got
        case "greater_than":
            return f"should be greater than {plain(context['gt'])}" + got
        case "less_than_equal":
            return f"should be less than or equal to {plain(context['le'])}" + got
        case "less_than":
            return f"should be less than {plain(context['lt'])}" + got
        case "multiple_of":
            return f"should be a multiple of {context['multiple_of']}" + got
        case "string_too_short":
            return f"should be at least {context['min_length']} chars long" + got
        case "string_too_long":  # where the API server counts characters and says bytes
            return f"must have at most {context['max_length']} characters, got {len(str(detail['input']))}"
        case "string_pattern_mismatch":
            return f"should match '{context['pattern']}'" + got
        case "too_short":
            return f"should have at least {context['min_length']} items"
        case "too_long":
            return f"must have at most {context['max_length']} items, got {context['actual_length']}"
        case "tuple_type" | "list_type":
            return "must be a list" + got
        case "model_type" | "model_attributes_type" | "dict_type":
            return "must be a group of fields" + got
        case "datetime_parsing" | "datetime_from_date_parsing" | "datetime_type":
            return "must be a time such as 2026-01-31T12:00:00Z" + got
        case _:
            return detail["msg"] + got


def unknown_field(loc: Sequence[int | str], kind: type[Part]) -> str:
    """What to say of a field that does not exist: the likely neighbour, or where a field of that name lives."""
    name, parent = str(loc[-1]), part_at(kind, loc[:-1])
    neighbours = field_names(parent) if parent else []
    close = closest(name, neighbours)
    if close:
        return f"is not a known field; did you mean {close}?"
    elsewhere = [path for path in _all_paths(kind) if path.rsplit(".", 1)[-1].lower() == name.lower()]
    if elsewhere:
        return f"is not a known field; did you mean {min(elsewhere, key=lambda path: path.count('.'))}?"
    return "is not a known field; known here: " + ", ".join(neighbours)


def closest(name: str, known: Sequence[str]) -> str | None:
    """The known name that `name` was probably meant to be, whatever the case of its letters."""
    by_lower = {each.lower(): each for each in known}
    match = difflib.get_close_matches(name.lower().replace("_", ""), by_lower, n=1)
    return by_lower[match[0]] if match else None


def field_names(part: type[Part]) -> list[str]:
    """camelCase names of a part's fields, in order."""
    return [field.alias or name for name, field in part.model_fields.items()]


def part_at(kind: type[Part], loc: Sequence[int | str]) -> type[Part] | None:
    """The model at a location, or None where there is none."""
    part: type[Part] | None = kind
    for step in loc:
        if isinstance(step, int):
            continue
        part = next((found for name, found in sub_parts(part) if name == step), None) if part else None
    return part


@cache
def sub_parts(part: type[Part]) -> tuple[tuple[str, type[Part]], ...]:
    """Fields whose values (or entries) are parts: camelCase name and model."""
    return tuple(
        (field.alias or name, inner)
        for name, field in part.model_fields.items()
        if (inner := _part_in(field.annotation)) is not None
    )


def quoted(value: Any) -> str:
    """A value as an error message shows it: short, with its type visible."""
    match value:
        case None:
            return "nothing"
        case bool() | int() | float():
            return plain(value)
        case str():
            return f"'{value}'" if len(value) <= 60 else f"'{value[:57]}...'"
        case list() | tuple():
            return f"a list of {len(value)}"
        case dict():
            return "a group of fields"
        case _:
            return repr(value)[:60]


def _part_in(annotation: Any) -> type[Part] | None:
    if isinstance(annotation, type) and issubclass(annotation, Part):
        return annotation
    return next((found for inner in get_args(annotation) if (found := _part_in(inner))), None)


def _all_paths(part: type[Part], prefix: str = "", depth: int = 6) -> Iterator[str]:
    for name in field_names(part):
        yield prefix + name
    for name, inner in sub_parts(part):
        if depth and name != "status":
            yield from _all_paths(inner, f"{prefix}{name}.", depth - 1)


def _put_in_quotes(value: Any) -> str:
    return ": put it in quotes" if isinstance(value, bool | int | float) else ""


def _not_one_of(detail: ErrorDetails, kind: type[Part]) -> str:
    expected = str(detail.get("ctx", {}).get("expected", ""))
    known = [word.strip("'") for word in expected.replace(" or ", ", ").split(", ")]
    close = closest(str(detail["input"]), known) if isinstance(detail["input"], str) else None
    hint = f" (did you mean {close}?)" if close else ""
    return ("must be " if len(known) == 1 else "must be one of ") + ", ".join(known) + hint
