"""What a runtime's jobs may ask for: sizes, places, priority classes, and what they must state."""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import Field

from kubooth_operator.api.fields import Part, preset, setting
from kubooth_operator.api.rules import Rule
from kubooth_operator.api.scalars import Dns1123Subdomain, QualifiedName

Prefix = Annotated[str, Field(min_length=1, max_length=512)]
Prefixes = Annotated[tuple[Prefix, ...], Field(max_length=64)]


def _prefixes_rule(field: str, attribute: str) -> Rule:
    return Rule(
        field=field,
        cel=f"!has(self.{field}) || self.{field}.all(p, p.startsWith('s3://') || p.startsWith('file:///'))",
        message="every prefix must start with s3:// or file:///",
        holds=lambda limits: all(
            prefix.startswith(("s3://", "file:///")) for prefix in getattr(limits, attribute) or ()
        ),
    )


class LimitsSpec(Part):
    """What jobs may ask for. Prefixes guard against mistakes; only scoped credentials are a boundary."""

    rules: ClassVar[tuple[Rule, ...]] = (
        _prefixes_rule("readPrefixes", "read_prefixes"),
        _prefixes_rule("writePrefixes", "write_prefixes"),
    )

    nodes: int | None = setting("Most nodes of a job.", absent="no limit", unit="nodes", ge=1, le=1024)
    devices: int | None = setting(
        "Most devices of a job over all nodes.", absent="no limit", unit="devices", ge=1, le=65536
    )
    steps: int | None = setting("Most optimizer steps of a job.", absent="no limit", unit="steps", ge=1, le=1_000_000)
    read_prefixes: Prefixes = preset(
        ("s3://",),
        "Where jobs may read photos, models and class images. {namespace} is the job's namespace; whole path segments "
        "are compared. file:/// must be listed to be allowed.",
    )
    write_prefixes: Prefixes = preset(("s3://",), "Where jobs may write, in the same form.")
    priority_classes: Annotated[tuple[Dns1123Subdomain, ...], Field(max_length=64)] | None = setting(
        "Priority classes that jobs may name.", absent="every one"
    )
    require_consent: bool = preset(False, "Whether jobs must state subject.consent: true.")
    required_labels: Annotated[tuple[QualifiedName, ...], Field(max_length=16)] | None = setting(
        "Labels that jobs must have, each with a value.", absent="none"
    )
