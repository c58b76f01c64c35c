"""What Prometheus gets: the documented names and labels, few series, and an answer at any time."""

from __future__ import annotations

import asyncio
import re
import socket
from pathlib import Path
from typing import Any

import aiohttp
from prometheus_client.parser import text_string_to_metric_families

from kubooth_operator import health, metrics
from kubooth_operator.metrics import Metrics

Manifest = dict[str, Any]
PAGE = Path(__file__).parents[2] / "docs" / "metrics.md"
ROW = re.compile(r"^\| `(kubooth_\w+)` \| (\w+) \| ([^|]*?) ?\|", re.MULTILINE)


def job(name: str, **status: Any) -> Manifest:
    metadata = {"name": name, "namespace": "team", "uid": name, "creationTimestamp": "2026-11-01T10:00:00Z"}
    return {"metadata": metadata, "status": status}


def training(name: str) -> Manifest:
    words = {"step": 1, "total": 2, "loss": 0.5, "samplesPerSecond": 8.0, "etaSeconds": 3}
    return job(name, phase="Running", reason="Running", progress={**words, "updatedAt": "2026-11-01T10:00:00Z"})


def filled(jobs: list[Manifest], *, is_working: bool = True) -> Metrics:
    """One that has seen everything once."""
    made = Metrics("1.2.3")
    made.read_from(jobs=jobs, queue_depth=lambda: 3, is_working=lambda: is_working)
    made.request_has_ended("PATCH", 409, 0.1)
    made.request_has_ended("GET", 0, 15)
    made.look_has_ended(0.2, error="Conflict")
    begun = {"attempts": 1, "attempt": {"number": 1}}
    ready = {**begun, "attempt": {"number": 1, "readyTime": "2026-11-01T10:00:05Z"}}
    made.batch_job_was_created(job("a", **begun))
    made.status_was_written(job("a", **begun), job("a", **ready))
    failed = {"attempts": 1, "attempt": {"outcome": "Retry"}, "failure": {"reason": "PeerLost"}}
    made.status_was_written(job("a", **failed), job("a", attempts=2, attempt={"number": 2}))
    stage = {"name": "Train", "state": "Succeeded", "start": "2026-11-01T10:00:00Z", "end": "2026-11-01T10:01:00Z"}
    end = {"phase": "Succeeded", "reason": "Succeeded", "stages": [stage], "prior": {"source": "Hit"}}
    held = {"deviceSeconds": 8, "runtimeSnapshot": {"name": "default"}}
    made.status_was_written(job("a", phase="Running"), job("a", **end, **held))
    return made


def samples(made: Metrics) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    families = text_string_to_metric_families(made.text().decode())
    return {(each.name, frozenset(each.labels.items())): each.value for family in families for each in family.samples}


def test_the_documentation_names_the_metrics_that_there_are() -> None:
    documented = {
        name: (type_, re.findall(r"`(\w+)`", labels)) for name, type_, labels in ROW.findall(PAGE.read_text())
    }
    shown: dict[str, tuple[str, set[str]]] = {}
    for family in text_string_to_metric_families(filled([training("a")]).text().decode()):
        if family.name.startswith("kubooth_"):
            name = f"{family.name}_total" if family.type == "counter" else family.name
            assert family.samples, f"{name} has no sample: this test has to make one"
            shown[name] = (family.type, {label for each in family.samples for label in each.labels} - {"le"})
    assert {name: (type_, set(labels)) for name, (type_, labels) in documented.items()} == shown


def test_values_are_what_happened() -> None:
    told = samples(filled([training("a"), job("b", phase="Pending", reason="Queued")]))
    one = frozenset

    def value(name: str, **labels: str) -> float:
        return told[name, one(labels.items())]

    assert value("kubooth_jobs", phase="Pending", reason="Queued") == 1
    assert value("kubooth_jobs_finished_total", phase="Succeeded", reason="Succeeded") == 1
    assert value("kubooth_job_restarts_total", outcome="Retry", reason="PeerLost") == 1
    assert value("kubooth_device_seconds_total", runtime="default") == 8
    assert value("kubooth_prior_sets_total", source="Hit") == 1
    assert value("kubooth_stage_duration_seconds_sum", stage="Train") == 60
    assert value("kubooth_job_running_latency_seconds_bucket", le="5.0") == 1
    assert value("kubooth_api_requests_total", method="PATCH", code="409") == 1
    assert value("kubooth_api_requests_total", method="GET", code="none") == 1
    assert value("kubooth_reconcile_errors_total", cause="Conflict") == 1
    assert value("kubooth_queue_depth") == 3 and value("kubooth_leader") == 1
    assert value("kubooth_job_steps_done", namespace="team", job="a") == 1


def test_a_standby_says_nothing_of_jobs() -> None:
    told = {name for name, _ in samples(filled([training("a")], is_working=False))}
    assert "kubooth_jobs" not in told and "kubooth_job_loss" not in told
    assert samples(filled([], is_working=False))["kubooth_leader", frozenset()] == 0


def test_series_are_bounded_whatever_jobs_there_are() -> None:
    many = [training(f"j{number}") for number in range(metrics.MOST_JOBS + 100)]
    many += [job(f"k{number}", phase="Failed", reason=f"Made{number}") for number in range(1000)]
    told = samples(filled(many))
    per_job = [labels for name, labels in told if dict(labels).get("job")]
    assert len(per_job) == 6 * metrics.MOST_JOBS
    assert told["kubooth_jobs", frozenset({"phase": "Failed", "reason": "Other"}.items())] == 1000


def test_a_thousand_scrapes_leave_the_probes_alone() -> None:
    made = filled([training(f"j{number}") for number in range(20)])
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]

    async def scrape() -> None:
        serving = health.serving(port, is_ready=lambda: True, state=lambda: "working", metrics=made.text)
        async with serving, aiohttp.ClientSession(f"http://127.0.0.1:{port}") as session:

            async def get(path: str) -> tuple[int, str]:
                async with session.get(path) as answer:
                    return answer.status, await answer.text()

            for _ in range(40):
                answers = await asyncio.gather(*(get("/metrics") for _ in range(25)), get("/healthz"))
                assert {status for status, _ in answers} == {200}
                assert answers[-1][1].startswith("ok: working")

    asyncio.run(scrape())
