"""What the chart makes of values: golden renders, refusals, and what must hold of every render.

`KUBOOTH_WRITE_GOLDEN=1 scripts/test tests/chart/test_render.py` writes `golden/` anew. Read the difference before you
commit it: it is what an upgrade changes on every cluster.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from bed import gobuild
from bed.controlplane import ControlPlane
from bed.helm import CHART, Helm
from bed.schemas import write_schemas

Manifest = dict[str, Any]
HERE = Path(__file__).parent
EXAMPLES = CHART.parents[1] / "examples"
GOLDEN = HERE / "golden"
WRITE = os.environ.get("KUBOOTH_WRITE_GOLDEN") == "1"
SETS = sorted(path.stem for path in (HERE / "values").glob("*.yaml"))
NAMESPACE = "kubooth-system"
OF_PROMETHEUS = "monitoring.coreos.com/v1"


def render(helm: Helm, name: str, *more: str) -> str:
    values = ("--values", HERE / "values" / f"{name}.yaml")
    return helm("template", "kubooth", CHART, "--namespace", NAMESPACE, "--kube-version", "1.30", *values, *more).stdout


def manifests(helm: Helm, name: str) -> list[Manifest]:
    return [document for document in yaml.safe_load_all(render(helm, name)) if document]


def refusal(helm: Helm, tmp_path: Path, values: Manifest, *more: str) -> str:
    path = tmp_path / "values.yaml"
    path.write_text(json.dumps(values))
    done = helm("template", "kubooth", CHART, "--values", path, *more, check=False)
    assert done.returncode != 0, f"{values} was taken"
    return done.stderr


@pytest.mark.parametrize("name", SETS)
def test_golden_renders(helm: Helm, name: str) -> None:
    path, text = GOLDEN / f"{name}.yaml", render(helm, name)
    if WRITE:
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    assert path.read_text() == text, "see the docstring of this file"


@pytest.mark.parametrize("name", SETS)
def test_lint_finds_nothing(helm: Helm, name: str) -> None:
    said = helm("lint", "--strict", CHART, "--values", HERE / "values" / f"{name}.yaml").stdout
    assert "[WARNING]" not in said and "[ERROR]" not in said


WRONG: dict[str, tuple[Manifest, str]] = {
    "a name that is none": ({"opertor": {}}, "'opertor' not allowed"),
    "a name deeper down": ({"operator": {"replica": 3}}, "at '/operator': additional properties 'replica' not allowed"),
    "no replica": ({"operator": {"replicas": 0}}, "at '/operator/replicas'"),
    "replicas as text": ({"operator": {"replicas": "2"}}, "at '/operator/replicas': got string, want integer"),
    "too many workers": ({"operator": {"workers": 65}}, "at '/operator/workers'"),
    "a log format": ({"operator": {"logFormat": "xml"}}, "at '/operator/logFormat'"),
    "a digest that is none": ({"operator": {"image": {"digest": "sha256:12"}}}, "at '/operator/image/digest'"),
    "a pull policy": ({"operator": {"image": {"pullPolicy": "Often"}}}, "at '/operator/image/pullPolicy'"),
    "a tag in the repository": ({"trainer": {"image": {"repository": "a/b:1"}}}, "at '/trainer/image/repository'"),
    "a switch as text": ({"metrics": {"podMonitor": {"enabled": "yes"}}}, "at '/metrics/podMonitor/enabled'"),
    "a port": (
        {"networkPolicy": {"trainers": {"apiServerPorts": [0]}}},
        "at '/networkPolicy/trainers/apiServerPorts/0'",
    ),
    "an address without its length": (
        {"networkPolicy": {"trainers": {"apiServerCidrs": ["10.0.0.1"]}}},
        "at '/networkPolicy/trainers/apiServerCidrs/0'",
    ),
    "a budget of none": (
        {"operator": {"podDisruptionBudget": {"maxUnavailable": 0}}},
        "at '/operator/podDisruptionBudget/maxUnavailable'",
    ),
    "a value of a priority": ({"priorityClasses": [{"name": "a", "value": 2e9}]}, "at '/priorityClasses/0/value'"),
    "a pull secret as text": ({"imagePullSecrets": ["mirror"]}, "at '/imagePullSecrets/0': got string, want object"),
    "a viewer that is nobody": (
        {"rbac": {"runtimeViewers": [{"kind": "Team", "name": "a"}]}},
        "at '/rbac/runtimeViewers/0/kind'",
    ),
    "an account without a name": ({"serviceAccount": {"name": ""}}, "at '/serviceAccount/name'"),
    "leftovers of nowhere": ({"leftovers": {"enabled": True}}, "at '/leftovers/locations': minItems"),
    "leftovers of a folder": (
        {"leftovers": {"locations": [{"uri": "file:///models/"}]}},
        "at '/leftovers/locations/0/uri'",
    ),
    "an age without a unit": ({"leftovers": {"maxAge": "7"}}, "at '/leftovers/maxAge'"),
    "a field of the runtime": (
        {"runtime": {"spec": {"acelerator": {}}}},
        "at '/runtime/spec': additional properties 'acelerator' not allowed",
    ),
    "a missing field of the runtime": (
        {"runtime": {"spec": {"accelerator": {"resource": "nvidia.com/gpu"}}}},
        "at '/runtime/spec/accelerator': missing property 'perNode'",
    ),
    "a bound of the runtime": ({"runtime": {"spec": {"limits": {"steps": 0}}}}, "at '/runtime/spec/limits/steps'"),
    **{
        f"{path}/{name} without a value": (values, f"at '{path}': missing property '{name}'")
        for path, name, values in (
            ("", "jobs", {"jobs": None}),
            ("", "leftovers", {"leftovers": None}),
            ("/operator", "topologySpread", {"operator": {"topologySpread": None}}),
            ("/operator", "podDisruptionBudget", {"operator": {"podDisruptionBudget": None}}),
            ("/networkPolicy", "operator", {"networkPolicy": {"operator": None}}),
            ("/networkPolicy", "trainers", {"networkPolicy": {"trainers": None}}),
            ("/networkPolicy/operator", "egress", {"networkPolicy": {"operator": {"egress": None}}}),
            ("/metrics", "dashboard", {"metrics": {"dashboard": None}}),
        )
    },
    "a bound of a default": (
        {"runtime": {"spec": {"defaults": {"training": {"learningRate": 0}}}}},
        "at '/runtime/spec/defaults/training/learningRate'",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
def test_wrong_values_are_refused_with_their_path(helm: Helm, tmp_path: Path, case: str) -> None:
    values, expected = WRONG[case]
    said = refusal(helm, tmp_path, values)
    assert expected in said, said


def test_every_value_is_in_the_schema_and_every_default_in_the_values() -> None:
    def check(schema: Manifest, values: Any, path: str) -> None:
        properties = schema.get("properties")
        if properties is None or path == "runtime.spec":
            return
        optional = {"global"}  # Helm's own
        assert set(properties) - optional == set(values), path
        for name, each in properties.items():
            if isinstance(values.get(name), dict):
                check(each, values[name], f"{path}.{name}".strip("."))

    schema = json.loads((CHART / "values.schema.json").read_text())
    check(schema, yaml.safe_load((CHART / "values.yaml").read_text()), "")


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("runtime*.yaml")), ids=lambda path: path.stem)
def test_the_runtimes_of_the_examples_are_values(helm: Helm, tmp_path: Path, path: Path) -> None:
    spec = yaml.safe_load(path.read_text())["spec"]
    values = tmp_path / "values.yaml"
    values.write_text(json.dumps({"runtime": {"spec": spec}}))
    only = ("--show-only", "templates/runtime.yaml")
    (made,) = yaml.safe_load_all(helm("template", "kubooth", CHART, "--values", values, *only).stdout)
    assert made["spec"] == spec


@pytest.mark.parametrize("name", SETS)
def test_names_of_digits_stay_text(helm: Helm, name: str) -> None:
    """Namespaces, releases and accounts may be called 12; YAML would take that for a number."""
    values = ("--values", HERE / "values" / f"{name}.yaml", "--set-string", "serviceAccount.name=21")
    viewer = "rbac.runtimeViewers[0]"
    values += ("--set-string", f"{viewer}.kind=ServiceAccount,{viewer}.name=21,{viewer}.namespace=12")
    text = helm("template", "12", CHART, "--namespace", "12", *values, "--kube-version", "1.30").stdout
    numbers = [path for made in yaml.safe_load_all(text) if made for path in numbers_that_should_be_names(made)]
    assert not numbers


def numbers_that_should_be_names(value: Any, path: str = "") -> Iterator[str]:
    if isinstance(value, dict | list):
        for name, each in value.items() if isinstance(value, dict) else enumerate(value):
            yield from numbers_that_should_be_names(each, f"{path}/{name}")
    elif value in (12, 21):
        yield path


def test_an_old_cluster_is_told_the_version_it_needs(helm: Helm, tmp_path: Path) -> None:
    said = refusal(helm, tmp_path, {}, "--kube-version", "1.29.4")
    assert "chart requires kubeVersion: >=1.30.0-0 which is incompatible with Kubernetes v1.29.4" in said


@pytest.mark.parametrize("name", SETS)
def test_the_api_server_takes_every_object(helm: Helm, api_server: ControlPlane, name: str) -> None:
    """By a dry run on the server, with strict validation. It has no kinds of the Prometheus operator."""
    whole = manifests(helm, name)
    known = [each for each in whole if each["apiVersion"] != OF_PROMETHEUS]
    assert len(whole) - len(known) == (2 if name == "monitored" else 0)
    items = json.dumps({"apiVersion": "v1", "kind": "List", "items": known})
    dry = ("apply", "--server-side", "--force-conflicts", "--dry-run=server", "--validate=strict", "-f", "-")
    done = api_server.kubectl(*dry, input=items)
    assert len(done.stdout.splitlines()) == len(known) and "Warning" not in done.stderr, done.stderr


@pytest.fixture(scope="module")
def kubeconform(
    request: pytest.FixtureRequest, api_server: ControlPlane, tmp_path_factory: pytest.TempPathFactory
) -> list[str]:
    """The program, with schemas of the API server's own."""
    with request.config.pluginmanager.getplugin("capturemanager").global_and_fixture_disabled():
        program = gobuild.programs("kubeconform")["kubeconform"]
    return [str(program), "-strict", "-schema-location", write_schemas(api_server, tmp_path_factory.mktemp("schemas"))]


