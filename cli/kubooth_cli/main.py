"""The `kubooth` command. A subcommand's module is imported only when it is called: `--help` is instant."""

from __future__ import annotations

import importlib
import os
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

LOCAL: dict[str, tuple[str, str]] = {  # name: where its click command is, its line in --help
    "run": ("kubooth_cli.run:run_command", "Train a job on this machine."),
    "sweep": ("kubooth_cli.sweep:sweep_command", "Train variants of a job, one after the other."),
    "compare": ("kubooth_cli.compare:compare_command", "Put results side by side."),
    "sample": ("kubooth_cli.sample:sample_command", "Make pictures with a trained model."),
    "cache": ("kubooth_cli.cache:cache_command", "Show or clear kept class images."),
    "validate": ("kubooth_cli.validate:validate_command", "Check job and runtime files."),
    "explain": ("kubooth_cli.explain:explain_command", "Describe a field of a job or runtime."),
    "completion": ("kubooth_cli.completion:completion_command", "Print a shell's completion script."),
}
CLUSTER: dict[str, tuple[str, str]] = {
    "submit": ("kubooth_cli.submit:submit_command", "Upload photos, make a job, watch it."),
    "list": ("kubooth_cli.listing:list_command", "List jobs."),
    "watch": ("kubooth_cli.watch:watch_command", "Watch a job until it has ended."),
    "logs": ("kubooth_cli.logs:logs_command", "Show the logs of all pods of a job."),
    "describe": ("kubooth_cli.describe:describe_command", "Describe a job."),
    "suspend": ("kubooth_cli.suspend:suspend_command", "Save and stop jobs; they give back their devices."),
    "resume": ("kubooth_cli.suspend:resume_command", "Take suspended jobs up again."),
    "report": ("kubooth_cli.results:report_command", "Fetch the report of a job."),
    "download": ("kubooth_cli.results:download_command", "Download the result of a job."),
    "cost": ("kubooth_cli.cost:cost_command", "Show device time and cost of jobs."),
    "leftovers": ("kubooth_cli.leftovers:leftovers_command", "Find and clear what deleted jobs have left."),
    "doctor": ("kubooth_cli.doctor:doctor_command", "Find what is wrong with an installation."),
}
COMMANDS = LOCAL | CLUSTER


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
        for title, commands in (("On this machine", LOCAL), ("On a cluster", CLUSTER)):
            with formatter.section(title):
                formatter.write_dl([(name, line) for name, (_, line) in commands.items()])

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        from click.shell_completion import CompletionItem

        if incomplete.startswith("-"):
            return click.Command.shell_complete(self, ctx, incomplete)
        return [CompletionItem(name, help=line) for name, (_, line) in COMMANDS.items() if name.startswith(incomplete)]

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            click.echo("", err=True)
            raise click.exceptions.Exit(130) from None


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="kubooth", prog_name="kubooth", message="%(prog)s %(version)s")
@click.pass_context
def main(context: click.Context) -> None:
    """Teach a text-to-image model your subject, from three to five photos.

    Start with `kubooth run job.yaml` on this machine, or with `kubooth submit job.yaml` on a cluster.
    """
    if os.environ.get("NO_COLOR"):  # rich heeds it, click does not
        context.color = False


if __name__ == "__main__":
    main()
