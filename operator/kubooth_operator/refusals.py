"""What the API server has against a job's children and pods: remembered, or looked up. Used by `cluster`.

A refused child is the operator's own request: the answer says why. So does a failing webhook, with a 500. Pods are
made by the Job controller, whose last word on them is an Event.
"""

from __future__ import annotations

import contextlib
import logging
import re
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from kubooth_operator.children import find_job
from kubooth_operator.client import Api, ApiError, RefusedError, TemporaryError
from kubooth_operator.deadlines import MISSING_SECONDS
from kubooth_operator.kinds import EVENT
from kubooth_operator.plan import Manifest
from kubooth_operator.workload import BatchJob, Pod, time_of

_TIMES_TO_SAY = 3
_CHANGING = re.compile(r"\S*\d\S*")  # what has a digit in it: times, addresses, names of requests
_log = logging.getLogger(__name__)


class Refusals:
    """By UID of the job: the last refusal, and how often in a row it was heard."""

    def __init__(self) -> None:
        self._heard: dict[str, tuple[tuple[str, int], str, int]] = {}

    @contextlib.contextmanager
    def hearing(self, uid: str, what: str, *, job: str, trouble: bool = False) -> Iterator[None]:
        """Around a write to `what`; `trouble`: what goes wrong on the server's side is heard too."""
        try:
            yield
        except RefusedError as error:
            self._hear(uid, what, error, job)
            raise
        except TemporaryError as error:
            if trouble and error.status >= 500:
                self._hear(uid, what, error, job)
            raise

    def _hear(self, uid: str, what: str, error: ApiError, job: str) -> None:
        """Takes note; what repeats itself is logged once, and keeps its words where only numbers in it change."""
        message, key = str(error), (what, error.status)
        last, before, times = self._heard.get(uid, (("", 0), "", 0))
        if last != key:
            times = 0
        elif _CHANGING.sub("", before) == _CHANGING.sub("", message):
            message = before
        self._heard[uid] = (key, message, times + 1)
        if times + 1 == _TIMES_TO_SAY:
            _log.warning("the API server refuses %s: %s", what, message, extra={"job": job})

    def told(self, uid: str) -> str:
        """The refusal that stands; not at the first time, since a server that starts may refuse what it has not read
        the roles for."""
        _, message, times = self._heard.get(uid, (("", 0), "", 0))
        return message if times >= _TIMES_TO_SAY else ""

    def forget(self, uid: str) -> None:
        """The server has taken what it refused, or the job is gone."""
        self._heard.pop(uid, None)


async def pod_refusal(api: Api, job: Manifest, children: Sequence[Manifest], pods: Sequence[Manifest]) -> str:
    """Why the Job controller cannot create pods; "" where it can, where it has had little time, or where nobody
    knows. Asks the API server only when an attempt has waited for its pods for `MISSING_SECONDS`."""
    attempt = (job.get("status") or {}).get("attempt", {})
    batch_job, start = find_job(children, attempt.get("number", 0)), time_of(attempt.get("startTime"))
    if batch_job is None or start is None or datetime.now(UTC) < start + timedelta(seconds=MISSING_SECONDS):
        return ""
    own = [pod for pod in map(Pod, pods) if pod.attempt == attempt["number"]]
    if BatchJob(batch_job).is_held_back or len(own) >= batch_job["spec"]["completions"]:
        return ""
    metadata = batch_job["metadata"]
    query = {"fieldSelector": f"regarding.uid={metadata['uid']},reason=FailedCreate"}
    try:
        events = (await api.get(EVENT.path(metadata["namespace"]), query=query))["items"]
    except ApiError as error:  # a word of explanation is no reason to stop
        _log.debug("events of %s: %s", metadata["name"], error)
        return ""
    last = max(events, key=_last_seen, default=None)
    # "Error creating: pods "rex-kubooth-1-0-x7k2p" is forbidden: exceeded quota: ...": the name is another each time.
    return "" if last is None else (last.get("note") or "").split(" is forbidden: ", 1)[-1]


def _last_seen(event: Manifest) -> str:
    series: dict[str, Any] = event.get("series") or {}
    times = (series.get("lastObservedTime"), event.get("deprecatedLastTimestamp"), event.get("eventTime"))
    return next((time for time in times if time), "")
