"""`kubooth describe`: all there is to know about a job on the cluster, for a person."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from typing import Any

import click

from kubooth_cli import format as fmt
from kubooth_cli.cluster.complete import job_argument
from kubooth_cli.cluster.jobs import get_job, phase_of, pods_of, status_of
from kubooth_cli.cluster.output import is_for_programs, output_option, show
from kubooth_cli.cluster.session import OK, Session, on_cluster
from kubooth_cli.cluster.times import age, unix

Manifest = dict[str, Any]
_LABEL = 13
_WIDTH = 110
_EVENTS = "/api/v1/namespaces/{}/events"


@click.command(name="describe")
@job_argument
@output_option()
@on_cluster
async def describe_command(session: Session, name: str, form: str | None) -> int:
    """Describe job NAME: where it stands and why, its stages, its pods, its result, and what happened to it."""
    job = await get_job(session, name)
    if is_for_programs(form):
        show(form, [job], as_list=False)
        return OK
    for line in _lines(job, await _pods(session, job), await _events(session, job)):
        click.echo(line.rstrip())
    return OK


async def _pods(session: Session, job: Manifest) -> list[Manifest]:
    """Those of the newest attempt; none where the caller may not see them."""
    from kubooth_operator.client import RefusedError

    try:
        return await pods_of(session, job, int(status_of(job).get("attempts") or 0) or None)
    except RefusedError as error:
        if error.status != 403:
            raise
        return []


async def _events(session: Session, job: Manifest) -> list[Manifest]:
    """What happened to the job, oldest first; none where the caller may not see it."""
    from kubooth_operator.client import RefusedError

    query = {"fieldSelector": f"involvedObject.uid={job['metadata']['uid']}"}
    try:
        found: list[Manifest] = (await session.api.get(_EVENTS.format(session.namespace), query=query))["items"]
    except RefusedError:
        return []
    return sorted(found, key=_time_of)


def _time_of(event: Manifest) -> str:
    return str(event.get("eventTime") or event.get("lastTimestamp") or event["metadata"]["creationTimestamp"])


def _lines(job: Manifest, pods: list[Manifest], events: list[Manifest]) -> Iterator[str]:
    meta, spec, status = job["metadata"], job["spec"], status_of(job)
    snapshot, model = status.get("runtimeSnapshot") or {}, spec["model"]
    yield from _fact("Name", f"{meta['name']} in namespace {meta['namespace']}, {age(meta['creationTimestamp'])} old")
    yield from _fact("Phase", phase_of(job) + (f" ({status['reason']})" if status.get("reason") else ""))
    yield from _fact("Message", status.get("message"))
    noun = status.get("className") or spec["subject"]["className"]
    yield from _fact("Subject", f"{noun}, photos {spec['subject']['images']}")
    yield from _fact("Identifier", status.get("identifier"))
    yield from _fact("Model", model.get("uri") or model.get("name"))
    yield from _fact("Runtime", snapshot.get("name") or (spec.get("runtimeRef") or {}).get("name"))
    yield from _fact("Progress", _progress(status))
    yield from _fact("Checkpoint", _checkpoint(status))
    yield from _fact("Attempts", _attempts(status))
    yield from _fact("Output", (status.get("output") or {}).get("uri") or spec["output"]["uri"])
    yield from _fact("Report", (status.get("report") or {}).get("uri"))
    if status.get("stages"):
        yield ""
        yield "Stages:"
        for stage in status["stages"]:
            yield f"  {stage['name']:<10}{stage['state']:<11}{_stage(stage)}"
    if status.get("conditions"):
        yield ""
        yield "Conditions:"
        for each in status["conditions"]:
            since = age(each["lastTransitionTime"])
            yield from _wrapped(
                f"  {each['type']:<16}{each['status']:<8}", f"{each['reason']}, for {since}. {each.get('message', '')}"
            )
    if pods:
        yield ""
        yield "Pods:"
        for pod in pods:
            where = pod["spec"].get("nodeName") or "no node yet"
            yield f"  {pod['metadata']['name']:<40}{pod.get('status', {}).get('phase', ''):<11}{where}"
    failure = status.get("failure")
    if failure:
        yield ""
        yield "Failure:"
        yield from _wrapped("  ", f"{failure['reason']}: {failure.get('message', '')}")
        if failure.get("pod"):
            code = f", exit code {failure['exitCode']}" if "exitCode" in failure else ""
            yield f"  in pod {failure['pod']}{code}"
        yield from (f"  | {line}" for line in failure.get("log") or ())
    if events:
        yield ""
        yield "Events:"
        for event in events:
            yield from _wrapped(f"  {age(_time_of(event)):>7} ago  {event['reason']:<20} ", event.get("message") or "")


def _fact(label: str, value: str | None) -> Iterator[str]:
    if value:
        yield from _wrapped(f"{label + ':':<{_LABEL}}", value)


def _wrapped(lead: str, text: str) -> list[str]:
    return textwrap.wrap(
        text,
        width=_WIDTH,
        initial_indent=lead,
        subsequent_indent=" " * len(lead),
        break_on_hyphens=False,
        break_long_words=False,
    ) or [lead]


def _progress(status: Manifest) -> str:
    progress = status.get("progress")
    if not progress:
        return ""
    parts = [progress.get("summary") or f"{progress['step']}/{progress['total']}"]
    if "loss" in progress:
        parts.append(fmt.loss(progress["loss"]))
    if progress.get("samplesPerSecond"):
        parts.append(fmt.rate(progress["samplesPerSecond"], "images"))
    if progress.get("eta"):
        parts.append(f"{progress['eta']} left")
    return ", ".join(parts)


def _checkpoint(status: Manifest) -> str:
    checkpoint = status.get("checkpoint")
    if not checkpoint:
        return ""
    when = f", {age(checkpoint['time'])} ago" if checkpoint.get("time") else ""
    return f"step {checkpoint['step']}{when}, {checkpoint['uri']}"


def _attempts(status: Manifest) -> str:
    if not status.get("attempts"):
        return ""
    held = fmt.duration(float(status.get("deviceSeconds") or 0))
    return f"{status['attempts']}, restarts {status.get('restarts', 0)}, device time of ended attempts {held}"


def _stage(stage: Manifest) -> str:
    parts = [fmt.counted(stage.get("done") or 0, stage.get("total") or 0, stage.get("unit") or "")]
    start, end = unix(stage.get("start")), unix(stage.get("end"))
    if start is not None and end is not None:
        parts.append(f"in {fmt.duration(end - start)}")
    return ", ".join(part for part in (*parts, stage.get("note") or "") if part)
