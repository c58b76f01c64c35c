"""Jobs, runtimes and pods as the API server has them."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator
from typing import Any, Final

import click

from kubooth_cli.cluster.session import CommandError, Session, is_unknown_kind
from kubooth_operator.defaults import DEFAULT, default_of
from kubooth_operator.kinds import JOB, POD, RUNTIME
from kubooth_operator.names import LABEL_ATTEMPT, LABEL_JOB_UID
from kubooth_operator.rests import FIRST_REST_SECONDS, SHORT_SECONDS, take_rest

Manifest = dict[str, Any]
ENDED: Final = ("Succeeded", "Failed")
_AGAIN_SECONDS = 1.0
_LONGEST_PAUSE_SECONDS = 15.0


async def get_job(session: Session, name: str) -> Manifest:
    """Raises CommandError where there is none."""
    from kubooth_operator.client import NotFoundError

    try:
        return await session.api.get(JOB.path(session.namespace, name))
    except NotFoundError as error:
        if is_unknown_kind(error):
            raise
        raise CommandError(
            f"there is no job {name} in namespace {session.namespace}: kubooth list -A shows those there are"
        ) from error


async def list_jobs(session: Session, *, everywhere: bool = False, selector: str | None = None) -> list[Manifest]:
    """Of the namespace, or of all; by namespace and name."""
    query = {"labelSelector": selector} if selector else {}
    answer = await session.api.get(JOB.path(None if everywhere else session.namespace), query=query)
    return [complete(item, JOB.api_version, JOB.kind) for item in answer["items"]]


async def default_runtime(session: Session) -> Manifest | None:
    """The runtime that is made the default of the namespace, if there is one, and the caller may see it."""
    from kubooth_operator.client import RefusedError

    try:
        answer = await session.api.get(RUNTIME.path())
    except RefusedError as error:
        if error.status != 403:
            raise
        return None
    found = default_of(session.namespace, answer["items"] or ())
    return complete(found, RUNTIME.api_version, RUNTIME.kind) if found else None


async def get_runtime(session: Session, name: str) -> Manifest:
    """`default` is that of the namespace. Raises CommandError where there is none."""
    from kubooth_operator.client import NotFoundError

    try:
        own = await default_runtime(session) if name == DEFAULT else None
        return own or await session.api.get(RUNTIME.path(name=name))
    except NotFoundError as error:
        if is_unknown_kind(error):
            raise
        raise CommandError(f"there is no runtime {name}: kubectl get prt shows those there are") from error


async def pods_of(session: Session, job: Manifest, attempt: int | None = None) -> list[Manifest]:
    """The pods of a job, or of one of its attempts, by name; not those of an earlier job of its name."""
    selector = f"{LABEL_JOB_UID}={job['metadata']['uid']}"
    selector += f",{LABEL_ATTEMPT}={attempt}" if attempt is not None else ""
    answer = await session.api.get(POD.path(session.namespace), query={"labelSelector": selector})
    found: list[Manifest] = answer["items"]
    return sorted(found, key=lambda pod: str(pod["metadata"]["name"]))


async def follow(session: Session, name: str) -> AsyncGenerator[Manifest, None]:
    """The job as it is, then after every change, through outages, which are said once. Ends when it is deleted. Where
    streams end at once it is looked at now and then, ever more seldom."""
    from kubooth_operator.client import GoneError, TemporaryError

    job: Manifest | None = await get_job(session, name)
    pause, rest = 0.0, FIRST_REST_SECONDS
    while job is not None:
        yield job
        query = {
            "fieldSelector": f"metadata.name={name}",
            "resourceVersion": job["metadata"]["resourceVersion"],
            "allowWatchBookmarks": "true",  # else a job that waits for hours looks like a connection that is dead
        }
        opened, is_empty, is_cut = time.monotonic(), True, False
        try:
            # closed here and now, also when the one who listens has had enough
            async with contextlib.aclosing(session.api.watch(JOB.path(session.namespace), query)) as events:
                async for event in events:
                    pause = 0.0
                    if event["type"] == "DELETED":
                        return
                    if event["type"] == "ERROR":
                        is_cut = True
                        break
                    rest, is_empty = FIRST_REST_SECONDS, False
                    if event["type"] != "BOOKMARK":
                        yield event["object"]
            is_cut = is_cut or (is_empty and time.monotonic() - opened < SHORT_SECONDS)
        except GoneError:
            is_cut = True
        except TemporaryError as error:
            if not pause:
                click.echo(f"the connection is lost, trying again: {error}", err=True)
            pause = min(max(_AGAIN_SECONDS, 2 * pause), _LONGEST_PAUSE_SECONDS)
            await asyncio.sleep(pause)
        if is_cut:
            rest = await take_rest(rest)
        try:
            job = await find_job(session, name)
        except TemporaryError as error:
            if not pause:  # the watch itself came to a good end
                click.echo(f"the connection is lost, trying again: {error}", err=True)
            pause = max(pause, _AGAIN_SECONDS)


async def find_job(session: Session, name: str) -> Manifest | None:
    """None where there is no such job."""
    from kubooth_operator.client import NotFoundError

    try:
        return await session.api.get(JOB.path(session.namespace, name))
    except NotFoundError:
        return None


def complete(item: Manifest, api_version: str, kind: str) -> Manifest:
    """An object of a list, with the apiVersion and kind that lists leave out."""
    return {"apiVersion": api_version, "kind": kind, **item}


def status_of(job: Manifest) -> Manifest:
    status: Manifest = job.get("status") or {}
    return status


def phase_of(job: Manifest) -> str:
    """A job that nobody has looked at yet is Pending."""
    return str(status_of(job).get("phase") or "Pending")


def runtime_spec(job: Manifest) -> Manifest:
    """Of the runtime as it was when the job was accepted."""
    spec: Manifest = (status_of(job).get("runtimeSnapshot") or {}).get("spec") or {}
    return spec
