"""Alerts and dashboard: promtool takes them, alerts fire when they should, and both ask for metrics that there are."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

import pytest
import yaml
from bed import gobuild
from bed.figures import filled, job, training
from bed.helm import CHART, Helm
from bed.prometheus import PICTURE, RECORDED, Prometheus, panels, picture_digest, prometheus
from PIL import Image
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample

HERE = Path(__file__).parent
FILES = CHART / "files" / "monitoring"
METRICS = CHART.parents[1] / "docs" / "metrics.md"
ROWS = re.findall(r"^\| `(kubooth_\w+)` \| (\w+) \| ([^|]*?) ?\|", METRICS.read_text(), re.MULTILINE)
LABELS = {name: set(re.findall(r"`(\w+)`", labels)) for name, _, labels in ROWS}
HISTOGRAMS = {name for name, type_, _ in ROWS if type_ == "histogram"}


@pytest.fixture(scope="module")
def promtool(request: pytest.FixtureRequest) -> Path:
    with request.config.pluginmanager.getplugin("capturemanager").global_and_fixture_disabled():
        return gobuild.programs("promtool")["promtool"]


def alerts() -> dict[str, str]:
    (group,) = yaml.safe_load((FILES / "alerts.yaml").read_text())["groups"]
    return {rule["alert"]: rule["expr"] for rule in group["rules"]}


def queries() -> dict[str, str]:
    """Those of the dashboard by panel, with Grafana's variables filled in."""
    return {query.name: query.expression(6 * 3600, "5m") for panel in panels() for query in panel.queries}


