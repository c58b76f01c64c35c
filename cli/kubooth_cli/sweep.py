"""`kubooth sweep SWEEP.yaml`: variants of one job, one after the other, each as `kubooth run` would run it.

What is finished is known by its manifest, so the same command goes on after a stop; class images come from the
cache that all runs share.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import click

from kubooth_cli.plan import PlanError, at_home
from kubooth_cli.run import run_plan, tell
from kubooth_cli.runner import LAUNCHER
from kubooth_cli.sweep_file import PlannedRun, SweepOptions, plan_sweep, read_sweep
from kubooth_trainer.errors import ExitCode, KuboothError
from kubooth_trainer.storage.files import os_failure

FILE = click.Path(exists=True, dir_okay=False, path_type=Path)
FOLDER = click.Path(file_okay=False, path_type=Path)
STOPS = (ExitCode.INTERRUPTED, ExitCode.TERMINATED)


@click.command("sweep")
@click.argument("sweep", type=FILE, metavar="SWEEP.yaml")
@click.option("--runtime", type=FILE, help="A PersonalizationRuntime; without it, a built-in local one.")
@click.option("--devices", type=click.IntRange(min=1), help="Ranks of each run. Default: all GPUs, or one CPU rank.")
@click.option("--output", type=FOLDER, help="Folder for all results. Default: NAME-results, here.")
@click.option("--workdir", type=FOLDER, help="Working folder with one for each run. Default: as for `kubooth run`.")
@click.option("--json", "as_json", is_flag=True, help="One event per line on standard output.")
@click.option("--keep-going", is_flag=True, help="Go on with the next run where one has failed.")
@click.pass_context
def sweep_command(
    ctx: click.Context,
    sweep: Path,
    runtime: Path | None,
    devices: int | None,
    output: Path | None,
    workdir: Path | None,
    as_json: bool,
    keep_going: bool,
) -> None:
    """Train the variants of a job that SWEEP.yaml lists, in its order, and put the results side by side.

    Everything is checked before anything starts. Ctrl-C saves and ends; the same command goes on: what is finished
    is skipped. Ends with a table, and with index.html, results.json and results.csv in the output folder.

    \b
    Example:
      kubooth sweep examples/ablations/sweep.yaml --output out/ablations
    """
    folder = at_home(output or Path(f"{sweep.stem}-results")).absolute()
    options = SweepOptions(output=folder, workdir=workdir, runtime=runtime, devices=devices)
    try:
        runs = plan_sweep(sweep, read_sweep(sweep), options)
        finished = {run.name for run in runs if _is_finished(run)}
    except PlanError as error:
        for sentence in error.sentences:
            click.echo(f"error: {sentence}", err=True)
        ctx.exit(ExitCode.FIX_AND_RESUBMIT)
    code = ExitCode.OK
    for number, run in enumerate(runs, 1):
        _say(run, number, len(runs), "skipped" if run.name in finished else "started", as_json=as_json)
        if run.name in finished:
            continue
        # `ctx.obj` is the seam of the tests, as in `kubooth run`.
        outcome = run_plan(run.plan, launcher=ctx.obj or LAUNCHER, as_json=as_json)
        if outcome.code is ExitCode.OK:
            finished.add(run.name)
            continue
        tell(outcome, as_json=as_json)
        code = code or outcome.code
        if outcome.code in STOPS or not keep_going:
            code = outcome.code
            break
    try:
        _conclude([run for run in runs if run.name in finished], sweep.stem, folder, as_json=as_json)
    except KuboothError as error:
        click.echo(f"error: {error}", err=True)
        code = code or error.exit_code
    except OSError as error:
        failure = os_failure(error, str(folder))
        click.echo(f"error: {failure}", err=True)
        code = code or failure.exit_code
    ctx.exit(code)


def _is_finished(run: PlannedRun) -> bool:
    """Whether its own result stands whole. Raises PlanError where something else is in its place."""
    from kubooth_trainer.claim import Identity
    from kubooth_trainer.publish import Destination, SameJobComplete, check_output
    from kubooth_trainer.storage import Storage

    config = run.plan.config
    destination = Destination(
        storage=Storage(config.storage),
        uri=config.output.uri,
        identity=Identity.of(config),
        overwrite=config.output.overwrite,
    )
    try:
        existing = check_output(destination)
    except KuboothError as error:
        raise PlanError([f"variant {run.variant}: {error}"]) from error
    if not isinstance(existing, SameJobComplete):
        return False
    if remark := existing.remark(config.model_dump(mode="json"), config.output.uri):
        click.secho(f"warning: {run.name}: {remark}", fg="yellow", err=True)
    return True


def _say(run: PlannedRun, number: int, total: int, state: str, *, as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps({"type": "run", "name": run.name, "number": number, "total": total, "state": state}))
    else:
        click.secho(f"{run.name} ({number} of {total}): {state}", bold=True)


def _conclude(runs: Sequence[PlannedRun], title: str, folder: Path, *, as_json: bool) -> None:
    """Page, JSON, CSV and table of what is finished."""
    if not runs:
        return
    from kubooth_cli import side_by_side as beside
    from kubooth_trainer.report_compare import render_comparison

    columns = [beside.published(run.plan.config.output.uri, name=run.name) for run in runs]
    page = render_comparison(columns, title=title, created=datetime.now(UTC))
    for name, text in (
        ("index.html", page), ("results.json", beside.as_json(columns)), ("results.csv", beside.as_csv(columns)),
    ):  # fmt: skip
        part = folder / f".{name}.part"
        part.write_text(text, encoding="utf-8")
        part.replace(folder / name)
    click.echo(f"\n{beside.table(columns)}\n\n{folder / 'index.html'}", err=as_json)
