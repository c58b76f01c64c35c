"""`kubooth suspend` and `kubooth resume`: let a job give back its devices, and take it up again."""

from __future__ import annotations

import click

from kubooth_cli.cluster.complete import jobs_argument
from kubooth_cli.cluster.jobs import ENDED, get_job, phase_of
from kubooth_cli.cluster.output import is_for_programs, name_of, output_option, show
from kubooth_cli.cluster.session import OK, CommandError, Session, on_cluster
from kubooth_operator.kinds import JOB


@click.command(name="suspend")
@jobs_argument
@output_option()
@on_cluster
async def suspend_command(session: Session, names: tuple[str, ...], form: str | None) -> int:
    """Suspend the jobs NAME: they save a checkpoint and give back their devices."""
    return await _set(session, names, form, suspend=True)


@click.command(name="resume")
@jobs_argument
@output_option()
@on_cluster
async def resume_command(session: Session, names: tuple[str, ...], form: str | None) -> int:
    """Resume the suspended jobs NAME from their last checkpoint."""
    return await _set(session, names, form, suspend=False)


async def _set(session: Session, names: tuple[str, ...], form: str | None, *, suspend: bool) -> int:
    """Sets spec.suspend. Nothing is changed unless all jobs are there and have not ended."""
    from kubooth_operator.client import MERGE_PATCH

    verb = "suspended" if suspend else "resumed"
    for job in [await get_job(session, name) for name in names]:
        if phase_of(job) in ENDED:
            raise CommandError(f"job {job['metadata']['name']} has ended ({phase_of(job)}): it cannot be {verb}")
    changed = []
    for name in names:
        path = JOB.path(session.namespace, name)
        query = {"fieldManager": "kubooth"}
        changed.append(await session.api.patch(path, {"spec": {"suspend": suspend}}, MERGE_PATCH, query=query))
    if is_for_programs(form):
        show(form, changed, as_list=len(changed) > 1)
    else:
        for job in changed:
            click.echo(f"{name_of(job)} {verb}")
    return OK