@pytest.fixture(scope="module")
def recorded(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Prometheus:
    """What two operators served through four busy minutes, in a real Prometheus."""
    with request.config.pluginmanager.getplugin("capturemanager").global_and_fixture_disabled():
        gobuild.programs("promtool", "promquery")
    return prometheus(RECORDED, tmp_path_factory.mktemp("prometheus"))


def run(*command: str | Path) -> str:
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_alerts_fire_when_they_should(promtool: Path) -> None:
    run(promtool, "check", "rules", "--lint=all", "--lint-fatal", FILES / "alerts.yaml")
    run(promtool, "test", "rules", HERE / "alerts_test.yaml")
    tested = {each["alertname"] for test in cases() for each in test["alert_rule_test"] if each["exp_alerts"]}
    assert tested == set(alerts())


def test_the_queries_of_the_dashboard_are_taken(promtool: Path, tmp_path: Path) -> None:
    """As recording rules, which are read as strictly."""
    rules = [{"record": f"query:{number}", "expr": query} for number, query in enumerate(queries().values())]
    path = tmp_path / "rules.yaml"
    path.write_text(yaml.safe_dump({"groups": [{"name": "dashboard", "rules": rules}]}))
    assert f"{len(rules)} rules found" in run(promtool, "check", "rules", path)


def test_every_query_of_the_dashboard_has_an_answer(promtool: Path, tmp_path: Path) -> None:
    """From what an operator serves that has seen everything, and goes on seeing it: an alert for each says so."""
    rules = [
        {"alert": f"Query{number}", "expr": f"count({query}) > 0"} for number, query in enumerate(queries().values())
    ]
    (tmp_path / "rules.yaml").write_text(yaml.safe_dump({"groups": [{"name": "dashboard", "rules": rules}]}))
    exposition = filled([training("rex"), job("mia", phase="Starting", reason="Queued")]).text().decode()
    served = [each for family in text_string_to_metric_families(exposition) for each in family.samples]
    series = [
        {"series": each.name + json.dumps(each.labels).replace('": "', '"="'), "values": over_time(each)}
        for each in served
        if each.name.startswith(("kubooth_", "process_"))
    ]
    fired = [
        {"eval_time": "30m", "alertname": rule["alert"], "exp_alerts": [{"exp_labels": {}, "exp_annotations": {}}]}
        for rule in rules
    ]
    whole = {"rule_files": ["rules.yaml"], "evaluation_interval": "1m"}
    test = {"interval": "1m", "input_series": series, "alert_rule_test": fired}
    (tmp_path / "test.yaml").write_text(yaml.safe_dump({**whole, "tests": [test]}))
    run(promtool, "test", "rules", tmp_path / "test.yaml")


def test_every_query_of_the_dashboard_shows_something_of_a_recorded_run(recorded: Prometheus) -> None:
    asked = [query for panel in panels() for query in panel.queries]
    answers = recorded.over_time([query.expression(recorded.seconds) for query in asked], step=10)
    for query, shown in zip(asked, answers, strict=True):
        assert any(series.points for series in shown), f"{query.name}: {query.text}"
        legends = [query.legend_of(series.labels) for series in shown]
        assert all(legends) and len(set(legends)) == len(legends), f"{query.name}: {legends}"


def test_what_the_recorded_run_was_like_is_seen_on_the_dashboard(recorded: Prometheus) -> None:
    """Jobs that failed, waited, were suspended, and an operator that was killed."""
    (at_once, leaders) = recorded.over_time(["sum(kubooth_leader)", "kubooth_leader"], step=10)
    assert max(value for series in at_once for _, value in series.points) == 1
    assert len(leaders) == 2 and all(any(value for _, value in series.points) for series in leaders)

    def labels(title: str, label: str) -> set[str]:
        (query,) = next(panel for panel in panels() if panel.title == title).queries
        (shown,) = recorded.over_time([query.expression(recorded.seconds)], step=10)
        return {series.labels[label] for series in shown}

    assert labels("Failed within an hour, by reason", "reason") == {"BadSubject", "OutOfMemory", "TrainerCrashed"}
    assert {"Unschedulable", "Refused", "Suspended"} <= labels("Why jobs wait", "reason")
    assert {"Running", "Starting", "Suspended"} <= labels("Jobs by phase", "phase")


def test_the_picture_in_the_documentation_is_of_this_dashboard_and_this_recording() -> None:
    """`python bench/dashboard_picture.py` draws it anew."""
    with Image.open(PICTURE) as image:
        assert image.info["Comment"] == picture_digest()
    assert PICTURE.stat().st_size < 300_000


def over_time(sample: Sample) -> str:
    """Half an hour of it, in promtool's words: a counter adds its value each minute, a gauge stays."""
    is_gauge = not sample.name.endswith(("_total", "_bucket", "_sum", "_count"))
    return f"{sample.value}x40" if is_gauge else f"0+{sample.value}x40"


@pytest.mark.parametrize("query", sorted({**alerts(), **queries()}))
def test_metrics_and_labels_that_are_asked_for_are_documented(query: str) -> None:
    text = {**alerts(), **queries()}[query]
    names = re.findall(r"\bkubooth_\w+", text)
    assert names
    known = {f"{name}_bucket" if name in HISTOGRAMS else name: labels for name, labels in LABELS.items()}
    assert set(names) <= set(known)
    labels = set().union(*(known[name] for name in names)) | {"le"}
    grouped = {label for found in re.findall(r"by \(([^)]*)\)", text) for label in found.split(", ")}
    matched = set(re.findall(r"[{,](\w+)[=!]", text))
    assert grouped | matched <= labels


def test_every_documented_metric_is_on_the_dashboard_or_raises_an_alert() -> None:
    shown = set(re.findall(r"\bkubooth_\w+", " ".join([*queries().values(), *alerts().values()])))
    assert {name.removesuffix("_bucket") for name in shown} == set(LABELS) - {"kubooth_build_info"}


def test_the_chart_carries_both_as_they_are(helm: Helm) -> None:
    values = ("--set", "metrics.prometheusRule.enabled=true", "--set", "metrics.dashboard.enabled=true")
    text = helm("template", "kubooth", CHART, *values, "--show-only", "templates/monitoring.yaml").stdout
    found = {each["kind"]: each for each in yaml.safe_load_all(text) if each}
    assert found["PrometheusRule"]["spec"] == yaml.safe_load((FILES / "alerts.yaml").read_text())
    assert json.loads(found["ConfigMap"]["data"]["kubooth.json"]) == json.loads((FILES / "dashboard.json").read_text())


def test_the_alerts_of_the_documentation_are_those_that_there_are() -> None:
    assert re.findall(r"^\| `(Kubooth\w+)` \|", METRICS.read_text(), re.MULTILINE) == list(alerts())


def cases() -> list[dict[str, list[dict[str, str]]]]:
    tests: list[dict[str, list[dict[str, str]]]] = yaml.safe_load((HERE / "alerts_test.yaml").read_text())["tests"]
    return tests
