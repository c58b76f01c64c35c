"""Times and sizes as people write them on a command line: `30d`, `10GB`."""

from __future__ import annotations

import re
from typing import Any

import click

SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}
BYTES = {
    "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12,
    "KIB": 2**10, "MIB": 2**20, "GIB": 2**30, "TIB": 2**40,
}  # fmt: skip


class Quantity(click.ParamType):  # type: ignore[type-arg] # generic in some versions of click only
    """A number with a unit, as in 30d or 10GB."""

    def __init__(self, name: str, units: dict[str, int], example: str) -> None:
        self.name, self._units, self._example = name, units, example

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        if isinstance(value, int | float):
            return value
        found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([A-Za-z]+)", value.strip())
        units = {unit.upper(): factor for unit, factor in self._units.items()}
        if found is None or found[2].upper() not in units:
            self.fail(f"{value!r} is not a {self.name}: write a number and a unit, as in {self._example}", param, ctx)
        return float(found[1]) * units[found[2].upper()]


AGE = Quantity("time", SECONDS, "30d, 12h or 45m")
SIZE = Quantity("size", BYTES, "10GB, 500MB or 2GiB")
