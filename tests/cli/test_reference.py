"""docs/cli.md and the commands say the same: names, options, exit codes."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import click
import pytest

from kubooth_cli.cluster import session
from kubooth_cli.main import CLUSTER, COMMANDS, main

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "cli.md").read_text()
SECTIONS = dict(re.findall(r"^## (.*?)\n(.*?)(?=^## |\Z)", PAGE, re.MULTILINE | re.DOTALL))
SAID_ONCE = {"--kubeconfig", "--context", "--namespace", "--endpoint", "--output", "--open", "--set"}


def command(name: str) -> click.Command:
    found = main.get_command(click.Context(main), name)
    assert found is not None
    return found


def section(name: str) -> str:
    """The one that is about a command, alone or with another."""
    return next(text for title, text in SECTIONS.items() if name in title.split(" and "))


def options(name: str) -> set[str]:
    own = {form for each in command(name).params for form in (*each.opts, *each.secondary_opts) if form[0] == "-"}
    return own | {"--help", "-h"}


def test_the_table_has_every_command() -> None:
    assert re.findall(r"^\| \[`kubooth ([a-z]+)`\]", PAGE, re.MULTILINE) == list(COMMANDS)


@pytest.mark.parametrize("name", CLUSTER)
def test_every_option_is_in_the_docs_and_none_that_is_not(name: str) -> None:
    written = set(re.findall(r"(?<![\w-])(--?[a-z][a-z-]*)", section(name)))
    together = {each for each in CLUSTER if section(each) == section(name)}
    assert written - set().union(*(options(each) for each in together)) == set()
    for each in command(name).params:
        forms = {*each.opts, *each.secondary_opts}
        if each.param_type_name == "option" and not forms & SAID_ONCE:
            assert forms & written, f"{forms} of {name}"


@pytest.mark.parametrize("line", re.findall(r"^kubooth .*$", PAGE, re.MULTILINE))
def test_commands_of_the_docs_can_be_read(line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "job.yaml").touch()
    (tmp_path / "examples").symlink_to(Path(__file__).resolve().parents[2] / "examples")
    _, name, *arguments = shlex.split(line)
    command(name).make_context(name, arguments)


@pytest.mark.parametrize("name", COMMANDS)
def test_the_line_in_help_is_the_command_s(name: str) -> None:
    assert command(name).help


def test_exit_codes() -> None:
    table = {int(code) for code in re.findall(r"^\| (\d+) \|", SECTIONS["On a cluster"], re.MULTILINE)}
    assert table == {session.OK, session.FAILED, session.WRONG, session.UNAVAILABLE, session.NOT_ALLOWED, 130}
