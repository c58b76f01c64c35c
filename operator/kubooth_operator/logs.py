"""One line per event, with the job it is about in a place of its own, as text or as JSON."""

from __future__ import annotations

import json
import logging
import sys
from datetime import UTC, datetime
from typing import Literal

LogFormat = Literal["text", "json"]


def configure(log_format: LogFormat, *, verbose: bool) -> None:
    """Sends all logs to standard error. Libraries say only what is wrong."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Json() if log_format == "json" else _Text())
    handler.addFilter(_is_news)
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)
    logging.getLogger("kubooth_operator").setLevel(logging.DEBUG if verbose else logging.INFO)


def _is_news(record: logging.LogRecord) -> bool:
    """kopf says each failed request of an outage; `reach.Reach` says the outage. kopf's signals are not needed."""
    if not record.name.startswith("kopf"):
        return True
    return not record.getMessage().startswith(("Request attempt", "OS signals are ignored"))


class _Text(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        job = getattr(record, "job", None)
        source = record.name.removeprefix("kubooth_operator.")
        line = f"{_time(record)} {record.levelname} {source} {f'job={job} ' if job else ''}{_one_line(record)}"
        return f"{line}\n{self.formatException(record.exc_info)}" if record.exc_info else line


class _Json(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        told = {"time": _time(record), "level": record.levelname, "logger": record.name, "message": _one_line(record)}
        if job := getattr(record, "job", None):
            told["job"] = job
        if record.exc_info:
            told["exception"] = self.formatException(record.exc_info)
        return json.dumps(told, ensure_ascii=False)


def _time(record: logging.LogRecord) -> str:
    return datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _one_line(record: logging.LogRecord) -> str:
    return " ".join(record.getMessage().split())
