"""Types of values that several parts of the API share: locations, templates, Kubernetes names and quantities."""

from __future__ import annotations

from decimal import Decimal
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, WithJsonSchema, WrapValidator
from pydantic_core import PydanticCustomError

MAX_TEXT = 512

Uri = Annotated[str, Field(min_length=1, max_length=1024)]
Template = Annotated[str, Field(min_length=1, max_length=MAX_TEXT)]
Sentence = Annotated[str, Field(max_length=4096)]

Dns1123Subdomain = Annotated[str, Field(min_length=1, max_length=253, pattern=r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$")]
Dns1123Label = Annotated[str, Field(min_length=1, max_length=63, pattern=r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$")]
QualifiedName = Annotated[
    str, Field(min_length=1, max_length=317, pattern=r"^([a-z0-9.-]+/)?[A-Za-z0-9]([A-Za-z0-9_.-]*[A-Za-z0-9])?$")
]
LabelValue = Annotated[str, Field(max_length=63, pattern=r"^([A-Za-z0-9]([A-Za-z0-9_.-]*[A-Za-z0-9])?)?$")]
QUANTITY_PATTERN = r"^[0-9]+(\.[0-9]+)?(m|k|M|G|T|P|E|Ki|Mi|Gi|Ti|Pi|Ei)?$"


def _quantity(value: Any, check: Any) -> Any:
    try:
        return check(value)
    except ValidationError:
        raise PydanticCustomError(
            "form", "{sentence}", {"sentence": "must be a quantity such as 8Gi, 500m or 4"}
        ) from None


Quantity = Annotated[
    Annotated[int, Field(ge=0)] | Annotated[str, Field(max_length=32, pattern=QUANTITY_PATTERN)],
    WrapValidator(_quantity),
    WithJsonSchema({"x-kubernetes-int-or-string": True, "pattern": QUANTITY_PATTERN, "maxLength": 32, "minimum": 0}),
]


_POWERS = {unit: 1000 ** (n + 1) for n, unit in enumerate("kMGTPE")} | {
    f"{unit}i": 1024 ** (n + 1) for n, unit in enumerate("KMGTPE")
}


def bytes_of(quantity: int | str) -> int:
    """A quantity such as 200Gi as a number of bytes, rounded down."""
    text = str(quantity)
    number = text.rstrip("mkMGTPEKi")
    unit = text[len(number) :]
    return int(Decimal(number) * (_POWERS.get(unit, 1) if unit != "m" else Decimal("0.001")))


def _whole_number_or_auto(value: Any, check: Any) -> Any:
    try:
        return check(value)
    except ValidationError:
        raise PydanticCustomError(
            "form", "{sentence}", {"sentence": f"must be a whole number from 1 to {MAX_ACCUMULATION}, or Auto"}
        ) from None


MAX_ACCUMULATION = 4096
Accumulation = Annotated[
    Annotated[int, Field(ge=1, le=MAX_ACCUMULATION)] | Literal["Auto"],
    WrapValidator(_whole_number_or_auto),
    WithJsonSchema(
        {
            "x-kubernetes-int-or-string": True,
            "minimum": 1,
            "maximum": MAX_ACCUMULATION,
            "pattern": "^Auto$",
            "maxLength": 4,
        }
    ),
]
