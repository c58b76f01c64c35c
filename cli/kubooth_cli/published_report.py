"""The report of a result in a folder or at a URI, as it was published or made again. Called by `results`."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import click

from kubooth_trainer.errors import KuboothError

PAGE = "report.html"


def or_published(command: Callable[..., None]) -> Callable[..., None]:
    """Takes a folder or URI in place of a job's name: what holds a `/` or a `:`, which no name does."""

    @functools.wraps(command)
    def run(*, name: str, target: Path | None, uri: bool, rebuild: bool, **options: Any) -> None:
        if "/" not in name and ":" not in name and name not in (".", ".."):
            if rebuild:
                raise click.UsageError("--rebuild is for a folder or URI: the report of a job is fetched as it is")
            command(name=name, target=target, uri=uri, **options)
            return
        try:
            found = _report(name, target, options["endpoint"], only_where=uri, rebuild=rebuild)
        except KuboothError as error:
            click.echo(f"kubooth report: {error}", err=True)
            raise click.exceptions.Exit(error.exit_code) from error
        except OSError as error:
            click.echo(f"kubooth report: {error.filename or target}: {error.strerror}", err=True)
            raise click.exceptions.Exit(2) from error
        click.echo(found)
        if options["open_it"] and click.launch(found) != 0:
            click.echo(f"kubooth report: no browser could be started: open {found} yourself", err=True)
            raise click.exceptions.Exit(2)

    return run


def _report(given: str, target: Path | None, endpoint: str | None, *, only_where: bool, rebuild: bool) -> str:
    """The path (or the URI, `only_where`) of the page. Raises KuboothError, OSError."""
    from kubooth_cli.side_by_side import published, store
    from kubooth_trainer.report import render_report

    storage, uri = store(given, endpoint)
    page = storage.join(uri, PAGE)
    there = storage.exists(page)
    if only_where and there:
        return page
    local = storage.local_path(page)
    if there and not rebuild:
        if local is not None and target is None:
            return str(local)
        path = target or _default_target(uri)
        storage.download(page, path)
        return str(path)
    path = target or _default_target(uri)
    path.write_text(render_report(published(given, endpoint=endpoint).report), encoding="utf-8")
    return str(path)


def _default_target(uri: str) -> Path:
    parts = urlsplit(uri)
    return Path(f"{parts.path.rstrip('/').rsplit('/', 1)[-1] or parts.netloc}-report.html")
