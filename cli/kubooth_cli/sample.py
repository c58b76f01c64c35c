"""`kubooth sample MODEL "PROMPT"`: pictures from a trained model, on this machine."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click

from kubooth_cli.models import Model, ModelError, Transfer, Wish, find_model
from kubooth_trainer.errors import ExitCode, KuboothError

QUIET = {  # read by the libraries when they are imported: no network, no words of theirs
    "HF_HUB_OFFLINE": "1",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "TRANSFORMERS_VERBOSITY": "error",
    "DIFFUSERS_VERBOSITY": "error",
}


@click.command("sample", short_help="Make pictures with a trained model.")
@click.argument("model", metavar="MODEL")
@click.argument("prompt", metavar="PROMPT")
@click.option("-n", "--count", type=click.IntRange(1, 256), default=4, show_default=True, help="Pictures to make.")
@click.option(
    "-o", "--output", type=click.Path(dir_okay=False, path_type=Path), default=Path("grid.png"),
    show_default=True, help="The sheet with all of them (PNG).",
)  # fmt: skip
@click.option("--seed", type=click.IntRange(0, 2**32 - 1), default=0, show_default=True, help="Of the first picture.")
@click.option("--steps", type=click.IntRange(1, 1000), default=25, show_default=True, help="Steps of the sampler.")
@click.option("--guidance", type=click.FloatRange(min=1.0), help="Guidance scale. Default: the model's own, or 7.5.")
@click.option("--negative", default="", metavar="PROMPT", help="What the pictures should not show.")
@click.option("--separate", is_flag=True, help="Write each picture to a file of its own as well.")
def sample_command(
    model: str,
    prompt: str,
    count: int,
    output: Path,
    seed: int,
    steps: int,
    guidance: float | None,
    negative: str,
    separate: bool,
) -> None:
    """Make pictures with MODEL: an output folder or URI, a model folder, or the bundled small-world.

    In PROMPT, {identifier} and {class} stand for the subject of a trained model. The same seed gives the same
    pictures; the second one has the next seed, and so on.

    \b
    Example:
      kubooth sample out/ "a photo of {identifier} {class} on the beach" -n 4 -o grid.png
    """
    try:
        found = _found(model)
        wish = Wish(
            prompt=found.fill(prompt), count=count, seed=seed, steps=steps, guidance=guidance, negative=negative
        )  # fmt: skip
        for path in _draw(found, wish, output, separate=separate):
            click.echo(path)
    except (ModelError, KuboothError) as error:
        click.echo(f"error: {error}", err=True)
        raise click.exceptions.Exit(getattr(error, "exit_code", ExitCode.FIX_AND_RESUBMIT)) from error


def _found(given: str) -> Model:
    if not given.startswith("s3://"):
        return find_model(given, os.environ)
    with _bar("Fetching") as advance:
        return find_model(given, os.environ, advance)


def _draw(model: Model, wish: Wish, output: Path, *, separate: bool) -> Iterator[Path]:
    _make_room(output)
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    with _bar("Drawing") as advance:
        from kubooth_cli import pictures

        made = pictures.draw(model, wish, advance)
    pictures.save(pictures.grid(made), output)
    yield output
    for index, picture in enumerate(made if separate else []):
        path = output.with_name(f"{output.stem}-{wish.seed + index}.png")
        pictures.save(picture, path)
        yield path


def _make_room(output: Path) -> None:
    """Finds out before the work whether the result can be kept."""
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ModelError(f"{output}: cannot be written: {error.strerror}") from error
    if not os.access(output.parent, os.W_OK):
        raise ModelError(f"{output}: cannot be written: no right to write into its folder")


@contextmanager
def _bar(words: str) -> Iterator[Transfer]:
    """A bar on standard error, gone when it is done; nothing where that is no terminal."""
    if not sys.stderr.isatty():
        yield lambda done, total: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task(words, total=None)
        yield lambda done, total: progress.update(task, completed=done, total=total)
