"""`kubooth explain`: what a field of a job or runtime means, like `kubectl explain` but without a cluster."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator

import click

from kubooth_operator.api import API_VERSION, PersonalizationJob, PersonalizationRuntime
from kubooth_operator.api.fields import Part
from kubooth_operator.reference import FieldDoc, UnknownFieldError, document, find
from kubooth_trainer.errors import ExitCode

WIDTH = 100


@click.command(name="explain")
@click.argument("field", default="", metavar="[FIELD]")
@click.option("--runtime-kind", is_flag=True, help="Explain a PersonalizationRuntime instead of a PersonalizationJob.")
@click.pass_context
def explain_command(context: click.Context, field: str, runtime_kind: bool) -> None:
    """Describe a FIELD: its meaning, type, unit, bounds and built-in value, and the fields below it.

    Without FIELD, lists what a job holds. Paths start at the spec; `status` works too.

    \b
    Examples:
      kubooth explain
      kubooth explain training.learningRate
      kubooth explain status.progress
      kubooth explain --runtime-kind limits
    """
    kind: type[Part] = PersonalizationRuntime if runtime_kind else PersonalizationJob
    try:
        found = find(document(kind), field)
    except UnknownFieldError as error:
        click.echo(f"kubooth explain: {error}", err=True)
        context.exit(ExitCode.FIX_AND_RESUBMIT)
    click.echo("\n".join(_lines(kind.__name__, found)))


def _lines(kind: str, doc: FieldDoc) -> Iterator[str]:
    yield f"KIND:   {kind} ({API_VERSION})"
    yield f"FIELD:  {doc.path} <{doc.type}>" + (" (required)" if doc.required else "")
    yield ""
    yield from _wrapped(doc.description, "  ")
    facts = list(_facts(doc))
    if facts:
        yield ""
        for name, value in facts:
            yield from _wrapped(value, f"  {name + ':':<16}")
    for rule in doc.rules:
        yield from _wrapped(rule, "  rule:           ")
    if doc.children:
        yield ""
        yield "FIELDS:"
        for child in doc.children:
            yield f"  {child.name} <{child.type}>" + (" (required)" if child.required else "")
            yield from _wrapped(child.description, "      ")
            builtin = child.facts.builtin_text() or child.default
            if builtin is not None:
                yield from _wrapped(builtin, f"      {'if left out' if child.facts.absent else 'built-in value'}: ")


def _facts(doc: FieldDoc) -> Iterator[tuple[str, str]]:
    if doc.facts.unit:
        yield "unit", doc.facts.unit
    builtin = doc.facts.builtin_text()
    if builtin is not None:
        source = f" ({doc.facts.source})" if doc.facts.source else ""
        yield ("if left out" if doc.facts.absent else "built-in value"), builtin + source
    if doc.default is not None:
        yield "default", doc.default
    if doc.choices:
        yield "one of", ", ".join(doc.choices)
    if doc.bounds:
        yield "bounds", doc.bounds


def _wrapped(text: str, lead: str) -> list[str]:
    return textwrap.wrap(
        text, width=WIDTH, initial_indent=lead, subsequent_indent=" " * len(lead), break_on_hyphens=False
    )
