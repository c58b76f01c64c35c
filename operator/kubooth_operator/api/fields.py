"""What every part of the API is made of: the base model and the four ways to declare a field.

A field says what it means, its unit, its bounds and its built-in value in one place. The schema's descriptions,
`kubooth explain` and the resolution all take them from here. A field that a runtime may default is a `setting`:
it carries no default in the schema, because a default filled in at admission could not be told from a choice.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic.alias_generators import to_camel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticCustomError

from kubooth_operator.api.rules import Rule

FACTS_KEY = "x-kubooth"

PAPER = "DreamBooth paper"  # arXiv 2208.12242
SCRIPT = "diffusers' script"  # its example train_dreambooth.py


class Part(BaseModel):
    """Base of every API object: immutable, closed, camelCase outside and snake_case inside, types taken strictly."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", strict=True, alias_generator=to_camel, populate_by_name=True,
        allow_inf_nan=False,
        defer_build=True,
    )  # fmt: skip

    rules: ClassVar[tuple[Rule, ...]] = ()
    one_of: ClassVar[tuple[str, ...]] = ()
    """camelCase names of fields of which one at most applies: a job's choice shuts out the runtime's."""

    @model_validator(mode="after")
    def _obey_rules(self) -> Self:
        broken = [rule for rule in type(self).rules if not rule.transition and not rule.holds(self)]
        if broken:
            raise ValidationError.from_exception_data(
                type(self).__name__,
                [
                    {
                        "type": PydanticCustomError("rule", "{sentence}", {"sentence": rule.message}),
                        "loc": tuple(rule.field.split(".")) if rule.field else (),
                        "input": None,
                    }
                    for rule in broken
                ],
            )
        return self


class Observed(Part):
    """Base of what controllers write. Fields of a newer version are passed over, not refused."""

    model_config = ConfigDict(extra="ignore")


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What is known of a field beyond its type, bounds and description."""

    unit: str | None = None
    builtin: Any = None
    same_as: str | None = None  # camelCase name of the neighbour whose value is taken
    absent: str | None = None  # what leaving the field out means, where that is no plain value
    source: str | None = None  # where the built-in value comes from

    def builtin_text(self) -> str | None:
        """The built-in value as a person reads it, or None where the field has none."""
        if self.absent is not None:
            return self.absent
        if self.same_as is not None:
            return f"the value of {self.same_as}"
        return None if self.builtin is None else plain(self.builtin)


def plain(value: Any) -> str:
    """A value as it would be written in a manifest."""
    match value:
        case bool():
            return "true" if value else "false"
        case "":
            return '""'
        case list() | tuple():
            return "[" + ", ".join(f'"{item}"' for item in value) + "]"
        case float() if value.is_integer() and abs(value) < 1e15:
            return str(int(value))
        case float():
            return f"{value:g}".replace("e-0", "e-")
        case _:
            return str(value)


def setting(
    description: str,
    *,
    builtin: Any = None,
    same_as: str | None = None,
    absent: str | None = None,
    unit: str | None = None,
    source: str | None = None,
    **bounds: Any,
) -> Any:
    """An optional field that takes the job's value, else the runtime's, else `builtin`."""
    facts = {"unit": unit, "builtin": builtin, "same_as": same_as, "absent": absent, "source": source}
    return Field(default=None, description=description, json_schema_extra=_extra(facts), **bounds)


def preset(default: Any, description: str, *, unit: str | None = None, **bounds: Any) -> Any:
    """An optional field whose default is the same everywhere, so that the schema itself carries it."""
    return Field(default=default, description=description, json_schema_extra=_extra({"unit": unit}), **bounds)


def required(description: str, *, unit: str | None = None, **bounds: Any) -> Any:
    """A field that must be given."""
    return Field(description=description, json_schema_extra=_extra({"unit": unit}), **bounds)


def group(kind: type[Part], description: str) -> Any:
    """A group of fields, empty where it is left out."""
    return Field(default_factory=kind, description=description)


def facts_of(field: FieldInfo) -> Facts:
    """The facts that `setting`, `preset` or `required` recorded."""
    extra = field.json_schema_extra
    facts = extra.get(FACTS_KEY) if isinstance(extra, dict) else None
    known: dict[str, Any] = dict(facts) if isinstance(facts, dict) else {}
    return Facts(**known)


def _extra(facts: Mapping[str, Any]) -> dict[str, Any]:
    known = {key: value for key, value in facts.items() if value is not None}
    return {FACTS_KEY: known} if known else {}
