"""The site builds without a warning, links and anchors included; it is whole, and loads nothing from elsewhere."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

import click
import pytest
from docs.manual import ROOT

from kubooth_cli.main import COMMANDS, main
from kubooth_operator.api import PersonalizationJob, PersonalizationRuntime
from kubooth_operator.api.fields import Part
from kubooth_operator.reference import document

LOADS = {"script": "src", "img": "src", "iframe": "src", "source": "src", "video": "src", "audio": "src"}
LOADING_LINKS = {"stylesheet", "icon", "preload", "modulepreload", "preconnect", "dns-prefetch", "manifest"}


class Page(HTMLParser):
    """What a page loads, what it links to, and its anchors and words."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.loads: set[str] = set()
        self.links: set[str] = set()
        self.anchors: set[str] = set()
        self.text = ""
        self.feed(path.read_text())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {name: value or "" for name, value in attrs}
        self.anchors |= {values[name] for name in ("id", "name") if name in values}
        if LOADS.get(tag) in values:
            self.loads.add(values[LOADS[tag]])
        if tag == "link" and LOADING_LINKS & set(values.get("rel", "").split()):
            self.loads.add(values["href"])
        if tag == "a" and "href" in values:
            self.links.add(values["href"])

    def handle_data(self, data: str) -> None:
        self.text += data


WITH_ITS_OWN_SET = """
import importlib.metadata, re, runpy, sys
pinned = re.findall("^([a-z0-9._-]+)==", open("requirements/docs.txt").read(), re.M)
allowed = {"kubooth", "kubooth-world", *pinned}
for module, packages in importlib.metadata.packages_distributions().items():
    if module not in sys.modules and not allowed & {re.sub("[-_.]+", "-", each).lower() for each in packages}:
        sys.modules[module] = None  # cannot be imported
runpy.run_module("mkdocs", run_name="__main__")
"""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As `scripts/docs` builds it: with the packages of requirements/docs.txt alone."""
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-c", WITH_ITS_OWN_SET, "build", "--strict", "--site-dir", str(folder)]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


@pytest.fixture(scope="module")
def pages(site: Path) -> dict[Path, Page]:
    return {path: Page(path) for path in sorted(site.rglob("*.html"))}


def test_every_page_is_there(site: Path, pages: dict[Path, Page]) -> None:
    sources = {path.relative_to(ROOT / "docs").with_suffix(".html") for path in (ROOT / "docs").rglob("*.md")}
    built = {path.relative_to(site) for path in pages}
    assert built == sources | {Path(name) for name in ("chart.html", "contributing.html", "changelog.html", "404.html")}


def test_links_lead_to_pages_and_anchors_of_the_site(site: Path, pages: dict[Path, Page]) -> None:
    for path, page in pages.items():
        if path.name == "404.html":  # is served for any address: its links start at the root
            continue
        for link in page.links:
            if re.match(r"[a-z]+:", link):
                continue
            name, _, anchor = unquote(link).partition("#")
            target = (path.parent / name).resolve() if name else path
            assert target.exists() and target.is_relative_to(site), f"{path.name}: {link}"
            if anchor and target in pages:
                assert anchor in pages[target].anchors, f"{path.name}: {link}"


def test_nothing_is_loaded_from_elsewhere(site: Path, pages: dict[Path, Page]) -> None:
    for path, page in pages.items():
        assert [each for each in page.loads if "//" in each and not each.startswith("data:")] == [], path.name
    for sheet in site.rglob("*.css"):
        found = re.findall(
            r"url\(\s*[\"']?((?:https?:)?//[^)]*)|@import\s+[\"']((?:https?:)?//[^\"']*)", sheet.read_text()
        )
        assert found == [], sheet.name


@pytest.mark.parametrize(("name", "kind"), [("job", PersonalizationJob), ("runtime", PersonalizationRuntime)])
def test_every_field_is_in_the_reference(site: Path, name: str, kind: type[Part]) -> None:
    page = Page(site / "reference" / f"{name}.html")
    for top in document(kind).children:
        for field in top.every():
            assert field.name in page.text, field.path
            assert not field.children or field.path.lower() in page.anchors, field.path
            assert field.description.replace("`", "") in page.text, field.path
            assert all(rule.replace("`", "") in page.text for rule in field.rules), field.path


def options(command: click.Command) -> Iterator[str]:
    """Long forms of a command's options, and of those below it."""
    for each in command.params:
        yield from (form for form in (*each.opts, *each.secondary_opts) if form.startswith("--"))
    if isinstance(command, click.Group):
        for name in command.list_commands(click.Context(command)):
            below = command.get_command(click.Context(command), name)
            assert below is not None
            yield from options(below)


def test_every_command_and_option_is_in_the_reference(site: Path) -> None:
    page = Page(site / "reference" / "cli.html")
    assert [name for name in COMMANDS if f"kubooth {name}" not in page.text] == []
    assert set(options(main)) - set(re.findall(r"--[a-z-]+", page.text)) == set()
    assert "Sentinel" not in page.text  # how click marks a default that is none, and mkdocs-click's tables show it


def test_drawings_are_part_of_their_page_and_say_what_they_show(site: Path) -> None:
    text = (site / "architecture.html").read_text()
    assert re.search(r'<svg role="img" aria-label="[^"]{40,}"', text)
    assert ".svg" not in "".join(Page(site / "architecture.html").loads - {"assets/favicon.svg"})


def test_decisions_are_listed(site: Path) -> None:
    listed = Page(site / "decisions" / "index.html").links
    assert listed >= {path.with_suffix(".html").name for path in (ROOT / "docs" / "decisions").glob("[0-9]*.md")}
