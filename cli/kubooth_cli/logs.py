"""`kubooth logs`: what the pods of a job write, all of them, each line with its pod in front."""

from __future__ import annotations

import asyncio
import sys
import time
from typing import Any, Final

import click

from kubooth_cli.cluster.complete import job_argument
from kubooth_cli.cluster.jobs import ENDED, find_job, get_job, phase_of, pods_of, status_of
from kubooth_cli.cluster.session import FAILED, OK, CommandError, Session, on_cluster
from kubooth_cli.lines import Lines
from kubooth_operator.kinds import POD
from kubooth_operator.names import CONTAINER, LABEL_ATTEMPT
from kubooth_trainer.progress import event_from_json

Manifest = dict[str, Any]
_LOOK_SECONDS: Final = 1.0
_COLOURS: Final = ("cyan", "yellow", "green", "magenta", "blue", "bright_cyan", "bright_yellow", "bright_green")
_INDEX = "batch.kubernetes.io/job-completion-index"
_OVER = ("Succeeded", "Failed")
_SETTLE_SECONDS: Final = 5.0
"""So long after its log's end a pod may still be said to run; then it was the node that ended the stream."""


@click.command(name="logs")
@job_argument
@click.option("-f", "--follow", is_flag=True, help="Go on until the job has ended, through its restarts.")
@click.option("--attempt", type=click.IntRange(min=1), help="Which attempt; else the newest.")
@click.option("--tail", type=click.IntRange(min=0), metavar="N", help="The last N lines of each pod only.")
@click.option("--raw", is_flag=True, help="Progress as the JSON that the trainer writes, not in words.")
@on_cluster
async def logs_command(
    session: Session, name: str, follow: bool, attempt: int | None, tail: int | None, raw: bool
) -> int:
    """Show the logs of all pods of job NAME, each line with the attempt and node in front, as in 1-0.

    Where the pods are gone, the last lines that the status kept are shown.
    """
    job = await get_job(session, name)
    logs = _Logs(session, name, attempt=attempt, tail=tail, raw=raw)
    if follow:
        await logs.follow()
    else:
        await logs.once(job)
    if not logs.shown:
        _from_status(await get_job(session, name))
    return OK


