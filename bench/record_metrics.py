"""Records what operators serve at /metrics through four busy minutes: what the dashboard is tested and drawn with.

    python bench/record_metrics.py      # tests/chart/recorded/operator.om.xz, in OpenMetrics' text format
    python bench/record_metrics.py --minutes 2 --to /tmp/trial.om.xz

A real control plane and scheduler, and two real operators of which one works; both are scraped every ten seconds. Jobs
of three teams contend for eight devices; some fail, some lose a peer and go on, some are suspended for a while, a team
is over its quota for a while, and half-way the operator that works is killed. The pods are played (`played_pods`).
"""

from __future__ import annotations

import argparse
import lzma
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

sys.path.append(str(Path(__file__).resolve().parent.parent / "tests"))

from bed import kubelet
from bed.controlplane import ControlPlane, control_plane
from bed.installation import install
from bed.jobs import Bench, job, runtime
from bed.operator_process import Operator
from bed.prometheus import RECORDED
from bed.rest import JOBS, Rest
from played_pods import DEVICE, Part, Pods
from prometheus_client.parser import text_string_to_metric_families

SCRAPE_SECONDS = 10
TEAMS = ("vision", "pets", "studio")
DEVICES = 8
JOBS_PER_MINUTE = 9
KEPT = ("kubooth_", "process_cpu_seconds", "process_resident_memory_bytes")
PARTS: dict[int, Part] = {
    1: "loses a peer", 2: "bad photos", 5: "out of memory", 6: "loses a peer", 9: "crashes", 13: "bad photos",
    17: "loses a peer", 22: "out of memory", 31: "bad photos",
}  # fmt: skip


@dataclass
class Recording:
    """Series by family, in the order in which they were met."""

    families: dict[tuple[str, str], dict[str, list[str]]] = field(default_factory=dict)

    def take(self, text: str, instance: str, at: int) -> None:
        """One scrape of one operator."""
        for family in text_string_to_metric_families(text):
            if not family.name.startswith(KEPT):
                continue
            series = self.families.setdefault((family.name, family.type), {})
            for sample in family.samples:
                labels = ",".join(
                    f'{name}="{value}"' for name, value in {**sample.labels, "instance": instance}.items()
                )
                series.setdefault(f"{sample.name}{{{labels}}}", []).append(f"{sample.value:.10g} {at}")

    def text(self) -> str:
        """OpenMetrics, series by series."""
        lines = []
        for (name, type_), series in self.families.items():
            lines.append(f"# TYPE {name} {type_}")
            lines += [f"{which} {value}" for which, values in series.items() for value in values]
        return "\n".join([*lines, "# EOF", ""])


def main() -> None:
    options = _options()
    with TemporaryDirectory(dir="/dev/shm" if Path("/dev/shm").is_dir() else None) as folder:
        recording = record(Path(folder), minutes=options.minutes)
    options.to.parent.mkdir(parents=True, exist_ok=True)
    options.to.write_bytes(lzma.compress(recording.text().encode(), preset=9))
    print(f"{options.to}: {options.to.stat().st_size} bytes")


def record(folder: Path, *, minutes: float) -> Recording:
    """The whole run."""
    with control_plane(folder / "plane") as plane, _operators(plane, folder) as operators:
        for team in TEAMS:
            plane.kubectl("create", "namespace", team)
            plane.kubectl("wait", "--for=create", "serviceaccount/default", "-n", team, "--timeout=60s")
        benches = [Bench(Rest(plane), team) for team in TEAMS]
        spec = {"accelerator": {"resource": DEVICE, "perNode": 1}, "price": {"perDeviceHour": 2.5}}
        benches[0].create_runtime(runtime(**spec))
        names = [f"{TEAMS[number % len(TEAMS)]}-{number:02}" for number in range(int(JOBS_PER_MINUTE * minutes))]
        parts = {names[number]: part for number, part in PARTS.items() if number < len(names)}
        with kubelet.node(plane, "played", {DEVICE: str(DEVICES)}), Pods(plane, TEAMS, parts):
            return _drive(benches, operators, names, parts, seconds=60 * minutes)


def _drive(
    benches: list[Bench], operators: list[Operator], names: list[str], parts: dict[str, Part], *, seconds: float
) -> Recording:
    """Creates jobs over two thirds of the time, lets happen what happens, and scrapes."""
    recording, start = Recording(), time.monotonic()
    due: list[tuple[float, Callable[[], object]]] = [
        (seconds * 0.66 * (number // 3) / (len(names) / 3), _creation(benches[number % 3], number, name, parts))
        for number, name in enumerate(names)
    ]
    due += [(seconds * share, act) for share, act in _incidents(benches, operators)]
    due += [(each, lambda: _scrape(operators, recording)) for each in range(0, int(seconds), SCRAPE_SECONDS)]
    for when, act in sorted(due, key=lambda each: each[0]):
        time.sleep(max(0.0, start + when - time.monotonic()))
        act()
    return recording


def _creation(bench: Bench, number: int, name: str, parts: dict[str, Part]) -> Callable[[], object]:
    restarts = 0 if parts.get(name) in ("crashes", "out of memory") else 3
    spec = {"runPolicy": {"maxRestarts": restarts}}
    return lambda: bench.create(
        job(name, nodes=2 if number % 7 == 0 or parts.get(name) == "loses a peer" else 1, **spec)
    )


def _incidents(benches: list[Bench], operators: list[Operator]) -> Iterator[tuple[float, Callable[[], object]]]:
    """At which share of the time what happens."""
    quotas = f"/api/v1/namespaces/{benches[1].namespace}/resourcequotas"
    tight = {"metadata": {"name": "tight"}, "spec": {"hard": {"count/services": "1"}}}
    yield 0.22, lambda: [_suspend(bench, suspend=True) for bench in benches]
    yield 0.36, lambda: benches[1].rest.post(quotas, tight)
    yield 0.46, lambda: [_suspend(bench, suspend=False) for bench in benches]
    yield 0.50, lambda: benches[1].rest.delete(f"{quotas}/tight")
    yield 0.56, operators[0].kill
    yield 0.64, lambda: operators[0].start(until="")


def _suspend(bench: Bench, *, suspend: bool) -> None:
    """The first job there that runs, or every one that is suspended."""
    found = bench.rest.items(JOBS.format(bench.namespace))
    wanted = [
        item for item in found if (item.get("status") or {}).get("phase") == ("Running" if suspend else "Suspended")
    ]
    for item in wanted[:1] if suspend else wanted:
        bench.rest.merge(bench.job_path(item["metadata"]["name"]), {"spec": {"suspend": suspend}})


def _scrape(operators: list[Operator], recording: Recording) -> None:
    at = int(time.time())
    for operator in operators:
        recording.take(operator.metrics(), operator.identity, at)


@contextmanager
def _operators(plane: ControlPlane, folder: Path) -> Iterator[list[Operator]]:
    install(plane)
    operators = [Operator(plane, None, folder, f"kubooth-operator-{number}") for number in range(2)]
    try:
        operators[0].start()
        operators[1].start(until="")
        yield operators
    finally:
        for operator in operators:
            if operator.is_running:
                operator.kill()


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=4)
    parser.add_argument("--to", type=Path, default=RECORDED)
    return parser.parse_args()


if __name__ == "__main__":
    main()
