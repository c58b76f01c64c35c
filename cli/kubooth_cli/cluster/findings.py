"""What `doctor` has found: one line for each check, and what to do where something is wrong."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

State = Literal["ok", "fault", "unknown"]
Manifest = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Finding:
    """The answer of one check. `remedy` says what to do about a fault."""

    check: str
    state: State
    message: str
    remedy: str = ""


def ok(check: str, message: str) -> Finding:
    """All is well."""
    return Finding(check=check, state="ok", message=message)


def fault(check: str, message: str, remedy: str) -> Finding:
    """Something is wrong."""
    return Finding(check=check, state="fault", message=message, remedy=remedy)


def unknown(check: str, message: str) -> Finding:
    """It could not be looked at: the caller lacks a right, or something before it is wrong."""
    return Finding(check=check, state="unknown", message=message)
