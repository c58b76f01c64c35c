"""Every command line of the pages fits the program: subcommands and options exist, and cheap ones are run."""

from __future__ import annotations

import re
import shlex
import subprocess
from functools import cache
from pathlib import Path
from typing import Any

import click
import pytest
from bed.helm import Helm
from click.testing import CliRunner
from docs.manual import PAGES, ROOT, Block, commands, spans

from kubooth_cli.main import main


def lines(program: str) -> list[Any]:
    """Lines of blocks that run a program, each once, as the last part of a pipe too."""
    found: dict[str, Block] = {}
    for block, line in commands():
        for part in re.split(r"\s*(?:\||&&|;)\s*", re.sub(r"[\"']?\$\((.*?)\)[\"']?", r"\1", line)):
            part = part.removeprefix("eval ")
            if part.startswith(program):
                found.setdefault(part, block)
    return [pytest.param(line, id=f"{block}-{line[:40]}") for line, block in found.items()]


def inline(program: str) -> list[Any]:
    """The same of commands within sentences."""
    found = {text: page for page in PAGES for text in spans(page) if text.startswith(program)}
    return [pytest.param(text, id=f"{page.name}-{text[:40]}") for text, page in found.items()]


def resolve(arguments: list[str]) -> tuple[click.Command, list[str]]:
    """The command that a line names, through its groups, and what is left of the line."""
    command: click.Command = main
    while isinstance(command, click.Group) and arguments:
        found = command.get_command(click.Context(command), arguments[0])
        assert found is not None, f"kubooth has no command {arguments[0]}"
        command, arguments = found, arguments[1:]
    return command, arguments


def options(words: list[str]) -> set[str]:
    return {word.partition("=")[0] for word in words if re.match(r"--?[a-z]", word)}


def test_there_are_such_lines() -> None:
    assert len(lines("kubooth ")) > 20 and len(lines("helm ")) > 5 and len(lines("scripts/")) > 5


@pytest.mark.parametrize("line", lines("kubooth "))
def test_lines_of_kubooth_can_be_read(line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("job.yaml", "my-job.yaml"):
        (tmp_path / name).touch()
    (tmp_path / "rex").mkdir()
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    command, arguments = resolve(shlex.split(line)[1:])
    command.make_context("kubooth", arguments)


@pytest.mark.parametrize("line", inline("kubooth "))
def test_kubooth_within_sentences_has_such_options(line: str) -> None:
    arguments = [word for word in shlex.split(line)[1:] if word != "..." and word != "…"]
    if not arguments or arguments[0].isupper():  # kubooth COMMAND
        return
    if arguments[0].startswith("-"):
        command, rest = main, arguments
    else:
        command, rest = resolve(arguments)
    known = {form for each in command.get_params(click.Context(command)) for form in (*each.opts, *each.secondary_opts)}
    assert options(rest) <= known | {"-h", "--help"}


@pytest.mark.parametrize(
    "line", [each for each in (*lines("kubooth "), *inline("kubooth ")) if " explain" in each.values[0]]
)
def test_fields_that_are_explained_exist(line: str) -> None:
    done = CliRunner().invoke(main, shlex.split(line)[1:])
    assert done.exit_code == 0, done.output


@pytest.mark.parametrize(
    "line", [*lines("scripts/"), *(each for each in inline("scripts/") if (ROOT / each.values[0].split()[0]).is_file())]
)
def test_scripts_have_such_options(line: str) -> None:
    script, *arguments = shlex.split(line)
    shown = help_of(script)
    for option in options(arguments):
        if script in ("scripts/test", "scripts/soak", "scripts/docs", "scripts/quickstart") and option not in shown:
            continue  # pytest's, mkdocs' or kubooth run's, to which they are passed on
        assert re.search(rf"(?<![\w-]){re.escape(option)}(?![\w-])", shown), f"{script} has no {option}"


@cache
def help_of(script: str) -> str:
    done = subprocess.run([ROOT / script, "--help"], capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout, done.stderr
    return done.stdout


@pytest.mark.parametrize("line", [*lines("helm "), *inline("helm ")])
def test_helm_has_such_options(line: str, helm: Helm) -> None:
    arguments = shlex.split(line)[1:]
    names = [word for word in arguments if not word.startswith("-")]
    words = names[:2] if names[0] == "show" else names[:1]
    shown = helm(*words, "--help").stdout
    for option in options(arguments):
        assert re.search(rf"(?<![\w-]){re.escape(option)}(?![\w-])", shown), f"helm {words[0]} has no {option}"
    for chart in (name for name in names if name.startswith("charts/")):
        assert (ROOT / chart / "Chart.yaml").exists()
