"""`kubooth cost`: how long jobs held devices, and what that costs where their runtime gives a price."""

from __future__ import annotations

import time
from collections import defaultdict
from dataclasses import asdict, dataclass
from typing import Any

import click

from kubooth_cli import format as fmt
from kubooth_cli.cluster.complete import optional_jobs_argument
from kubooth_cli.cluster.jobs import get_job, list_jobs, runtime_spec, status_of
from kubooth_cli.cluster.output import output_option, show_value, table
from kubooth_cli.cluster.session import OK, Session, on_cluster
from kubooth_cli.cluster.times import unix

Manifest = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Cost:
    """What one job has used. `cost` is None where its runtime gives no price."""

    namespace: str
    name: str
    device_seconds: float
    cost: float | None
    currency: str | None


@click.command(name="cost")
@optional_jobs_argument
@click.option("-A", "--all-namespaces", is_flag=True, help="Jobs of all namespaces.")
@click.option("-l", "--selector", metavar="LABELS", help="Only jobs with these labels.")
@output_option()
@on_cluster
async def cost_command(
    session: Session, names: tuple[str, ...], all_namespaces: bool, selector: str | None, form: str | None
) -> int:
    """Show device time and cost of the jobs NAME, or of all jobs, with their sum.

    An attempt that runs counts up to now. The price is that of the runtime when the job was accepted.
    """
    if names and (all_namespaces or selector):
        raise click.UsageError("give names of jobs, or choose them by -A and -l: not both")
    if names:
        jobs = [await get_job(session, name) for name in names]
    else:
        jobs = await list_jobs(session, everywhere=all_namespaces, selector=selector)
    costs = [cost_of(job, time.time()) for job in jobs]
    if form == "name":
        for each in costs:
            click.echo(each.name)
    elif form:
        show_value(form, [asdict(each) for each in costs])
    else:
        lead = ["NAMESPACE"] if all_namespaces else []
        rows = [[each.namespace][: len(lead)] + _row(each.name, each) for each in costs]
        rows += [[""][: len(lead)] + _row("total", total) for total in _totals(costs)]
        table([*lead, "NAME", "DEVICE TIME", "COST"], rows)
    return OK


def cost_of(job: Manifest, now: float) -> Cost:
    """`now` is in Unix seconds."""
    status, runtime = status_of(job), runtime_spec(job)
    seconds = float(status.get("deviceSeconds") or 0.0)
    attempt = status.get("attempt") or {}
    ready = unix(attempt.get("readyTime"))
    if ready is not None and not attempt.get("endTime"):
        parallelism = (status.get("resolved") or {}).get("parallelism") or {}
        devices = int(parallelism.get("nodes") or 1) * int(parallelism.get("devicesPerNode") or 1)
        seconds += devices * max(0.0, now - ready)
    price = runtime.get("price")
    return Cost(
        namespace=job["metadata"]["namespace"],
        name=job["metadata"]["name"],
        device_seconds=round(seconds, 3),
        cost=round(seconds / 3600 * float(price["perDeviceHour"]), 4) if price else None,
        currency=str(price.get("currency", "USD")) if price else None,
    )


def _totals(costs: list[Cost]) -> list[Cost]:
    """One sum for each currency, and one for what has no price."""
    by_currency: dict[str | None, list[Cost]] = defaultdict(list)
    for each in costs:
        by_currency[each.currency].append(each)
    return [
        Cost(
            namespace="",
            name="total",
            device_seconds=sum(each.device_seconds for each in group),
            cost=None if currency is None else sum(each.cost or 0.0 for each in group),
            currency=currency,
        )
        for currency, group in by_currency.items()
    ]


def _row(name: str, cost: Cost) -> list[str]:
    money = "no price" if cost.cost is None else f"{cost.cost:.2f} {cost.currency}"
    return [name, fmt.duration(cost.device_seconds), money]
