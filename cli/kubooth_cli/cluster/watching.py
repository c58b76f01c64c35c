"""A job on the cluster as it gets on: bars per stage on a terminal, a line now and then elsewhere.

Used by `watch` and `submit`. Everything shown comes from the job's status.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
import time
from collections.abc import AsyncGenerator
from typing import Any, Protocol, TextIO

import click

from kubooth_cli.cluster.jobs import ENDED, follow, phase_of, status_of
from kubooth_cli.cluster.progress import events_of
from kubooth_cli.cluster.session import FAILED, OK, CommandError, Session
from kubooth_cli.state import RunState
from kubooth_trainer.progress import CheckpointEvent, Event, ProgressEvent, StageEvent

Manifest = dict[str, Any]
_FRAME_SECONDS = 0.25


class View(Protocol):
    """Shows a job while it gets on."""

    def open(self, job: Manifest, state: RunState) -> None:
        """`state` is kept up to date before each `event`."""

    def attempt(self, job: Manifest, state: RunState) -> None:
        """Another attempt has begun, whose stages are `state`."""

    def phase(self, job: Manifest) -> None:
        """Phase or reason has changed."""

    def event(self, event: Event, *, changed: bool) -> None:
        """What the status says has changed; `changed`: a stage entered another state."""

    def tick(self) -> None:
        """A few times a second."""

    def close(self) -> None:
        """Nothing more comes."""


async def watch(session: Session, name: str, *, err: bool = False) -> int:
    """Shows the job until it has ended, on standard output or error; the exit code. Ctrl-C ends the watching only."""
    stream = sys.stderr if err else sys.stdout
    view = _bars(stream) if stream.isatty() else _Plain(stream)
    job: Manifest | None = None
    drawing: asyncio.Task[None] | None = None
    seen = _Seen(view)
    try:
        async with contextlib.aclosing(_until_ended(session, name)) as versions:
            async for job in versions:
                seen.take(job)
                drawing = drawing or asyncio.create_task(_draw(view))
    except asyncio.CancelledError:
        click.echo(f"the job goes on: kubooth watch {name} shows it again", err=True)
        raise
    finally:
        if drawing is not None:
            drawing.cancel()
            view.close()
    if job is None or phase_of(job) not in ENDED:
        raise CommandError(f"job {name} was deleted", FAILED)
    _summary(job, err=err)
    return OK if phase_of(job) == "Succeeded" else FAILED


async def _until_ended(session: Session, name: str) -> AsyncGenerator[Manifest, None]:
    async with contextlib.aclosing(follow(session, name)) as versions:
        async for job in versions:
            yield job
            if phase_of(job) in ENDED:
                return


class _Seen:
    """What of a job was shown already."""

    def __init__(self, view: View) -> None:
        self._view = view
        self._state = RunState()
        self._attempt: int | None = None
        self._phase: tuple[str, str] | None = None
        self._last: dict[str, Event] = {}

    def take(self, job: Manifest) -> None:
        status = status_of(job)
        attempt = int(status.get("attempts") or 0)
        if self._attempt is None:
            self._view.open(job, self._state)
        elif attempt != self._attempt and self._attempt:
            self._state, self._last = RunState(), {}
            self._view.attempt(job, self._state)
        self._attempt = attempt
        phase = (phase_of(job), str(status.get("reason") or ""))
        if phase != self._phase:
            self._phase = phase
            self._view.phase(job)
        for event in events_of(status):
            if self._last.get(_key(event)) != event:
                self._last[_key(event)] = event
                self._view.event(event, changed=self._state.apply(event, time.monotonic()))


def _key(event: Event) -> str:
    return event.stage if isinstance(event, StageEvent) else event.type


async def _draw(view: View) -> None:
    while True:
        view.tick()
        await asyncio.sleep(_FRAME_SECONDS)


class _Plain:
    """Lines without escape codes."""

    def __init__(self, stream: TextIO) -> None:
        from kubooth_cli.lines import Lines

        self._lines = Lines(stream)

    def open(self, job: Manifest, state: RunState) -> None:
        self._lines.say(_title(job))

    def attempt(self, job: Manifest, state: RunState) -> None:
        self._lines.say(f"attempt {status_of(job)['attempts']}")

    def phase(self, job: Manifest) -> None:
        self._lines.say(_where_it_stands(job))

    def event(self, event: Event, *, changed: bool) -> None:
        if isinstance(event, StageEvent | ProgressEvent | CheckpointEvent):
            self._lines.event(event, "", changed=changed)

    def tick(self) -> None:
        pass

    def close(self) -> None:
        pass


def _bars(stream: TextIO) -> View:
    from rich.console import Console

    from kubooth_cli.bars import Bars

    class Drawn:
        """Bars on the terminal, redrawn a few times a second."""

        def __init__(self) -> None:
            self._bars = Bars(Console(file=stream, highlight=False))
            self._state = RunState()

        def open(self, job: Manifest, state: RunState) -> None:
            self._state = state
            self._bars.open(_title(job), job["metadata"]["name"], _where_it_stands(job), state)

        def attempt(self, job: Manifest, state: RunState) -> None:
            self._state = state
            self._bars.log(f"attempt {status_of(job)['attempts']}")

        def phase(self, job: Manifest) -> None:
            self._bars.show(self._state, _where_it_stands(job))
            if phase_of(job) == "Suspended":
                self._bars.log(_where_it_stands(job))

        def event(self, event: Event, *, changed: bool) -> None:
            self._bars.event(event, "", changed=changed)

        def tick(self) -> None:
            self._bars.tick()

        def close(self) -> None:
            self._bars.close()

    return Drawn()


def _title(job: Manifest) -> str:
    spec, meta = job["spec"], job["metadata"]
    return f"{meta['name']} ({spec['subject']['className']}) in namespace {meta['namespace']}"


def _where_it_stands(job: Manifest) -> str:
    status = status_of(job)
    words = [phase_of(job)]
    if status.get("reason") and status["reason"] != phase_of(job):
        words.append(f" ({status['reason']})")
    if status.get("message"):
        words.append(f": {status['message']}")
    return "".join(words)


def _summary(job: Manifest, *, err: bool) -> None:
    """Last lines: where the result is, or why there is none."""
    status, name = status_of(job), job["metadata"]["name"]
    if phase_of(job) == "Succeeded":
        click.echo(f"model:  {(status.get('output') or {}).get('uri', job['spec']['output']['uri'])}", err=err)
        if status.get("report"):
            click.echo(f"report: {status['report']['uri']}", err=err)
        click.echo(f"next:   kubooth report {name}, kubooth download {name}", err=err)
        return
    failure = status.get("failure") or {}
    reason = failure.get("reason") or status.get("reason") or "Failed"
    message = failure.get("message") or status.get("message") or ""
    click.echo(f"{name} has failed: {reason}: {message}", err=True)
    for line in failure.get("log") or ():
        click.echo(f"| {line}", err=True)
