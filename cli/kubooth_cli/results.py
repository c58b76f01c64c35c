"""`kubooth report` and `kubooth download`: what a job has made, from its bucket onto this machine."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import sys
import webbrowser
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from kubooth_cli import format as fmt
from kubooth_cli.cluster.buckets import endpoint_option, report_of, result_of
from kubooth_cli.cluster.complete import job_argument
from kubooth_cli.cluster.jobs import get_job, status_of
from kubooth_cli.cluster.session import OK, CommandError, Session, on_cluster
from kubooth_cli.published_report import or_published

if TYPE_CHECKING:
    from kubooth_trainer.publish import Manifest as ResultManifest
    from kubooth_trainer.storage import Storage


@click.command(name="report")
@job_argument
@click.option("--to", "target", type=click.Path(path_type=Path, dir_okay=False), help="File; else NAME-report.html.")
@click.option("--uri", is_flag=True, help="Only print where the report is.")
@click.option("--open", "open_it", is_flag=True, help="Show it in the browser.")
@click.option("--rebuild", is_flag=True, help="Of a folder or URI: make the page again from the published report.json.")
@endpoint_option
@or_published
@on_cluster
async def report_command(
    session: Session, name: str, target: Path | None, uri: bool, open_it: bool, endpoint: str | None
) -> int:
    """Fetch the report of job NAME: pictures and figures that show how good its model is.

    NAME may also be a result's folder or URI, with a / or : in it, such as ./out or s3://models/rex/; this needs no
    cluster. Where its page is missing, it is made again from what was published.
    """
    job = await get_job(session, name)
    where = (status_of(job).get("report") or {}).get("uri")
    if uri and where:
        click.echo(where)
        return OK
    storage, where = report_of(job, endpoint)
    path = target or Path(f"{name}-report.html")
    with _explained(path):
        await asyncio.to_thread(storage.download, where, path)
    click.echo(path)
    if open_it and not webbrowser.open(path.absolute().as_uri()):
        raise CommandError(f"no browser could be started: open {path} yourself")
    return OK


@click.command(name="download")
@job_argument
@click.option("--to", "target", type=click.Path(path_type=Path, file_okay=False), help="Folder; else NAME.")
@endpoint_option
@on_cluster
async def download_command(session: Session, name: str, target: Path | None, endpoint: str | None) -> int:
    """Download the result of job NAME: model, report and manifest, every file held against its digest.

    What is there already is kept, so the same command goes on after an interruption.
    """
    job = await get_job(session, name)
    storage, uri = result_of(job, endpoint)
    folder = target or Path(name)
    with _explained(folder):
        manifest = await asyncio.to_thread(_fetch, storage, uri, folder)
    click.echo(f"{folder}  ({len(manifest.files)} files, {fmt.size(manifest.total_bytes)}, digests are right)")
    return OK


@contextlib.contextmanager
def _explained(path: Path) -> Iterator[None]:
    """What this machine's disk refuses, in a sentence."""
    from kubooth_trainer.storage.files import os_failure

    try:
        yield
    except OSError as error:
        raise os_failure(error, str(error.filename or path)) from error


def _fetch(storage: Storage, uri: str, folder: Path) -> ResultManifest:
    """Raises CommandError where the folder is another's or a file is not what the manifest says, and StorageDeniedError
    where the manifest names a file outside of the folder: whoever may write to the bucket may write anything there."""
    from pydantic import ValidationError

    from kubooth_trainer.publish import MANIFEST
    from kubooth_trainer.publish import Manifest as ResultManifest

    raw = storage.read_bytes(storage.join(uri, MANIFEST))
    try:
        manifest = ResultManifest.model_validate_json(raw)
    except ValidationError:
        raise CommandError(f"{storage.join(uri, MANIFEST)} is not a manifest that this version can read") from None
    names = [file.name for file in manifest.files]
    for name in names:
        storage.join(uri, name)
    mark = folder / MANIFEST  # written first: says whose folder this is
    if folder.exists() and any(folder.iterdir()) and (not mark.is_file() or mark.read_bytes() != raw):
        raise CommandError(f"{folder} is not empty and holds something else: choose another with --to")
    folder.mkdir(parents=True, exist_ok=True)
    mark.write_bytes(raw)
    with click.progressbar(length=max(1, manifest.total_bytes), label=str(folder), hidden=not _is_seen()) as bar:

        def show(done: int, _: int) -> None:
            bar.update(done - bar.pos)

        storage.fetch_tree(uri, folder, names={*names, MANIFEST}, on_progress=show)
    for file in manifest.files:
        try:
            with (folder / file.name).open("rb") as opened:
                digest = hashlib.file_digest(opened, "sha256").hexdigest()
        except FileNotFoundError:
            raise CommandError(f"{storage.join(uri, file.name)} is missing: the result is not whole any more") from None
        if digest != file.sha256:
            (folder / file.name).unlink()
            raise CommandError(f"{file.name}: its SHA-256 is not the manifest's; it is removed, run the command again")
    return manifest


def _is_seen() -> bool:
    return sys.stdout.isatty()
