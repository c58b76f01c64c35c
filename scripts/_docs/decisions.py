"""Hook of mkdocs: the list of decisions, in the navigation and on their page. A new one is a file, and no more."""

from __future__ import annotations

from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import Files
from mkdocs.structure.pages import Page

FOLDER = Path(__file__).resolve().parents[2] / "docs" / "decisions"
MARK = "<!-- list of decisions -->"


def decisions() -> dict[str, str]:
    """File name and title, as in `10. CRDs in the chart's crds/`, in order."""
    pages = sorted(FOLDER.glob("[0-9]*.md"))
    return {page.name: page.read_text().partition("\n")[0].removeprefix("# ") for page in pages}


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Puts the decisions into the last section of the navigation."""
    assert config.nav is not None
    (section,) = (part["Decisions"] for part in config.nav if "Decisions" in part)
    section += [{title.replace("`", ""): f"decisions/{name}"} for name, title in decisions().items()]
    return config


def on_page_markdown(markdown: str, *, page: Page, config: MkDocsConfig, files: Files) -> str:
    """The list in the place of its mark."""
    return markdown.replace(MARK, "\n".join(f"- [{title}]({name})" for name, title in decisions().items()))
