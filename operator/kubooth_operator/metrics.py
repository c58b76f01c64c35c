"""The operator's metrics, in Prometheus' format: names, labels, and where their values come from.

The only user of prometheus_client. `docs/metrics.md` is their reference; a test holds the two against each other. Only
the replica that works counts jobs, so sums over replicas are right. Per job there are gauges only while it trains, for
a bounded number of jobs: no counter, no histogram, and nothing of a job that has ended.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime
from itertools import product
from typing import Any, Final

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    GCCollector,
    Histogram,
    PlatformCollector,
    ProcessCollector,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from kubooth_operator import measures
from kubooth_operator.measures import FAILURES, OTHER, Measure

Manifest = dict[str, Any]
MOST_JOBS: Final = 500
_FAST = (0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 15)
_WAIT = (0.5, 1, 2, 5, 10, 20, 30, 60, 120, 300, 600, 1800, 3600)
_LONG = (5, 15, 30, 60, 120, 300, 600, 1200, 1800, 3600, 7200, 14400, 43200)


class Metrics:
    """The metrics of one process."""

    def __init__(self, version: str) -> None:
        # Else each counter has a second series, which nothing here reads.
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self._registry = CollectorRegistry()
        for collector in (ProcessCollector, PlatformCollector, GCCollector):
            collector(registry=self._registry)
        self._by_name: dict[str, Counter | Histogram] = {}
        about = Gauge("kubooth_build_info", "1; the release is in its label.", ["version"], registry=self._registry)
        about.labels(version).set(1)
        self._counter("kubooth_jobs_finished", "Jobs that came to their end.", "phase", "reason")
        self._counter("kubooth_job_restarts", "Attempts that followed one that failed.", "outcome", "reason")
        self._counter("kubooth_device_seconds", "Time that devices were held, summed over devices.", "runtime")
        self._counter("kubooth_prior_sets", "Finished jobs by where their class images came from.", "source")
        self._histogram("kubooth_stage_duration_seconds", "Stages of finished jobs.", _LONG, "stage")
        self._histogram("kubooth_job_start_latency_seconds", "From a job's creation to its first batch Job.", _WAIT)
        self._histogram("kubooth_job_running_latency_seconds", "From a job's creation to all its pods ready.", _WAIT)
        self._histogram("kubooth_reconcile_seconds", "Looks at one job.", _FAST)
        self._counter("kubooth_reconcile_errors", "Looks at one job that were cut short.", "cause")
        self._histogram("kubooth_api_request_seconds", "Requests to the API server, watches apart.", _FAST, "method")
        self._counter("kubooth_api_requests", "Requests to the API server by what it answered.", "method", "code")

        # From zero, so that the first of a kind counts in `increase` too.
        reasons = sorted({*FAILURES, OTHER})
        for labels in (("Succeeded", "Succeeded"), *(("Failed", reason) for reason in reasons)):
            self._by_name["kubooth_jobs_finished"].labels(*labels)
        for labels in product(("Retry", "Disrupted"), reasons):
            self._by_name["kubooth_job_restarts"].labels(*labels)
        for source in ("Hit", "Partial", "Generated", "Provided"):
            self._by_name["kubooth_prior_sets"].labels(source)
        for cause in ("Conflict", "Temporary", "Refused", "Api", "Bug"):
            self._by_name["kubooth_reconcile_errors"].labels(cause)

    def read_from(
        self, *, jobs: Iterable[Manifest], queue_depth: Callable[[], int], is_working: Callable[[], bool]
    ) -> None:
        """What is looked up when somebody asks."""
        self._registry.register(_Present(jobs, queue_depth, is_working))

    def status_was_written(self, before: Manifest, after: Manifest) -> None:
        """A job's status, by this operator."""
        self._take(measures.of_change(before, after))

    def batch_job_was_created(self, job: Manifest) -> None:
        """For a new attempt of that job."""
        self._take(measures.of_batch_job(job, datetime.now(UTC)))

    def look_has_ended(self, seconds: float, *, error: str | None = None) -> None:
        """At one job; `error` is what cut it short, in one word."""
        self._take([Measure(metric="kubooth_reconcile_seconds", value=seconds)])
        if error is not None:
            self._take([Measure(metric="kubooth_reconcile_errors", labels={"cause": error})])

    def request_has_ended(self, method: str, status: int, seconds: float) -> None:
        """To the API server; status 0 is no answer."""
        self._take(
            [
                Measure(metric="kubooth_api_request_seconds", value=seconds, labels={"method": method}),
                Measure(metric="kubooth_api_requests", labels={"method": method, "code": str(status or "none")}),
            ]
        )

    def text(self) -> bytes:
        """All of them, as Prometheus reads them."""
        return generate_latest(self._registry)

    def _take(self, taken: Iterable[Measure]) -> None:
        for measure in taken:
            metric = self._by_name[measure.metric]
            child = metric.labels(**measure.labels) if measure.labels else metric
            if isinstance(child, Counter):
                child.inc(measure.value)
            else:
                child.observe(measure.value)

    def _counter(self, name: str, text: str, *labels: str) -> None:
        self._by_name[name] = Counter(name, text, labels, registry=self._registry)

    def _histogram(self, name: str, text: str, buckets: tuple[float, ...], *labels: str) -> None:
        self._by_name[name] = Histogram(name, text, labels, buckets=buckets, registry=self._registry)


