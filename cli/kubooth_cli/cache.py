"""`kubooth cache ls|gc`: what class images are kept for later jobs, and clearing them away."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import click

from kubooth_cli import format as fmt
from kubooth_cli.plan import output_uri
from kubooth_cli.quantity import AGE, SIZE
from kubooth_cli.workdir import prior_cache_uri
from kubooth_trainer.config import StorageConfig
from kubooth_trainer.errors import ConfigError, ExitCode, KuboothError
from kubooth_trainer.prior_shelf import Prior, about, clear, surplus, survey
from kubooth_trainer.storage import Storage


def _place(command: Any) -> Any:
    """The location and how it is reached: the same for all commands."""
    for option in (
        click.option("--json", "as_json", is_flag=True, help="One prior per line, as JSON, on standard output."),
        click.option("--region", metavar="NAME", help="Region of the bucket."),
        click.option("--endpoint", metavar="URL", help="S3 endpoint. Default: AWS_ENDPOINT_URL, or that of AWS."),
        click.argument("location", metavar="[DIR|URI]", required=False),
    ):
        command = option(command)
    return command


@click.group("cache", short_help="Show or clear kept class images.")
def cache_command() -> None:
    """Show and clear away the class images that are kept for later jobs.

    DIR or URI is the cache: a runtime's priorCache.uri, or a folder. Without it, your own, that `kubooth run` uses.
    Everything in a cache can be cleared away at any time: a job that misses it makes its class images again.
    """


@cache_command.command("ls", short_help="List the priors in a cache.")
@_place
def ls_command(location: str | None, endpoint: str | None, region: str | None, as_json: bool) -> None:
    """List the priors in a cache, the most recently used first.

    A prior is all class images of one model, prompt, sampler, resolution, precision and seed. USED says when it was
    last written to or taken from, to the hour.

    \b
    Examples:
      kubooth cache ls
      kubooth cache ls s3://bucket/prior-cache/
    """
    with _errors():
        storage, uri = _open(location, endpoint, region)
        priors = survey(storage, uri)
        _show(storage, uri, priors, as_json=as_json)
    if not as_json:
        click.echo(_total(priors, uri))


@cache_command.command("gc", short_help="Clear away what is old or too much.")
@_place
@click.option("--max-age", type=AGE, metavar="TIME", help="Clear priors not used for this long, as in 30d or 12h.")
@click.option("--max-size", type=SIZE, metavar="SIZE", help="Then clear the longest unused until this much is left.")
@click.option("--dry-run", is_flag=True, help="Only say what would be cleared away.")
def gc_command(
    location: str | None,
    endpoint: str | None,
    region: str | None,
    as_json: bool,
    max_age: float | None,
    max_size: float | None,
    dry_run: bool,
) -> None:
    """Clear away priors that were not used for long, and the longest unused ones of a cache that is too large.

    Only files of the cache are touched. Give at least one of --max-age and --max-size.

    \b
    Examples:
      kubooth cache gc --max-age 30d --max-size 10GB
      kubooth cache gc s3://bucket/prior-cache/ --max-size 500GB --dry-run
    """
    if max_age is None and max_size is None:
        raise click.UsageError("give --max-age, --max-size or both: nothing is cleared away without a limit")
    with _errors():
        storage, uri = _open(location, endpoint, region)
        priors = survey(storage, uri)
        limit = None if max_size is None else int(max_size)
        gone = surplus(priors, now=time.time(), max_age_seconds=max_age, max_bytes=limit)
        _show(storage, uri, gone, as_json=as_json)
        if not dry_run:
            clear(storage, uri, gone)
    if not as_json:
        verb = "would be cleared away" if dry_run else "cleared away"
        size = fmt.size(sum(prior.size for prior in gone))
        left = fmt.size(sum(prior.size for prior in priors) - sum(prior.size for prior in gone))
        click.echo(f"{_count(gone)}, {size}, {verb}; {left} left in {fmt.plain_path(uri)}")


def _open(location: str | None, endpoint: str | None, region: str | None) -> tuple[Storage, str]:
    uri = output_uri(location) if location else prior_cache_uri(os.environ)
    return Storage(StorageConfig(endpoint=endpoint, region=region)), uri


@contextmanager
def _errors() -> Iterator[None]:
    try:
        yield
    except KuboothError as error:
        click.echo(f"error: {error}", err=True)
        code = ExitCode.FIX_AND_RESUBMIT if isinstance(error, ConfigError) else error.exit_code
        raise click.exceptions.Exit(code) from error


def _show(storage: Storage, uri: str, priors: list[Prior], *, as_json: bool) -> None:
    rows = [(prior, about(storage, uri, prior)) for prior in priors]
    if as_json:
        for prior, said in rows:
            line = {
                "key": prior.key, "scope": prior.scope, "images": prior.images, "bytes": prior.size,
                "used": prior.used, "about": said,
            }  # fmt: skip
            click.echo(json.dumps(line))
    elif rows:
        from rich import box
        from rich.console import Console
        from rich.table import Table

        table = Table("KEY", "SCOPE", "IMAGES", "SIZE", "USED", "PROMPT", box=box.SIMPLE_HEAD, pad_edge=False)
        for prior, said in rows:
            ago = f"{fmt.duration(max(0.0, time.time() - prior.used))} ago"
            prompt = _printable(str(said.get("prompt", "")))
            cells = (prior.key[:12], _printable(prior.scope), str(prior.images), fmt.size(prior.size), ago, prompt)
            table.add_row(*(_plain(cell) for cell in cells))
        width = None if sys.stdout.isatty() else 160
        Console(file=sys.stdout, width=width, highlight=False).print(table)


def _plain(text: str) -> Any:
    from rich.text import Text

    return Text(text)


def _printable(text: str) -> str:
    """Text from a shared place, without anything that a terminal would act on."""
    return "".join(letter if letter.isprintable() else "?" for letter in text)


def _total(priors: list[Prior], uri: str) -> str:
    images = sum(prior.images for prior in priors)
    size = fmt.size(sum(prior.size for prior in priors))
    return f"{_count(priors)}, {images:,} images, {size} in {fmt.plain_path(uri)}"


def _count(priors: list[Prior]) -> str:
    return f"{len(priors):,} prior{'s' * (len(priors) != 1)}"
