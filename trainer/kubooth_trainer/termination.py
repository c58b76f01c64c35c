"""The last word of a trainer pod: what its launcher leaves in the termination message, and the operator reads.

Part of the contract between the two halves, and so free of anything heavy. Kubernetes keeps at most 4096 bytes of a
container's message. What does not fit gives way: log lines, oldest first, down to the newest kilobyte; then parts of
the summary, those first that the operator misses least. The reason and the exit code always stay.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

MAX_BYTES = 4096
MAX_MESSAGE = 1024  # bytes, as JSON
MAX_LINE = 400  # bytes of one log line, as JSON
MIN_LOG = 1024  # bytes of log for which parts of the summary are left out
VERSION = 1

_LEAST_FIRST = ("prior", "checkpoint", "report", "progress", "identifier", "stages", "quality", "output")


@dataclass(frozen=True, kw_only=True)
class Termination:
    """How the ranks of one pod ended. `reason` is "Completed" where the exit code is 0."""

    reason: str
    message: str
    exit_code: int
    summary: dict[str, Any] | None = None
    """Rank 0's pod only: its part of the status, from stages to report, in the names of the CRD."""
    log: tuple[str, ...] = field(default=())
    """The last lines of the log, oldest first."""

    def to_text(self) -> str:
        """JSON of at most MAX_BYTES bytes in UTF-8."""
        record: dict[str, Any] = {
            "version": VERSION,
            "reason": _cut(self.reason, 128),
            "message": _cut(self.message, MAX_MESSAGE),
            "exitCode": self.exit_code,
        }
        lines = [_cut(line, MAX_LINE) for line in self.log]
        room = MAX_BYTES - _size(_newest(lines, MIN_LOG)) - len(', "log": ')
        for summary in _shrinking(self.summary or {}):
            whole = {**record, "summary": summary} if summary else record
            if _size(whole) <= room:
                break
        log = _newest(lines, MAX_BYTES - _size(whole) - len(', "log": '))
        return _to_json({**whole, "log": log} if log else whole)


def read_termination(text: str | None) -> Termination | None:
    """The message of a container; None where it is not one of ours (a shell's, an older version's, or cut off)."""
    try:
        record = json.loads(text or "")
        if record["version"] != VERSION:
            return None
        return Termination(
            reason=str(record["reason"]),
            message=str(record["message"]),
            exit_code=int(record["exitCode"]),
            summary=record.get("summary"),
            log=tuple(str(line) for line in record.get("log", ())),
        )
    except (ValueError, KeyError, TypeError):
        return None


def _shrinking(summary: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The summary, whole at first, then with less and less of it, at last nothing."""
    yield summary
    if "stages" in summary:
        kept = [{key: value for key, value in stage.items() if key != "note"} for stage in summary["stages"]]
        summary = {**summary, "stages": kept}
        yield summary
    for name in _LEAST_FIRST:
        summary = {key: value for key, value in summary.items() if key != name}
        yield summary
    yield {}


def _newest(lines: Sequence[str], room: int) -> list[str]:
    """As many of the last lines as fit into `room` bytes of JSON."""
    kept: list[str] = []
    for line in reversed(lines):
        if _size([line, *kept]) > room:
            break
        kept.insert(0, line)
    return kept


def _cut(text: str, most: int) -> str:
    """`text` without what UTF-8 cannot say, as long as it takes at most `most` bytes of JSON."""
    text = text[:most].encode("utf-8", "replace").decode("utf-8")
    while _size(text) > most:
        text = text[: len(text) * most // _size(text) - 1]
    return text


def _size(value: Any) -> int:
    return len(_to_json(value).encode("utf-8", "replace"))


def _to_json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)
