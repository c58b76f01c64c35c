"""What the README and the docs promise: the commands exist, the job is valid, the links lead somewhere."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / name for name in ("README.md", "CHANGELOG.md", "CONTRIBUTING.md")] + sorted(ROOT.glob("docs/**/*.md"))
README = (ROOT / "README.md").read_text()
KUBOOTH = Path(sys.executable).parent / "kubooth"


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(), flags=re.MULTILINE | re.DOTALL)


def commands() -> set[str]:
    """Every script that a page shows in a block of commands."""
    lines = {line for page in PAGES for block in blocks(page, "bash") for line in block.splitlines()}
    return {line.split()[0] for line in lines if line.startswith("scripts/")}


def subcommands() -> set[str]:
    """Every subcommand of `kubooth` that a page shows, as code or in a block."""
    return {name for page in PAGES for name in re.findall(r"(?:`|^)kubooth ([a-z]+)", page.read_text(), re.MULTILINE)}


@pytest.mark.parametrize("script", sorted(commands()))
def test_scripts_of_the_docs_run(script: str) -> None:
    result = subprocess.run([ROOT / script, "--help"], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert result.stdout


@pytest.mark.parametrize("name", sorted(subcommands()))
def test_subcommands_of_the_docs_run(name: str) -> None:
    result = subprocess.run([KUBOOTH, name, "--help"], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert name in result.stdout


def test_options_of_the_readme_exist() -> None:
    for row in re.findall(r"^\| `kubooth ([a-z]+).*$", README, flags=re.MULTILINE):
        line = next(line for line in README.splitlines() if line.startswith(f"| `kubooth {row}"))
        shown = subprocess.run([KUBOOTH, row, "--help"], capture_output=True, text=True, check=True).stdout
        for option in re.findall(r"(?<![\w-])(--?[a-z]+)", line):
            assert option in shown, f"kubooth {row} has no option {option}"


def test_the_readme_shows_the_two_commands_first() -> None:
    assert [block.strip() for block in blocks(ROOT / "README.md", "bash")[:2]] == ["scripts/quickstart", "scripts/test"]


@pytest.mark.parametrize("job", blocks(ROOT / "README.md", "yaml"))
def test_jobs_of_the_readme_are_valid(job: str, tmp_path: Path) -> None:
    assert len(job.splitlines()) <= 10
    (tmp_path / "job.yaml").write_text(job)
    (tmp_path / "photos").mkdir()
    result = subprocess.run([KUBOOTH, "validate", tmp_path / "job.yaml"], capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.mark.parametrize("page", PAGES, ids=[str(page.relative_to(ROOT)) for page in PAGES])
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if re.match(r"https?:", target):
            continue
        path, _, anchor = target.partition("#")
        linked = page.parent / path if path else page
        assert linked.exists(), f"{page.name} links to {target}, which is not there"
        if anchor:
            headings = re.findall(r"^#+ (.*)$", linked.read_text(), flags=re.MULTILINE)
            assert anchor in {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_every_decision_is_numbered_and_names_alternatives() -> None:
    decisions = sorted((ROOT / "docs" / "decisions").glob("[0-9]*.md"))
    for number, page in enumerate(decisions, start=1):
        text = page.read_text()
        assert page.name.startswith(f"{number:04d}-")
        assert text.startswith(f"# {number}. ")
        assert "**Decision.**" in text and "**Alternatives.**" in text
