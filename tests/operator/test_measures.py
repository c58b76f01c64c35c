"""What the operator counts: from changes of a status, and from jobs as they stand."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from simulation.scenarios import fails_first, running, two_nodes
from simulation.world import World

from kubooth_operator import measures
from kubooth_operator.measures import Measure

Manifest = dict[str, Any]
DOCS = Path(__file__).parents[2] / "docs"
CREATED = "2026-11-01T10:00:00Z"
STAGES = [
    {"name": "Download", "state": "Succeeded", "start": "2026-11-01T10:00:10Z", "end": "2026-11-01T10:00:40Z"},
    {"name": "Prior", "state": "Skipped", "start": "2026-11-01T10:00:40Z", "end": "2026-11-01T10:00:41Z"},
    {"name": "Train", "state": "Failed", "start": "2026-11-01T10:00:41Z", "end": "2026-11-01T10:02:41Z"},
    {"name": "Upload", "state": "Pending"},
]


def job(name: str = "rex", **status: Any) -> Manifest:
    metadata = {"name": name, "namespace": "team", "uid": f"uid-{name}", "creationTimestamp": CREATED}
    return {"metadata": metadata, "status": status}


def change(before: Manifest, after: Manifest) -> list[Measure]:
    return list(measures.of_change(job(**before), job(**after)))


RUNNING = {"attempts": 1, "attempt": {"number": 1}, "phase": "Starting", "reason": "Starting"}
CASES: dict[str, tuple[Manifest, Manifest, list[Measure]]] = {
    "nothing that counts": ({}, {"phase": "Pending", "reason": "Queued"}, []),
    "all pods are ready for the first time": (
        RUNNING,
        {**RUNNING, "attempt": {"number": 1, "readyTime": "2026-11-01T10:00:07Z"}, "phase": "Running"},
        [Measure(metric="kubooth_job_running_latency_seconds", value=7)],
    ),
    "ready again, after its batch Job was deleted": (
        {**RUNNING, "activeSeconds": 30},
        {**RUNNING, "activeSeconds": 30, "attempt": {"number": 1, "readyTime": "2026-11-01T10:00:07Z"}},
        [],
    ),
    "ready in a later attempt": (
        {"attempts": 2, "attempt": {"number": 2}},
        {"attempts": 2, "attempt": {"number": 2, "readyTime": "2026-11-01T10:00:07Z"}},
        [],
    ),
    "another attempt after a failure": (
        {"attempts": 1, "attempt": {"outcome": "Disrupted"}, "failure": {"reason": "NodeLost"}},
        {"attempts": 2, "attempt": {"number": 2}, "failure": {"reason": "NodeLost"}},
        [Measure(metric="kubooth_job_restarts", labels={"outcome": "Disrupted", "reason": "NodeLost"})],
    ),
    "a reason that nobody listed": (
        {"attempts": 1, "attempt": {"outcome": "Retry"}, "failure": {"reason": "Made4You"}},
        {"attempts": 2, "attempt": {"number": 2}},
        [Measure(metric="kubooth_job_restarts", labels={"outcome": "Retry", "reason": "Other"})],
    ),
    "resumed, which is no restart": (
        {"attempts": 1, "attempt": {"outcome": "Suspended"}},
        {"attempts": 2, "attempt": {"number": 2}},
        [],
    ),
    "devices given back": (
        {"deviceSeconds": 100, "runtimeSnapshot": {"name": "gpu"}},
        {"deviceSeconds": 340.5, "runtimeSnapshot": {"name": "gpu"}},
        [Measure(metric="kubooth_device_seconds", value=240.5, labels={"runtime": "gpu"})],
    ),
    "the end": (
        {"phase": "Running"},
        {"phase": "Failed", "reason": "NumericalError", "stages": STAGES, "prior": {"source": "Generated"}},
        [
            Measure(metric="kubooth_jobs_finished", labels={"phase": "Failed", "reason": "NumericalError"}),
            Measure(metric="kubooth_stage_duration_seconds", value=30, labels={"stage": "Download"}),
            Measure(metric="kubooth_prior_sets", labels={"source": "Generated"}),
        ],
    ),
    "after the end": ({"phase": "Failed", "stages": STAGES}, {"phase": "Failed", "stages": STAGES}, []),
}


@pytest.mark.parametrize("case", CASES)
def test_what_a_change_of_the_status_tells(case: str) -> None:
    before, after, expected = CASES[case]
    assert change(before, after) == expected


def test_only_the_first_batch_job_is_timed_from_the_jobs_creation() -> None:
    now = datetime(2026, 11, 1, 10, 0, 2, tzinfo=UTC)
    assert list(measures.of_batch_job(job(attempts=1), now)) == [
        Measure(metric="kubooth_job_start_latency_seconds", value=2)
    ]
    assert list(measures.of_batch_job(job(attempts=2), now)) == []


def test_jobs_are_counted_by_phase_and_reason() -> None:
    made = [job(phase="Running", reason="Running"), job(phase="Running", reason="Running"), job()]
    made.append(job(phase="Failed", reason="SomethingElse"))
    assert measures.count_jobs(made) == {("Running", "Running"): 2, ("Pending", ""): 1, ("Failed", "Other"): 1}


WAITS: dict[str, tuple[Manifest, float | None]] = {
    "made a moment ago": ({}, 7200),
    "not accepted": ({"phase": "Pending", "conditions": [{"lastTransitionTime": "2026-11-01T11:00:00Z"}]}, 3600),
    "an attempt begins": ({"phase": "Starting", "attempt": {"startTime": "2026-11-01T11:59:00Z"}}, 60),
    "an attempt ended": (
        {
            "phase": "Starting",
            "attempt": {"startTime": "2026-11-01T10:30:00Z", "endTime": "2026-11-01T11:58:00Z"},
            "conditions": [{"lastTransitionTime": "2026-11-01T10:30:00Z"}],
        },
        120,
    ),
    "a pod is lost": (
        {
            "phase": "Running",
            "attempt": {"startTime": "2026-11-01T10:30:00Z", "retryTime": "2026-11-01T15:00:00Z"},
            "conditions": [{"lastTransitionTime": "2026-11-01T11:59:50Z"}, {}],
        },
        10,
    ),
    "runs": ({"phase": "Running", "reason": "Running"}, None),
    "has succeeded": ({"phase": "Succeeded"}, None),
    "has failed": ({"phase": "Failed"}, None),
}


@pytest.mark.parametrize("case", WAITS)
def test_since_when_a_job_waits_follows_from_its_status(case: str) -> None:
    status, expected = WAITS[case]
    now = datetime(2026, 11, 1, 12, tzinfo=UTC)
    told = measures.longest_waits([job(**{"reason": "ImagePull", **status})], now)
    phase = status.get("phase", "Pending")
    assert told == ({} if expected is None else {(phase, "ImagePull"): expected})


def test_of_jobs_that_wait_the_longest_counts_and_not_how_many_do() -> None:
    now = datetime(2026, 11, 1, 12, tzinfo=UTC)
    starts = [f"2026-11-01T11:{minute}:00Z" for minute in (10, 40, 50)]
    made = [job(phase="Starting", reason="ImagePull", attempt={"startTime": start}) for start in starts]
    made += [job(phase="Starting", reason="SomethingElse"), job()]
    assert measures.longest_waits(made, now) == {
        ("Starting", "ImagePull"): 3000,
        ("Starting", "Other"): 7200,
        ("Pending", ""): 7200,
    }


def test_progress_is_told_of_jobs_that_train_and_of_so_many_at_most() -> None:
    words = {"step": 40, "total": 80, "loss": 0.1, "updatedAt": "2026-11-01T10:00:00Z"}
    made = [job(f"j{number}", phase="Running", progress=words) for number in range(5)]
    made += [job("ended", phase="Succeeded", progress=words), job("starts", phase="Running")]
    told = measures.progress(made, most=3)
    assert [each.name for each in told] == ["j4", "j3", "j2"]
    assert (told[0].step, told[0].loss, told[0].eta_seconds) == (40, 0.1, None)
    assert told[0].updated_at == datetime(2026, 11, 1, 10, tzinfo=UTC).timestamp()


def test_the_reasons_are_those_of_the_documentation() -> None:
    text = (DOCS / "troubleshooting.md").read_text().partition("## The job is not accepted")[2]
    rows = re.findall(r"^\| (`[^|]*) \|", text, re.MULTILINE)
    assert {reason for row in rows for reason in re.findall(r"`(\w+)`", row)} == measures.REASONS


def restarts_counted(world: World) -> list[dict[str, str]]:
    """Over all that was written of a job's status, from its beginning."""
    told = [{}, *world.status_writes]
    found = [each for before, after in pairwise(told) for each in change(before, after)]
    return [each.labels for each in found if each.metric == "kubooth_job_restarts"]


def test_each_restart_of_a_life_is_counted_once() -> None:
    """The first one comes at once, in the pass that sees the attempt end; the next ones after a pause."""
    world = two_nodes(fails_first(3))
    assert world.run_to_the_end()["restarts"] == 3
    assert restarts_counted(world) == 3 * [{"outcome": "Retry", "reason": "TrainerCrashed"}]
    world = running(two_nodes())
    world.evict(world.pod(0))
    assert world.run_to_the_end()["attempts"] == 2
    assert restarts_counted(world) == [{"outcome": "Disrupted", "reason": "Evicted"}]
