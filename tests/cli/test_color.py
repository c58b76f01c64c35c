"""NO_COLOR: no colour from click either, also on a terminal."""

from __future__ import annotations

import click
import pytest
from click.testing import CliRunner

from kubooth_cli.main import main


@click.command("shout")
def shout() -> None:
    click.secho("in colour", fg="red")


@pytest.mark.parametrize(("said", "shown"), [({}, "\x1b[31min colour\x1b[0m\n"), ({"NO_COLOR": "1"}, "in colour\n")])
def test_no_color(said: dict[str, str], shown: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setattr(type(main), "get_command", lambda self, context, name: shout)
    assert CliRunner(env=said).invoke(main, ["shout"], color=True).output == shown
