"""`kubooth watch`: a job on the cluster as it gets on."""

from __future__ import annotations

import click

from kubooth_cli.cluster.complete import job_argument
from kubooth_cli.cluster.session import Session, on_cluster


@click.command(name="watch")
@job_argument
@on_cluster
async def watch_command(session: Session, name: str) -> int:
    """Watch job NAME until it has ended: bars per stage on a terminal, plain lines elsewhere.

    Ctrl-C ends the watching; the job goes on.

    Exit code: 0 if the job succeeded, 1 if it failed.
    """
    from kubooth_cli.cluster.watching import watch

    return await watch(session, name)
