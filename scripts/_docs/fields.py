"""Hook of mkdocs: the fields of a kind in the place of `<!-- fields of KIND.spec -->`, from the pydantic models.

The same source as `kubooth explain` and the CRDs, so the reference cannot say anything else.
"""

from __future__ import annotations

import html
import re
from collections.abc import Iterator

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import Files
from mkdocs.structure.pages import Page

from kubooth_operator.api import PersonalizationJob, PersonalizationRuntime
from kubooth_operator.reference import FieldDoc, document

KINDS = {kind.__name__: document(kind) for kind in (PersonalizationJob, PersonalizationRuntime)}
_SPECIAL = re.compile(r"([|*_{}\[\]])")
MARK = re.compile(r"<!-- fields of (\w+)\.(\w+) -->")


def on_page_markdown(markdown: str, *, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Every mark replaced by the groups and fields that it names."""
    return MARK.sub(lambda found: reference(found[1], found[2]), markdown)


def reference(kind: str, top: str) -> str:
    """Markdown for all below `top` ("spec", "status") of a kind: a section for each group, a row for each field."""
    (root,) = (child for child in KINDS[kind].children if child.name == top)
    return "\n".join(_section(root))


def _section(doc: FieldDoc) -> Iterator[str]:
    """A group: its own words, its fields, then the groups below it."""
    level = min(2 + doc.path.count("."), 5)
    yield f"\n{'#' * level} `{doc.path}` {{ #{doc.path.lower()} }}\n"
    yield _text(doc.description) + "\n"
    yield from (f"- {_text(rule)}" for rule in doc.rules)
    yield "\n| field | type | built-in value | meaning |\n|---|---|---|---|"
    yield from map(_row, doc.children)
    for child in doc.children:
        if child.children:
            yield from _section(child)


def _row(doc: FieldDoc) -> str:
    name = f"[`{doc.name}`](#{doc.path.lower()})" if doc.children else f"`{doc.name}`"
    return f"| {name} | {_text(doc.type)} | {_builtin(doc)} | {' '.join(_meaning(doc))} |"


def _builtin(doc: FieldDoc) -> str:
    if doc.required:
        return "required"
    value = doc.facts.builtin_text() or doc.default
    if value is None or doc.children:
        return ""
    return _text(value) if doc.facts.absent else f"`{value}`"


def _meaning(doc: FieldDoc) -> Iterator[str]:
    yield _text(doc.description)
    if doc.choices:
        yield "One of " + ", ".join(f"`{choice}`" for choice in doc.choices) + "."
    if doc.facts.unit:
        yield f"In {doc.facts.unit}."
    if doc.bounds:
        yield _text(doc.bounds[0].upper() + doc.bounds[1:]) + "."
    if doc.facts.source:
        yield f"*Source: {_text(doc.facts.source)}.*"


def _text(text: str) -> str:
    """Plain text, with code between backticks, within a table of Markdown."""
    parts = html.escape(text, quote=False).split("`")
    return "`".join(part if number % 2 else _SPECIAL.sub(r"\\\1", part) for number, part in enumerate(parts))