@pytest.mark.parametrize("name", SETS)
def test_kubeconform_finds_nothing(helm: Helm, kubeconform: list[str], name: str) -> None:
    skipped = "PodMonitor,PrometheusRule"  # of CRDs that are not there
    command = [*kubeconform, "-summary", "-skip", skipped, "-"]
    done = subprocess.run(command, input=render(helm, name), capture_output=True, text=True)
    assert done.returncode == 0 and "Invalid: 0, Errors: 0" in done.stdout, done.stdout + done.stderr
    wrong = render(helm, name).replace("automountServiceAccountToken: true", "automountToken: true")
    done = subprocess.run(command, input=wrong, capture_output=True, text=True)
    assert "additional properties 'automountToken' not allowed" in done.stdout, "it finds what is wrong"


NOT_FOLLOWED = {
    "container-image-pull-policy": "Tags are not moved and digests cannot be: Always would only add a dependence.",
    "container-security-context-user-group-id": "1000 is the user of the image; the pod is restricted, mounts nothing.",
    "deployment-has-host-podantiaffinity": "A topology spread does the same and can be met on one node.",
}
"""Advice of kube-score that the chart does not follow, by the check's name, and why."""
NOT_FOLLOWED_BY = {
    (
        "pod-networkpolicy",
        "kubooth-operator",
    ): "Egress is closed by a value: the API server's port differs. minimal: off.",
    ("pod-networkpolicy", "kubooth-test"): "It listens on nothing, and lives for seconds.",
    ("pod-networkpolicy", "kubooth-leftovers"): "It listens on nothing, and where the store is differs.",
    ("networkpolicy-targets-pod", "kubooth-trainers"): "Trainers are made by the operator, in the namespaces of jobs.",
    ("deployment-replicas", "kubooth-operator"): "minimal asks for one.",
}
"""Of one object only."""


