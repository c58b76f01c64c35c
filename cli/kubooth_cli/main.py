"""The `kubooth` command. A subcommand's module is imported only when it is called: `--help` is instant."""

from __future__ import annotations

import importlib
from typing import Any

import click

COMMANDS: dict[str, tuple[str, str]] = {  # name: where its click command is, its line in --help
    "run": ("kubooth_cli.run:run_command", "Train a job on this machine."),
    "sample": ("kubooth_cli.sample:sample_command", "Make pictures with a trained model."),
    "cache": ("kubooth_cli.cache:cache_command", "Show or clear kept class images."),
    "validate": ("kubooth_cli.validate:validate_command", "Check job and runtime files."),
    "explain": ("kubooth_cli.explain:explain_command", "Describe a field of a job or runtime."),
}


class LazyGroup(click.Group):
    """A group that knows its commands by name and one line, and imports a command when it is asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module, _, attribute = COMMANDS[cmd_name][0].partition(":")
        command: click.Command = getattr(importlib.import_module(module), attribute)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, line) for name, (_, line) in COMMANDS.items()])

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            click.echo("", err=True)
            raise click.exceptions.Exit(130) from None


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="kubooth", prog_name="kubooth", message="%(prog)s %(version)s")
def main() -> None:
    """Teach a text-to-image model your subject, from three to five photos.

    Start with `kubooth run job.yaml`.
    """


if __name__ == "__main__":
    main()
