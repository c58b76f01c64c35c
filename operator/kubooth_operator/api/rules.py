"""A cross-field rule, written once: its CEL text, its sentence for the user and its Python predicate, together.

The models carry rules (`Part.rules`): `kubooth run` and `kubooth validate` evaluate the predicates, the generated
CRD carries the CEL, so both refuse the same jobs in the same words.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Rule:
    """A condition over one model. `self` in the CEL text is the object that the model describes.

    `field` is the path below the model that an error names ("" names the model itself). `holds` takes the model,
    or, for a transition, the new and the old model. CEL can only be applied where every string, list and map has a
    bound, or the API server's cost estimate rejects it.
    """

    cel: str
    message: str
    holds: Callable[..., bool]
    field: str = ""
    transition: bool = False


def placeholder_rule(field: str, attribute: str, *, placeholder: str, message: str) -> Rule:
    """The template in `field`, where it is given, holds `placeholder`."""
    return Rule(
        field=field,
        cel=f"!has(self.{field}) || self.{field}.contains('{placeholder}')",
        message=message,
        holds=lambda part: getattr(part, attribute) is None or placeholder in getattr(part, attribute),
    )


def location_rule(field: str, attribute: str | None = None) -> Rule:
    """The URI in `field`, where it is given, has a scheme that we read and write."""
    name = attribute or field
    return Rule(
        field=field,
        cel=f"!has(self.{field}) || self.{field}.startsWith('s3://') || self.{field}.startsWith('file:')",
        message="must start with s3:// (a bucket) or file: (a folder of this machine)",
        holds=lambda part: getattr(part, name) is None or getattr(part, name).startswith(("s3://", "file:")),
    )


NO_CREDENTIALS = "must start with http:// or https:// and hold no credentials: those belong in credentialsSecret"


def server_rule(field: str, attribute: str | None = None) -> Rule:
    """The address of a server in `field`, where it is given, is one, and shows nobody a password."""
    name = attribute or field

    def holds(part: Any) -> bool:
        url: str | None = getattr(part, name)
        return url is None or (url.startswith(("http://", "https://")) and "@" not in url)

    return Rule(
        field=field,
        cel=f"!has(self.{field}) || (self.{field}.matches('^https?://') && !self.{field}.contains('@'))",
        message=NO_CREDENTIALS,
        holds=holds,
    )


STARTED = "has(oldSelf.status) && has(oldSelf.status.attempts) && oldSelf.status.attempts > 0"


def immutable_once_started(field: str, attribute: str) -> Rule:
    """`spec.<field>` of a job cannot change once an attempt was started."""

    def holds(new: Any, old: Any) -> bool:
        started = old.status is not None and (old.status.attempts or 0) > 0
        return not started or getattr(new.spec, attribute) == getattr(old.spec, attribute)

    return Rule(
        field=f"spec.{field}",
        cel=(
            f"!({STARTED}) || (has(self.spec.{field}) ? has(oldSelf.spec.{field}) && "
            f"self.spec.{field} == oldSelf.spec.{field} : !has(oldSelf.spec.{field}))"
        ),
        message=(
            "cannot be changed once the job has started (only suspend, runPolicy and priorityClassName can): "
            "make a new job"
        ),
        holds=holds,
        transition=True,
    )
