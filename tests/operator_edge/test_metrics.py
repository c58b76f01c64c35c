"""What Prometheus gets: the documented names and labels, few series, and an answer at any time."""

from __future__ import annotations

import asyncio
import re
import socket
from pathlib import Path

import aiohttp
from bed.figures import filled, job, training
from prometheus_client.parser import text_string_to_metric_families

from kubooth_operator import health, metrics
from kubooth_operator.metrics import Metrics

PAGE = Path(__file__).parents[2] / "docs" / "metrics.md"
ROW = re.compile(r"^\| `(kubooth_\w+)` \| (\w+) \| ([^|]*?) ?\|", re.MULTILINE)


def samples(made: Metrics) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    families = text_string_to_metric_families(made.text().decode())
    return {(each.name, frozenset(each.labels.items())): each.value for family in families for each in family.samples}


def test_the_documentation_names_the_metrics_that_there_are() -> None:
    documented = {
        name: (type_, re.findall(r"`(\w+)`", labels)) for name, type_, labels in ROW.findall(PAGE.read_text())
    }
    shown: dict[str, tuple[str, set[str]]] = {}
    made = filled([training("a"), job("b", phase="Pending", reason="Queued")])
    for family in text_string_to_metric_families(made.text().decode()):
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
