"""`kubooth run JOB.yaml`: the cluster's job on this machine. Composition only: see `plan`, `runner`, `outcome`."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import click

from kubooth_cli import outcome as words
from kubooth_cli.outcome import Outcome
from kubooth_cli.plan import Plan, PlanError, Request, make_plan
from kubooth_cli.presenter import Presenter, Run
from kubooth_cli.runner import LAUNCHER, run_launcher
from kubooth_cli.workdir import LOG_NAME, WorkdirBusyError, locked, write_config
from kubooth_trainer.errors import ExitCode
from kubooth_trainer.storage.files import os_failure

FILE = click.Path(exists=True, dir_okay=False, path_type=Path)


@click.command("run", short_help="Train a job on this machine.")
@click.argument("job", type=FILE, metavar="JOB.yaml")
@click.option("--runtime", type=FILE, help="A PersonalizationRuntime; without it, a built-in local one.")
@click.option("--devices", type=click.IntRange(min=1), help="Ranks to start. Default: all GPUs, or one CPU rank.")
@click.option("--set", "overrides", multiple=True, metavar="FIELD=VALUE", help="Override a field; repeatable.")
@click.option("--output", metavar="DIR|URI", help="Write the result here instead of the job's output.uri.")
@click.option(
    "--workdir",
    type=click.Path(file_okay=False, path_type=Path),
    help="Working folder: checkpoints, caches, log. Default: one per job and settings, in the cache folder.",
)
@click.option(
    "--prior-cache/--no-prior-cache",
    default=True,
    help="Share class images with other runs of the same prior. Default: do, in the runtime's cache or your own.",
)
@click.option("--json", "as_json", is_flag=True, help="One event per line on standard output.")
@click.option("--verbose", is_flag=True, help="Show the library log as well.")
@click.option("--dry-run", is_flag=True, help="Print the resolved configuration and stop.")
@click.pass_context
def run_command(
    ctx: click.Context,
    job: Path,
    runtime: Path | None,
    devices: int | None,
    overrides: tuple[str, ...],
    output: str | None,
    workdir: Path | None,
    prior_cache: bool,
    as_json: bool,
    verbose: bool,
    dry_run: bool,
) -> None:
    """Train the model that JOB.yaml describes, with this machine's GPUs or its CPU.

    Ctrl-C saves a checkpoint; the same command then goes on from there. The exit code says what to do about a
    failure: 2 fix the job, 70 or 75 try again, 130 or 143 stopped.

    \b
    Examples:
      kubooth run job.yaml
      kubooth run job.yaml --set training.steps=50 --output out/
    """
    request = Request(
        job=job, runtime=runtime, devices=devices, overrides=overrides, output=output, workdir=workdir,
        prior_cache=prior_cache,
    )  # fmt: skip
    plan = _planned(request)
    if dry_run:
        _print_config(plan)
        return
    # `ctx.obj` is the seam of the tests: a command line that stands in for the launcher.
    outcome = run_plan(plan, launcher=ctx.obj or LAUNCHER, as_json=as_json, verbose=verbose)
    tell(outcome, as_json=as_json)
    ctx.exit(outcome.code)


def _planned(request: Request) -> Plan:
    try:
        return make_plan(request)
    except PlanError as error:
        for sentence in error.sentences:
            _error(sentence)
        raise click.exceptions.Exit(ExitCode.FIX_AND_RESUBMIT) from error


def run_plan(plan: Plan, *, launcher: Sequence[str], as_json: bool, verbose: bool = False) -> Outcome:
    """Trains, with progress on the terminal. Raises click's Exit where the working folder cannot be used."""
    try:
        with locked(plan.workdir) as lock:
            run = Run(
                config=plan.config,
                devices=plan.devices,
                workdir=plan.workdir,
                config_path=write_config(plan.workdir, plan.config),
                log_path=plan.workdir / LOG_NAME,
            )
            presenter = _presenter(as_json=as_json)
            return run_launcher(run, presenter, launcher=launcher, lock=lock, verbose=verbose)
    except WorkdirBusyError as error:
        _error(str(error))
        code = ExitCode.RETRY
    except OSError as error:
        failure = os_failure(error, str(error.filename or plan.workdir))
        _error(str(failure))
        code = failure.exit_code
    raise click.exceptions.Exit(code)


def _presenter(*, as_json: bool) -> Presenter:
    if as_json:
        from kubooth_cli.jsonlines import Json

        return Json(sys.stdout, sys.stderr)
    if sys.stdout.isatty() and os.environ.get("TERM") != "dumb":
        from rich.console import Console

        from kubooth_cli.bars import Bars

        return Bars(Console(highlight=False))
    from kubooth_cli.lines import Lines

    return Lines(sys.stdout)


def tell(outcome: Outcome, *, as_json: bool) -> None:
    """The last words of a run."""
    with suppress(OSError):
        if outcome.code is ExitCode.OK:
            heading, *rest = words.success(outcome)
            click.secho(heading, bold=True, err=as_json)
            click.echo("\n".join(rest), err=as_json)
        else:
            command = shlex.join(["kubooth", *sys.argv[1:]])
            click.echo("\n".join(words.failure(outcome, command)), err=True)
    _give_up_closed_streams()


def _give_up_closed_streams() -> None:
    """Where nobody reads any more, the exit code still tells; Python's flush at exit must not change it."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def _print_config(plan: Plan) -> None:
    import yaml

    click.echo(yaml.safe_dump(plan.config.model_dump(mode="json"), sort_keys=False, width=100), nl=False)


def _error(text: str) -> None:
    click.echo(f"error: {text}", err=True)