class _Logs:
    """The logs of one job. `shown` are the pods of which something could be read."""

    def __init__(self, session: Session, name: str, *, attempt: int | None, tail: int | None, raw: bool) -> None:
        self._session, self._name = session, name
        self._attempt, self._tail, self._raw = attempt, tail, raw
        self.shown: set[str] = set()
        self._over: set[str] = set()
        self._failed: dict[str, str] = {}
        self._since: dict[str, float] = {}  # what is known of each pod's log, in monotonic seconds
        self._ended: dict[str, float] = {}  # when its log came to an end, likewise

    async def once(self, job: Manifest) -> None:
        """What there is now, pod after pod."""
        attempt = self._attempt or int(status_of(job).get("attempts") or 0) or None
        for pod in await pods_of(self._session, job, attempt):
            await self._show(pod, follow=False)

    async def follow(self) -> None:
        """All pods at once, also those that come later, until the job and all its pods have ended; through outages."""
        from kubooth_operator.client import TemporaryError

        streams: dict[str, asyncio.Task[None]] = {}
        is_lost = False
        try:
            while True:
                try:
                    if await self._have_ended(streams):
                        return
                    is_lost = False
                except TemporaryError as error:
                    if not is_lost:
                        click.echo(f"the connection is lost, trying again: {error}", err=True)
                    is_lost = True
                await asyncio.sleep(_LOOK_SECONDS)
        finally:
            for stream in streams.values():
                stream.cancel()

    async def _have_ended(self, streams: dict[str, asyncio.Task[None]]) -> bool:
        """Whether the job and all that is shown have ended; begins to show what is new."""
        job = await find_job(self._session, self._name)
        if job is None:
            raise CommandError(f"job {self._name} was deleted", FAILED)
        for pod in await pods_of(self._session, job, self._attempt):
            name = pod["metadata"]["name"]
            if name in streams and streams[name].done():
                streams.pop(name).result()  # raises what the stream ended with
            if name not in streams and name not in self._over and not self._settles(pod):
                streams[name] = asyncio.create_task(self._show(pod, follow=True))
        ended = phase_of(job) in ENDED or self._is_past(job)
        if not ended or not all(stream.done() for stream in streams.values()):
            return False
        for stream in streams.values():
            stream.result()
        return True

    def _settles(self, pod: Manifest) -> bool:
        """Whether the pod's log has ended, and for good as far as can be seen: a node that restarts ends it too."""
        name = pod["metadata"]["name"]
        if name not in self._ended:
            return False
        if _is_over(pod):
            self._over.add(name)
        elif time.monotonic() - self._ended[name] >= _SETTLE_SECONDS:
            del self._ended[name]
            return False
        return True

    def _is_past(self, job: Manifest) -> bool:
        return self._attempt is not None and self._attempt < int(status_of(job).get("attempts") or 0)

    async def _show(self, pod: Manifest, *, follow: bool) -> None:
        """One pod's log. A pod that has not started is left for another time; a lost connection is taken up again."""
        from kubooth_operator.client import IdleError, NotFoundError, RefusedError, TemporaryError

        name = pod["metadata"]["name"]
        query = {"container": CONTAINER, **({"follow": "true"} if follow else {})}
        last = time.monotonic()
        if name in self._since:  # the connection was lost
            query["sinceSeconds"] = str(max(1, int(last - self._since[name])))
        elif self._tail is not None:
            query["tailLines"] = str(self._tail)
        printer = _Printer(pod, raw=self._raw)
        try:
            path = POD.path(self._session.namespace, name, "log")
            async for line in self._session.api.lines(path, query):
                self.shown.add(name)
                last = time.monotonic()
                self._since[name] = last - 1  # rather a line twice than none
                printer.line(line)
        except NotFoundError:  # deleted, and then not in the next list; or its node has not heard of it yet
            if pod.get("status", {}).get("phase") in _OVER or not follow:
                self._over.add(name)
        except RefusedError as error:
            if error.status in (401, 403):
                raise
            if pod.get("status", {}).get("phase") in _OVER or not follow:  # its log is gone, or not there yet
                self._over.add(name)
                click.echo(f"{printer.prefix}no log: {error}", err=True)
        except IdleError:  # a pod with nothing to say, most likely
            if not follow:
                raise
            if name in self._since:
                self._since[name] = last
        except TemporaryError as error:
            if not follow:
                raise
            if self._failed.get(name) != str(error):
                self._failed[name] = str(error)
                click.echo(f"{printer.prefix}the connection is lost, trying again: {error}", err=True)
        else:
            self._ended[name] = time.monotonic()


def _is_over(pod: Manifest) -> bool:
    status = pod.get("status") or {}
    containers = [each for each in status.get("containerStatuses") or () if each.get("name") == CONTAINER]
    return status.get("phase") in _OVER or any("terminated" in (each.get("state") or {}) for each in containers)


class _Printer:
    """Writes the lines of one pod to standard output."""

    def __init__(self, pod: Manifest, *, raw: bool) -> None:
        labels = pod["metadata"].get("labels") or {}
        attempt, index = labels.get(LABEL_ATTEMPT, "?"), labels.get(_INDEX, "?")
        self.prefix = f"{attempt}-{index} | "
        colour = _COLOURS[int(index) % len(_COLOURS)] if index.isdigit() else None
        self._styled = click.style(self.prefix, fg=colour)
        self._raw = raw
        self._words = Lines(self)  # type: ignore[arg-type]  # write and flush are all it uses

    def line(self, line: str) -> None:
        event = None if self._raw else event_from_json(line)
        if event is None:
            self.write(line + "\n")
        else:
            self._words.event(event, line, changed=True)

    def write(self, text: str) -> None:
        click.echo(self._styled + text, nl=False)

    def flush(self) -> None:
        sys.stdout.flush()


def _from_status(job: Manifest) -> None:
    """Of a job without pods: the last lines that its status kept. Raises CommandError where there are none."""
    name, failure = job["metadata"]["name"], status_of(job).get("failure") or {}
    if not failure.get("log"):
        why = status_of(job).get("message") or "nothing has looked at it yet"
        raise CommandError(f"job {name} has no logs to show; it is {phase_of(job)}: {why}")
    click.echo(f"the pods of {name} are gone; the last lines of {failure.get('pod') or 'one of them'}:", err=True)
    for line in failure["log"]:
        click.echo(line)