class _Present(Collector):
    """What is so at the moment of asking. A standby knows no jobs, and says nothing of them."""

    def __init__(
        self, jobs: Iterable[Manifest], queue_depth: Callable[[], int], is_working: Callable[[], bool]
    ) -> None:
        self._jobs, self._queue_depth, self._is_working = jobs, queue_depth, is_working

    def collect(self) -> Iterator[GaugeMetricFamily]:
        working = self._is_working()
        return self._families(list(self._jobs) if working else [], self._queue_depth(), working=working)

    def _families(self, jobs: list[Manifest], depth: int, *, working: bool) -> Iterator[GaugeMetricFamily]:
        yield GaugeMetricFamily("kubooth_leader", "1 in the replica that works, 0 in one that stands by.", working)
        yield GaugeMetricFamily("kubooth_queue_depth", "Jobs that wait for a worker of the operator.", depth)
        counted = GaugeMetricFamily("kubooth_jobs", "Jobs there are.", labels=["phase", "reason"])
        for labels, count in sorted(measures.count_jobs(jobs).items()):
            counted.add_metric(labels, count)
        yield counted
        text = "How long the job has waited that has done so longest, since its attempt or a condition last changed."
        waits = GaugeMetricFamily("kubooth_jobs_oldest_wait_seconds", text, labels=["phase", "reason"])
        for labels, seconds in sorted(measures.longest_waits(jobs, datetime.now(UTC)).items()):
            waits.add_metric(labels, seconds)
        yield waits
        training = measures.progress(jobs, most=MOST_JOBS)
        for name, text, value in _OF_A_JOB:
            family = GaugeMetricFamily(name, text, labels=["namespace", "job"])
            for each in training:
                if (number := value(each)) is not None:
                    family.add_metric([each.namespace, each.name], number)
            yield family


_OF_A_JOB: Final[tuple[tuple[str, str, Callable[[measures.Progress], float | None]], ...]] = (
    ("kubooth_job_steps_done", "Optimizer steps that a training job has done.", lambda job: job.step),
    ("kubooth_job_steps", "Optimizer steps that a training job has in all.", lambda job: job.total),
    ("kubooth_job_loss", "Mean loss of a training job over its last steps.", lambda job: job.loss),
    (
        "kubooth_job_samples_per_second",
        "Photos and class images of a training job.",
        lambda job: job.samples_per_second,
    ),
    ("kubooth_job_eta_seconds", "Time that a training job still needs.", lambda job: job.eta_seconds),
    ("kubooth_job_progress_timestamp_seconds", "When a training job last said how it is.", lambda job: job.updated_at),
)
