"""Hook of mkdocs: drawings (SVG) become part of their page, so that they take its colours, by day and by night."""

from __future__ import annotations

import posixpath
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import Files
from mkdocs.structure.pages import Page

_IMAGE = re.compile(r'<img alt="([^"]*)" src="([^":]*\.svg)"[^>]*>')


def on_page_content(html: str, *, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Each picture that is a drawing of this repository, in place."""

    def inline(found: re.Match[str]) -> str:
        path = posixpath.normpath(posixpath.join(posixpath.dirname(page.file.dest_uri), found[2]))
        drawing = (Path(config.docs_dir) / path).read_text()
        drawing = drawing.replace("<svg ", f'<svg role="img" aria-label="{found[1]}" ', 1)
        return f'<div class="drawing">{drawing}</div>'

    return _IMAGE.sub(inline, html)
