"""Hook of mkdocs: pages of the repository outside docs/, and links to its other files.

In docs/, links are those that work in a checkout: `../examples/runtime.yaml`. Here the three pages outside docs/ become
part of the site, and what else a page links to is copied to `files/`, so that the site is whole without the repository.
A link to a file that is not there is left as it is: mkdocs then names it, and a strict build fails.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[2]
DOCS = "docs"
PAGES = {  # path in the repository: that in the site
    "charts/kubooth/README.md": "chart.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
}
COPIES = "files"
_LINK = re.compile(r"(?<=\]\()(?![a-z]+:)([^)#\s]+)(#[^)\s]*)?(?=\))")


def on_files(files: Files, *, config: MkDocsConfig) -> Files:
    """Adds the pages, and a copy of every file that a page links to."""
    for path, uri in PAGES.items():
        files.append(File.generated(config, uri, abs_src_path=str(ROOT / path)))
    copied = {
        target
        for file in files.documentation_pages()
        for target in _targets(_origin(file.src_uri), file.content_string)
        if _is_copied(target)
    }
    for target in sorted(copied):
        # Pages are copied as text: mkdocs would make a page of what ends in .md.
        files.append(File.generated(config, _copy(target), abs_src_path=str(ROOT / target)))
    return files


def on_page_markdown(markdown: str, *, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Links as they are in the repository become links as they are in the site."""
    return rewrite(markdown, page.file.src_uri)


def rewrite(markdown: str, uri: str) -> str:
    """The Markdown of the page at `uri` of the site, with links that stay within the site."""
    origin = _origin(uri)

    def link(found: re.Match[str]) -> str:
        here = _in_site(_resolve(origin, found[1]))
        if here is None:
            return found[0]
        return posixpath.relpath(here, posixpath.dirname(uri) or ".") + (found[2] or "")

    return _LINK.sub(link, markdown)


def _targets(origin: str, markdown: str) -> list[str]:
    return [_resolve(origin, found[1]) for found in _LINK.finditer(markdown)]


def _origin(uri: str) -> str:
    """Where in the repository a page of the site is."""
    return next((path for path, page in PAGES.items() if page == uri), f"{DOCS}/{uri}")


def _resolve(origin: str, target: str) -> str:
    """The path in the repository that a link of the file `origin` leads to."""
    return posixpath.normpath(posixpath.join(posixpath.dirname(origin), target))


def _in_site(target: str) -> str | None:
    """Where the site has a path of the repository; None where it is nowhere."""
    if target in PAGES:
        return PAGES[target]
    if target.startswith(f"{DOCS}/"):
        inside = target.removeprefix(f"{DOCS}/")
        return f"{inside}/index.md" if (ROOT / target).is_dir() else inside
    return _copy(target) if _is_copied(target) else None


def _is_copied(target: str) -> bool:
    return not target.startswith((f"{DOCS}/", "..")) and target not in PAGES and (ROOT / target).is_file()


def _copy(target: str) -> str:
    return f"{COPIES}/{target}" + (".txt" if target.endswith((".md", ".yaml", ".yml")) else "")
