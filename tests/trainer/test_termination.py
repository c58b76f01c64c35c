"""A pod's last word fits into what Kubernetes keeps of it, whatever is in it, and comes back as it was."""

from __future__ import annotations

import json
from typing import Any

import pytest

from kubooth_trainer.termination import MAX_BYTES, MIN_LOG, Termination, read_termination

SUMMARY: dict[str, Any] = {
    "stages": [
        {"name": name, "state": "Succeeded", "start": "2026-11-22T10:00:00Z", "end": "2026-11-22T10:01:00Z",
         "done": 4, "total": 4, "unit": "images", "note": "4 were there"}
        for name in ("Download", "Prior", "Prepare", "Train", "Evaluate", "Upload")
    ],
    "progress": {"step": 800, "total": 800, "percent": 100.0, "summary": "800/800 100%"},
    "checkpoint": {"uri": "s3://models/rex/.kubooth/checkpoints/attempt-1/step-000800", "step": 800},
    "identifier": "sks",
    "prior": {"source": "Generated", "images": 200},
    "output": {"uri": "s3://models/rex", "bytes": 3_000_000_000},
    "report": {"uri": "s3://models/rex/report.html"},
}  # fmt: skip


def last_word(**fields: Any) -> Termination:
    return Termination(**{"reason": "Completed", "message": "", "exit_code": 0} | fields)


@pytest.mark.parametrize(
    "word",
    [
        pytest.param(last_word(), id="bare"),
        pytest.param(last_word(summary=SUMMARY), id="with a summary"),
        pytest.param(last_word(reason="BadSubject", message="photos/ü.jpg: nö", exit_code=2, log=("a", "b")), id="log"),
    ],
)
def test_comes_back_as_it_was(word: Termination) -> None:
    assert read_termination(word.to_text()) == word


LONG = [
    pytest.param("x" * 5000, id="ascii"),
    pytest.param("€" * 5000, id="three bytes"),
    pytest.param("🐕" * 5000, id="four bytes"),
    pytest.param('"\\\n' * 3000, id="escaped"),
    pytest.param("\x00\x1b" * 3000, id="control characters"),
    pytest.param("\udcff\ud800" * 3000, id="lone surrogates"),
]


@pytest.mark.parametrize("text", LONG)
@pytest.mark.parametrize("lines", [0, 1, 60])
@pytest.mark.parametrize("with_summary", [False, True])
def test_is_never_too_long(text: str, lines: int, with_summary: bool) -> None:
    word = last_word(
        reason="TrainerCrashed",
        message=text,
        exit_code=70,
        summary=SUMMARY if with_summary else None,
        log=(text,) * lines,
    )
    written = word.to_text()
    assert len(written.encode()) <= MAX_BYTES
    read = read_termination(written)
    assert read is not None and (read.reason, read.exit_code) == ("TrainerCrashed", 70)
    assert read.message and read.message[0] == text[0].encode("utf-8", "replace").decode()
    assert bool(read.log) == bool(lines)
    if with_summary:
        assert read.summary is not None and read.summary["output"] == SUMMARY["output"]


def test_the_oldest_lines_give_way_first() -> None:
    read = read_termination(last_word(log=tuple(f"line {number} {'x' * 100}" for number in range(100))).to_text())
    assert read is not None
    numbers = [int(line.split()[1]) for line in read.log]
    assert numbers == list(range(numbers[0], 100)) and len(numbers) > 25


def test_long_locations_cost_the_least_of_the_summary_first() -> None:
    """Locations may have 2048 characters."""
    long = "s3://models/" + "x" * 1100
    summary = SUMMARY | {
        "checkpoint": {"uri": long, "step": 1},
        "output": {"uri": long},
        "report": {"uri": long},
    }
    written = last_word(summary=summary, log=("y" * 300,) * 10).to_text()
    assert len(written.encode()) <= MAX_BYTES
    read = read_termination(written)
    assert read is not None and read.summary is not None
    assert "checkpoint" not in read.summary
    assert "note" not in read.summary["stages"][0]
    assert read.summary["output"] == summary["output"]
    assert sum(len(line) for line in read.log) >= MIN_LOG // 2
    hopeless = last_word(summary={"output": {"uri": "s3://" + "x" * 5000}}, log=("last",))
    read = read_termination(hopeless.to_text())
    assert read is not None and read.summary is None and read.log == ("last",)


@pytest.mark.parametrize(
    "text", [None, "", "Error", "[]", "3", "{}", '{"version": 2}', '{"version": 1, "reason": "x"}', '{"version": 1,']
)
def test_what_is_not_ours(text: str | None) -> None:
    assert read_termination(text) is None


def test_is_plain_json() -> None:
    assert json.loads(last_word(exit_code=0).to_text()) == {
        "version": 1,
        "reason": "Completed",
        "message": "",
        "exitCode": 0,
    }
