"""What the API knows and this version's trainer does not do yet: refused by name, never passed over.

A line leaves this table when the trainer learns what it is about.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from kubooth_operator.api.job import JobSpec
from kubooth_operator.api.problems import FieldError


@dataclass(frozen=True)
class _Gap:
    path: str
    asked_for: Callable[[JobSpec], str | None]  # the words for what is asked for, or None where it is not


_GAPS = (_Gap("spec.method", lambda spec: f"method {spec.method}" if spec.method != "DreamBooth" else None),)


def unsupported(spec: JobSpec) -> list[FieldError]:
    """One error for each thing the spec asks for that this version does not do."""
    return [_not_supported(gap.path, words) for gap in _GAPS if (words := gap.asked_for(spec)) is not None]


def _not_supported(path: str, words: str) -> FieldError:
    return FieldError(path, f"{words} is not supported by this version", "UnsupportedFeature")
