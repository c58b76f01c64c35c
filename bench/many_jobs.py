"""Many jobs at once under one operator: how soon each gets its batch Job, what it costs, and quiet afterwards.

    python bench/many_jobs.py --record bench/records/operator.json
    python bench/many_jobs.py --jobs 20 --seconds 1      # a trial

A real control plane, the operator as a process of its own, and a node of one loop that ends each pod as soon as it is
scheduled. Method and results: docs/benchmarks.md.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median, quantiles
from tempfile import TemporaryDirectory
from typing import Any

from machine import machine, sources, versions

ROOT = Path(__file__).resolve().parent.parent
sys.path.append(str(ROOT / "tests"))

from bed import kubelet  # noqa: E402 - the tests' bed is not a package that is installed
from bed.controlplane import ControlPlane, control_plane  # noqa: E402
from bed.eventually import eventually  # noqa: E402
from bed.installation import install  # noqa: E402
from bed.jobs import Bench, job, runtime  # noqa: E402
from bed.operator_process import Operator  # noqa: E402
from bed.rest import JOBS, Rest  # noqa: E402

NAMESPACE = "many"
NODE = "fake"
QUIET_SECONDS = 10.0
# What nobody but the operator writes. Events are counted by who reports them.
OWN_WRITES = {
    ("PATCH", "personalizationjobs", "status"),
    *((verb, resource, "") for verb in ("POST", "PATCH", "APPLY", "DELETE") for resource in (
        "serviceaccounts", "roles", "rolebindings", "services", "networkpolicies", "configmaps", "jobs"
    )),
}  # fmt: skip


def main() -> None:
    options = _options()
    with TemporaryDirectory(dir="/dev/shm" if Path("/dev/shm").is_dir() else None) as folder:
        record = measure(options, Path(folder))
    print(json.dumps(record["results"], indent=1))
    if options.record:
        options.record.parent.mkdir(parents=True, exist_ok=True)
        options.record.write_text(json.dumps(record, indent=1) + "\n")


def measure(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Runs it once and returns the record."""
    load = os.getloadavg()[0]
    with control_plane(folder / "plane") as plane:
        install(plane)
        plane.kubectl("create", "namespace", NAMESPACE)
        eventually(lambda: plane.kubectl("get", "sa", "default", "-n", NAMESPACE, check=False).returncode == 0)
        server = _version(plane)
        operator = Operator(plane, None, folder)
        operator.start()
        try:
            results = run(options, plane, operator)
        finally:
            operator.kill()
    return {
        "what": "many jobs at once under one operator, with pods that succeed as soon as they run",
        "command": f"python bench/many_jobs.py --jobs {options.jobs} --seconds {options.seconds:g}",
        "machine": machine(),
        "cores_used": len(os.sched_getaffinity(0)),
        "load_before": round(load, 2),
        "versions": {**versions(("kopf", "kubernetes", "aiohttp", "pydantic")), "kube-apiserver": server},
        "sources": sources(ROOT, "operator", "tests/bed"),
        "results": results,
    }


