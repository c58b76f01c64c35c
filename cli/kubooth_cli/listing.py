"""`kubooth list`: the jobs of a namespace, or of all."""

from __future__ import annotations

from typing import Any

import click

from kubooth_cli.cluster.jobs import list_jobs, phase_of, status_of
from kubooth_cli.cluster.output import is_for_programs, output_option, show, table
from kubooth_cli.cluster.session import OK, Session, on_cluster
from kubooth_cli.cluster.times import age

Manifest = dict[str, Any]


@click.command(name="list")
@click.option("-A", "--all-namespaces", is_flag=True, help="Jobs of all namespaces.")
@click.option("-l", "--selector", metavar="LABELS", help="Only jobs with these labels, as in -l team=blue.")
@output_option("wide")
@on_cluster
async def list_command(session: Session, all_namespaces: bool, selector: str | None, form: str | None) -> int:
    """List the jobs of a namespace, with phase, progress and time left."""
    jobs = await list_jobs(session, everywhere=all_namespaces, selector=selector)
    if is_for_programs(form):
        show(form, jobs, as_list=True)
    elif not jobs:
        click.echo("no jobs" if all_namespaces else f"no jobs in namespace {session.namespace}", err=True)
    else:
        header = ["NAME", "PHASE", "METHOD", "PROGRESS", "ETA", "AGE"]
        header = [*(["NAMESPACE"] if all_namespaces else []), *header]
        if form == "wide":
            header += ["LOSS", "OUTPUT", "REASON"]
        table(header, [[_cell(job, column) for column in header] for job in jobs])
    return OK


def _cell(job: Manifest, column: str) -> str:
    status, meta = status_of(job), job["metadata"]
    progress = status.get("progress") or {}
    match column:
        case "NAMESPACE" | "NAME":
            return str(meta[column.lower()])
        case "PHASE":
            return phase_of(job)
        case "METHOD":
            return str(job["spec"].get("method", ""))
        case "PROGRESS":
            return str(progress.get("summary", ""))
        case "ETA":
            return str(progress.get("eta", ""))
        case "AGE":
            return age(meta["creationTimestamp"])
        case "LOSS":
            return f"{progress['loss']:.4f}" if "loss" in progress else ""
        case "OUTPUT":
            return str((status.get("output") or {}).get("uri", ""))
        case _:
            return str(status.get("reason", ""))
