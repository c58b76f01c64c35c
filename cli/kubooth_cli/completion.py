"""`kubooth completion`, and what kubectl asks of a plugin that completes: the same completions in kubectl's form."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Final

import click
from click.shell_completion import ShellComplete, get_completion_class

SHELLS: Final = ("bash", "zsh", "fish")
_NO_FILES: Final = ":4"  # cobra's directive: what was printed is all there is
_FILES: Final = ":0"


@click.command(name="completion")
@click.argument("shell", type=click.Choice(SHELLS))
@click.pass_context
def completion_command(context: click.Context, shell: str) -> None:
    """Print what SHELL needs to complete commands, options and names of jobs.

    \b
    bash: echo 'eval "$(kubooth completion bash)"' >> ~/.bashrc
    zsh:  echo 'eval "$(kubooth completion zsh)"' >> ~/.zshrc
    fish: kubooth completion fish > ~/.config/fish/completions/kubooth.fish
    """
    found = get_completion_class(shell)
    assert found is not None
    click.echo(found(context.find_root().command, {}, "kubooth", "_KUBOOTH_COMPLETE").source())


class _ForKubectl(ShellComplete):
    """`kubectl_complete-kubooth WORD... INCOMPLETE`, as kubectl calls it: a completion a line, then a directive."""

    name = "kubectl"

    def get_completion_args(self) -> tuple[list[str], str]:
        *before, incomplete = sys.argv[1:] or [""]
        return before, incomplete


def kubectl_complete() -> None:
    """The programs `kubectl_complete-kubooth` and `kubectl_complete-pjob`."""
    from kubooth_cli.main import main

    args, incomplete = (completer := _ForKubectl(main, {}, Path(sys.argv[0]).name, "")).get_completion_args()
    found = completer.get_completions(args, incomplete)
    for item in found:
        if item.type == "plain":
            click.echo(f"{item.value}\t{item.help}" if item.help else item.value)
    click.echo(_FILES if any(item.type in ("file", "dir") for item in found) else _NO_FILES)
