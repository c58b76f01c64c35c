"""The documentation as its tests read it: pages, fenced blocks, tables."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
PAGES = tuple(
    page
    for page in (ROOT / "README.md", ROOT / "charts/kubooth/README.md", ROOT / "CONTRIBUTING.md", *DOCS.rglob("*.md"))
    if page.parent.name != "decisions"  # they tell of what was considered, too
)
_FENCE = re.compile(r"^( *)```([^\n]*)\n(.*?)^\1```$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True, kw_only=True)
class Block:
    """A fenced block. `title` is that of its fence, often a file name."""

    page: Path
    line: int
    language: str
    title: str
    text: str

    def __str__(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"


def blocks(*pages: Path, languages: tuple[str, ...]) -> list[Block]:
    """All blocks of these languages, of all pages unless some are named."""
    return [block for page in pages or PAGES for block in _blocks(page) if block.language in languages]


def commands(*pages: Path) -> list[tuple[Block, str]]:
    """Every command line of the blocks for a shell, continued lines joined, with its block."""
    found = []
    for block in blocks(*pages, languages=("bash", "")):
        for line in block.text.replace("\\\n", " ").splitlines():
            found.append((block, line.partition(" #")[0].strip()))
    return [(block, line) for block, line in found if line]


def spans(page: Path) -> list[str]:
    """What a page shows as code within its text, blocks apart."""
    return re.findall(r"`([^`\n]+)`", _FENCE.sub("", page.read_text()))


def rows(page: str, heading: str = "") -> list[list[str]]:
    """Cells of all rows of tables, without heads, of a page of docs/ or of one of its sections."""
    text = (DOCS / page).read_text()
    if heading:
        found = re.search(rf"^(#+) {re.escape(heading)}\n(.*?)(?=^\1 |\Z)", text, re.MULTILINE | re.DOTALL)
        assert found, f"{page} has no section {heading}"
        text = found[2]
    return [
        [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
        for table in re.findall(r"^\|[^\n]*\n\|[-| :]+\n((?:\|[^\n]*\n?)*)", text, re.MULTILINE)
        for line in table.splitlines()
    ]


def words(cell: str) -> set[str]:
    """The CamelCase words that a cell shows as code."""
    return set(re.findall(r"`([A-Z][A-Za-z0-9]+)`", cell))


def _blocks(page: Path) -> Iterator[Block]:
    text = page.read_text()
    for found in _FENCE.finditer(text):
        language, _, rest = found[2].partition(" ")
        title = re.search(r'title="([^"]*)"', rest)
        indent = len(found[1])
        yield Block(
            page=page,
            line=text.count("\n", 0, found.start()) + 1,
            language=language,
            title=title[1] if title else "",
            text="".join(line[indent:] for line in found[3].splitlines(keepends=True)),
        )