@pytest.fixture(scope="module")
def kube_score(request: pytest.FixtureRequest) -> list[str]:
    with request.config.pluginmanager.getplugin("capturemanager").global_and_fixture_disabled():
        program = gobuild.programs("kube-score")["kube-score"]
    no_cpu_limit = "--ignore-container-cpu-limit"  # it would slow the Lease's renewal; the request gives the share
    return [str(program), "score", no_cpu_limit, "--kubernetes-version", "v1.30", "--output-format", "json", "-"]


def advice(command: list[str], rendered: str) -> set[tuple[str, str]]:
    """(check, name of the object) of each that is below full marks."""
    done = subprocess.run(command, input=rendered, capture_output=True, text=True)
    assert done.returncode in (0, 1), done.stderr
    return {
        (check["check"]["id"], scored["object_meta"]["name"])
        for scored in json.loads(done.stdout)
        for check in scored["checks"]
        if not check["skipped"] and check["grade"] < 10
    }


def test_kube_score_finds_nothing_but_what_is_meant(helm: Helm, kube_score: list[str]) -> None:
    found = set().union(*(advice(kube_score, render(helm, name)) for name in SETS))
    assert {each for each in found if each[0] not in NOT_FOLLOWED} == set(NOT_FOLLOWED_BY)
    assert {check for check, _ in found} >= set(NOT_FOLLOWED), "an exception that is needed no more"
    wrong = render(helm, "defaults").replace("readOnlyRootFilesystem: true", "readOnlyRootFilesystem: false")
    assert ("container-security-context-readonlyrootfilesystem", "kubooth-operator") in advice(kube_score, wrong)


