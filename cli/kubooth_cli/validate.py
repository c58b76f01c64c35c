"""`kubooth validate`: says what is wrong with job and runtime files before anything runs."""

from __future__ import annotations

import json
from pathlib import Path

import click

from kubooth_operator.api import (
    FieldError,
    PersonalizationJob,
    PersonalizationRuntime,
    SpecError,
    load_any,
    load_runtime,
)
from kubooth_operator.resolve import Target, resolve
from kubooth_operator.supported import unsupported
from kubooth_trainer.errors import ExitCode


@click.command(name="validate")
@click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="FILE...")
@click.option(
    "--runtime",
    "runtime_file",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Also hold each job against this runtime: its catalogue, defaults and limits.",
)
@click.option(
    "--set",
    "overrides",
    multiple=True,
    metavar="FIELD=VALUE",
    help="Set a field of the jobs first, as in --set training.steps=50. Can be given again.",
)
@click.option(
    "-o",
    "--output",
    "form",
    type=click.Choice(["text", "json"]),
    default="text",
    show_default=True,
    help="text: a line for each error. json: a list with file, ok and errors.",
)
@click.pass_context
def validate_command(
    context: click.Context, files: tuple[Path, ...], runtime_file: Path | None, overrides: tuple[str, ...], form: str
) -> None:
    """Check job and runtime FILEs.

    Prints "FILE: ok", or everything that is wrong, each with its field. What a cluster would refuse is refused in
    the same words. Reads the files and nothing else: photos and models are looked at when the job runs.

    Exit code: 0 if all is well, 2 if a file has to be mended.

    \b
    Examples:
      kubooth validate job.yaml
      kubooth validate job.yaml --runtime runtime.yaml
      kubooth validate *.yaml -o json
    """
    runtime: PersonalizationRuntime | None = None
    found: dict[str, tuple[FieldError, ...]] = {}
    if runtime_file is not None:
        try:
            runtime = load_runtime(runtime_file)
        except SpecError as error:
            found[str(runtime_file)] = error.errors
    for file in files:
        found[str(file)] = found.get(str(file)) or _errors(file, runtime, overrides)
    if form == "json":
        click.echo(json.dumps([_as_json(name, errors) for name, errors in found.items()], indent=2))
    else:
        for name, errors in found.items():
            for line in errors or ("ok",):
                click.echo(f"{name}: {line}")
    context.exit(ExitCode.FIX_AND_RESUBMIT if any(found.values()) else ExitCode.OK)


def _errors(file: Path, runtime: PersonalizationRuntime | None, overrides: tuple[str, ...]) -> tuple[FieldError, ...]:
    try:
        loaded = load_any(file, overrides=overrides)
        if not isinstance(loaded, PersonalizationJob):
            return ()
        if runtime is None:
            return tuple(unsupported(loaded.spec))
        resolve(loaded, runtime, _target(file, loaded))
    except SpecError as error:
        return error.errors
    return ()


def _target(file: Path, job: PersonalizationJob) -> Target:
    """Where the job would run: enough to resolve it, nothing is made there."""
    return Target(
        workdir="/nowhere",
        checkpoints_uri="file:///nowhere/checkpoints",
        base_uri=file.absolute().parent.as_uri() + "/",
        devices=None,
        output=None,
        attempt=0,
        namespace=job.metadata.namespace or "default",
    )


def _as_json(file: str, errors: tuple[FieldError, ...]) -> dict[str, object]:
    return {
        "file": file,
        "ok": not errors,
        "errors": [{"path": error.path, "message": error.message} for error in errors],
    }
