"""Forms of output: tables for people; JSON, YAML and names for programs, as kubectl has them."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import click
import yaml

from kubooth_operator.api.job import GROUP

Manifest = dict[str, Any]
F = TypeVar("F", bound=Callable[..., Any])
_GAP = 3


def output_option(*more: str) -> Callable[[F], F]:
    """`-o`; `more` are forms beside json, yaml and name."""
    return click.option(
        "-o", "--output", "form", type=click.Choice([*more, "json", "yaml", "name"]), help="Form of the output."
    )


def is_for_programs(form: str | None) -> bool:
    return form in ("json", "yaml", "name")


def show(form: str | None, objects: Sequence[Manifest], *, as_list: bool) -> None:
    """Prints objects of the API in a form for programs."""
    if form == "name":
        for each in objects:
            click.echo(name_of(each))
        return
    plain = [_without_managed_fields(each) for each in objects]
    show_value(form, {"apiVersion": "v1", "kind": "List", "items": plain} if as_list else plain[0])


def show_value(form: str | None, value: Any) -> None:
    """Prints any value as JSON or YAML."""
    if form == "yaml":
        click.echo(yaml.safe_dump(value, sort_keys=False, allow_unicode=True), nl=False)
    else:
        click.echo(json.dumps(value, indent=2, ensure_ascii=False))


def name_of(item: Manifest) -> str:
    """`personalizationjob.kubooth.io/rex`."""
    return f"{item['kind'].lower()}.{GROUP}/{item['metadata']['name']}"


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Columns as wide as they need to be; the last is not padded."""
    cells = [list(header), *(list(row) for row in rows)]
    widths = [max(len(row[column]) for row in cells) + _GAP for column in range(len(header))]
    for row in cells:
        click.echo("".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def _without_managed_fields(item: Manifest) -> Manifest:
    return {**item, "metadata": {key: value for key, value in item["metadata"].items() if key != "managedFields"}}