def run(options: argparse.Namespace, plane: ControlPlane, operator: Operator) -> dict[str, Any]:
    """Creates the jobs and sees them through."""
    rest = Rest(plane)
    bench = Bench(rest, NAMESPACE)
    bench.create_runtime(runtime())
    names = [f"job-{number:04}" for number in range(options.jobs)]
    idle_mib, writes_before = _resident_mib(operator.pid), _writes(plane)
    with kubelet.node(plane, NODE, {}), kubelet.Kubelet(Rest(plane), kubelet.succeed, NAMESPACE), _seen(plane) as seen:
        started = time.monotonic()
        created = {}
        for number, name in enumerate(names):
            time.sleep(max(0.0, started + options.seconds * number / options.jobs - time.monotonic()))
            bench.create(job(name))
            created[name] = time.monotonic()
        creating = time.monotonic() - started
        eventually(lambda: _phases(bench) == {"Succeeded": len(names)}, seconds=600, tell=lambda: _phases(bench))
        ended = time.monotonic()
        states = _versions(bench)
        writes = _writes(plane) - writes_before
        time.sleep(QUIET_SECONDS)
        later = _versions(bench)
    waits = sorted(seen[name] - created[name] for name in names)
    events = _events(rest)
    return {
        "jobs": len(names),
        "created_in_seconds": round(creating, 2),
        "all_succeeded_after_seconds": round(ended - started, 2),
        "create_to_batch_job_seconds": {
            "p50": round(median(waits), 3),
            "p99": round(quantiles(waits, n=100)[98], 3),
            "longest": round(waits[-1], 3),
        },
        "operator": {
            "idle_mib": idle_mib,
            "peak_mib": _peak_mib(operator.pid),
            "cpu_seconds": _cpu_seconds(operator.pid),
        },
        "api_writes_per_job": round(sum(writes.values()) / len(names), 2),
        "events_per_job": round(events / len(names), 2),
        "jobs_written_after_they_settled": sum(states[name] != later[name] for name in names),
        "restarts_of_attempts": sum(bench.status(name)["attempts"] - 1 for name in names),
    }


@contextmanager
def _seen(plane: ControlPlane) -> Iterator[dict[str, float]]:
    """When the batch Job of each job was first seen, by a watch."""
    seen: dict[str, float] = {}
    rest = Rest(plane)
    path = f"/apis/batch/v1/namespaces/{NAMESPACE}/jobs"

    def look() -> None:
        for event in rest.watch(path, rest.get(path)["metadata"]["resourceVersion"]):
            if event["type"] == "ADDED":
                seen.setdefault(event["object"]["metadata"]["labels"]["kubooth.io/job"], time.monotonic())

    threading.Thread(target=look, daemon=True).start()
    yield seen


def _phases(bench: Bench) -> Counter[str]:
    time.sleep(0.2)
    return Counter((item.get("status") or {}).get("phase", "") for item in bench.rest.items(JOBS.format(NAMESPACE)))


def _versions(bench: Bench) -> dict[str, str]:
    items = bench.rest.items(JOBS.format(NAMESPACE))
    return {item["metadata"]["name"]: item["metadata"]["resourceVersion"] for item in items}


def _writes(plane: ControlPlane) -> Counter[tuple[str, str, str]]:
    """The API server's own count of successful writes that are the operator's."""
    text = plane.kubectl("get", "--raw", "/metrics").stdout
    writes: Counter[tuple[str, str, str]] = Counter()
    for line in text.splitlines():
        if line.startswith("apiserver_request_total{"):
            labels = dict(re.findall(r'(\w+)="([^"]*)"', line))
            which = (labels["verb"], labels["resource"], labels["subresource"])
            if which in OWN_WRITES and labels["code"].startswith("2"):
                writes[which] += int(float(line.rpartition(" ")[2]))
    return writes


def _events(rest: Rest) -> int:
    items = rest.items(f"/apis/events.k8s.io/v1/namespaces/{NAMESPACE}/events")
    return sum(item.get("reportingController") == "kubooth-operator" for item in items)


def _resident_mib(pid: int) -> float:
    return _status_mib(pid, "VmRSS")


def _peak_mib(pid: int) -> float:
    return _status_mib(pid, "VmHWM")


def _status_mib(pid: int, field: str) -> float:
    found = re.search(rf"^{field}:\s+(\d+) kB$", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    assert found
    return round(int(found[1]) / 1024, 1)


def _cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return round((int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK"), 2)


def _version(plane: ControlPlane) -> str:
    version: str = json.loads(plane.kubectl("version", "-o", "json").stdout)["serverVersion"]["gitVersion"]
    return version


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=200)
    parser.add_argument("--seconds", type=float, default=10.0, help="in which they are created, evenly")
    parser.add_argument("--record", type=Path, help="where to write the figures, as JSON")
    return parser.parse_args()


if __name__ == "__main__":
    main()
