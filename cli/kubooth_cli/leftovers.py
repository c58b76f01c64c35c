"""`kubooth leftovers`: work in a bucket that no job will go on with, and clearing it away."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

import click

from kubooth_cli import format as fmt
from kubooth_cli.cluster.buckets import endpoint_option, storage_at
from kubooth_cli.cluster.jobs import get_runtime, list_jobs
from kubooth_cli.cluster.output import show_value, table
from kubooth_cli.cluster.session import OK, CommandError, Session, on_cluster
from kubooth_cli.quantity import AGE

if TYPE_CHECKING:
    from kubooth_trainer.leftovers import Unfinished


@click.command(name="leftovers")
@click.argument("location", metavar="URI")
@click.option("-A", "--all-namespaces", is_flag=True, help="What jobs of all namespaces have left.")
@click.option("--delete", "delete_it", is_flag=True, help="Clear it away; without this it is only shown.")
@click.option(
    "--max-age", type=AGE, default="1d", show_default=True, metavar="TIME",
    help="Leave what was last written to within this time.",
)  # fmt: skip
@click.option("--runtime", default="default", show_default=True, metavar="NAME", help="Runtime whose store it is.")
@endpoint_option
@click.option("-o", "--output", "form", type=click.Choice(["json", "yaml"]), help="Form of the output.")
@on_cluster
async def leftovers_command(
    session: Session,
    location: str,
    all_namespaces: bool,
    delete_it: bool,
    max_age: float,
    runtime: str,
    endpoint: str | None,
    form: str | None,
) -> int:
    """Find checkpoints and parts of results that deleted jobs have left below the location URI.

    A job's checkpoints are its own as long as the job is there, suspended or failed: only what belongs to jobs that are
    no more is a leftover. Results are never touched, nor what kubooth run has left.

    Jobs of other clusters are not known here: clusters that share a bucket need a prefix each.

    \b
    Examples:
      kubooth leftovers s3://models/personalized/
      kubooth leftovers s3://models/personalized/ -A --max-age 7d --delete
    """
    if not location.startswith("s3://"):
        raise CommandError(f"leftovers are looked for in s3:// only, not in {location}")
    from kubooth_trainer.leftovers import clear, leftovers, survey

    storage = storage_at((await get_runtime(session, runtime)).get("spec") or {}, endpoint)
    found = await asyncio.to_thread(survey, storage, location)
    # Asked afterwards: whoever was made meanwhile is among them.
    uids = {job["metadata"]["uid"] for job in await list_jobs(session, everywhere=all_namespaces)}
    namespace = None if all_namespaces else session.namespace
    left = leftovers(found, namespace=namespace, job_uids=uids, before=time.time() - max_age)
    if delete_it:
        left = [work for work in left if await asyncio.to_thread(clear, storage, work)]
    _show(left, location, form, deleted=delete_it)
    return OK


def _show(left: list[Unfinished], location: str, form: str | None, *, deleted: bool) -> None:
    if form is not None:
        rows = [
            {"uri": work.uri, "what": work.what, "bytes": work.bytes, "files": len(work.entries), "job": _job_of(work)}
            for work in left
        ]
        show_value(form, rows)
        return
    if left:
        table(
            ["NAMESPACE", "JOB", "WHAT", "SIZE", "OUTPUT"],
            [[each.owner.namespace, each.owner.name, each.what, fmt.size(each.bytes), each.uri] for each in left],
        )
    size, verb = fmt.size(sum(work.bytes for work in left)), "cleared away" if deleted else "left by deleted jobs"
    click.echo(f"{size} {verb} below {location}", err=True)


def _job_of(work: Unfinished) -> dict[str, str | None]:
    """Whose it was."""
    return {"namespace": work.owner.namespace, "name": work.owner.name, "uid": work.owner.uid}
