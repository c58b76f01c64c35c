"""`kubooth compare`: results of finished jobs side by side, as one page and one table."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import click

from kubooth_trainer.errors import ExitCode, KuboothError


@click.command(name="compare")
@click.argument("results", nargs=-1, required=True, metavar="RESULT...")
@click.option(
    "--to", "page", type=click.Path(dir_okay=False, path_type=Path), default=Path("compare.html"),
    show_default=True, help="The page to write.",
)  # fmt: skip
@click.option("-o", "--output", "form", type=click.Choice(["text", "json"]), default="text", show_default=True)
@click.pass_context
def compare_command(context: click.Context, results: tuple[str, ...], page: Path, form: str) -> None:
    """Put the RESULTs of jobs side by side: output folders or URIs with a manifest.json.

    Writes one page with figures, the settings that differ, and pictures of equal prompts, and prints the figures.

    \b
    Example:
      kubooth compare outputs/rex s3://models/rex-long/ --to rex.html
    """
    from kubooth_cli.side_by_side import as_json, published, table
    from kubooth_trainer.report_compare import render_comparison

    wrong: list[KuboothError] = []
    columns = []
    for given in results:
        try:
            columns.append(published(given))
        except KuboothError as error:
            wrong.append(error)
            click.echo(f"error: {error}", err=True)
    if wrong:
        context.exit(wrong[0].exit_code)
    try:
        page.parent.mkdir(parents=True, exist_ok=True)
        page.write_text(render_comparison(columns, title="Compared", created=datetime.now(UTC)), encoding="utf-8")
    except OSError as error:
        click.echo(f"error: --to: {page}: cannot be written: {error.strerror}", err=True)
        context.exit(ExitCode.FIX_AND_RESUBMIT)
    if form == "json":
        click.echo(as_json(columns), nl=False)
    else:
        click.echo(f"{table(columns)}\n\n{page}")