@pytest.mark.parametrize("name", SETS)
def test_every_pod_is_restricted_and_bounded(helm: Helm, name: str) -> None:
    pods = list(pod_specs(manifests(helm, name)))
    assert len(pods) == (3 if name == "gpu" else 2)  # the operator's, that of `helm test`, and the CronJob's
    for spec in pods:
        assert spec["securityContext"]["runAsNonRoot"] and spec["securityContext"]["seccompProfile"]
        for container in spec["containers"]:
            own = container["securityContext"]
            assert own["readOnlyRootFilesystem"] and not own["allowPrivilegeEscalation"]
            assert own["capabilities"] == {"drop": ["ALL"]}
            assert ":" in container["image"].rpartition("/")[2]


def test_the_policy_knows_the_operator_by_its_namespace_and_account(helm: Helm) -> None:
    values = ("--set", "serviceAccount.name=other", "--show-only", "templates/admissionpolicy.yaml")
    text = helm("template", "kubooth", CHART, "--namespace", "elsewhere", *values).stdout
    assert "'system:serviceaccount:elsewhere:other'" in text and "kubooth-system" not in text


def pod_specs(whole: list[Manifest]) -> Iterator[Manifest]:
    for each in whole:
        if each["kind"] == "Pod":
            yield each["spec"]
        elif each["kind"] == "Deployment":
            yield each["spec"]["template"]["spec"]
        elif each["kind"] == "CronJob":
            yield each["spec"]["jobTemplate"]["spec"]["template"]["spec"]
