"""`kubooth doctor` in installations that the tests have broken, one fault at a time."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from bed.commands import Kubooth
from bed.controlplane import ControlPlane, control_plane
from bed.eventually import eventually
from bed.installation import OPERATOR, SYSTEM_NAMESPACE, install, manifests
from bed.jobs import runtime
from bed.operator_process import Operator
from bed.rest import RUNTIMES, Rest
from bed.s3 import ACCESS_KEY, GUEST_ACCESS_KEY, GUEST_SECRET_KEY, REGION, S3, SECRET_KEY

from kubooth_cli.cluster.rights import needed

Manifest = dict[str, Any]
DEVICES = "example.com/gpu"
SECRET = "storage"
SECRETS = "/api/v1/namespaces/default/secrets"
NODES = "/api/v1/nodes"
RUNTIME_CRD = "personalizationruntimes.kubooth.io"


@dataclass
class Installation:
    """One that works, until a test breaks it."""

    plane: ControlPlane
    rest: Rest
    operator: Operator
    s3: S3

    def mend(self) -> None:
        """Makes everything as it was."""
        install(self.plane)
        for path in (f"{RUNTIMES}/default", f"{SECRETS}/{SECRET}", f"{NODES}/one"):
            self.rest.delete(path)
        places = [self.s3.uri("photos/"), self.s3.uri("models/{namespace}/")]
        storage = {"endpoint": self.s3.endpoint, "region": REGION, "credentialsSecret": SECRET}
        accelerator = {"resource": DEVICES, "perNode": 4}
        limits = {"readPrefixes": places, "writePrefixes": places[1:]}
        self.rest.post(RUNTIMES, runtime(storage=storage, accelerator=accelerator, limits=limits))
        self.credentials(AWS_ACCESS_KEY_ID=ACCESS_KEY, AWS_SECRET_ACCESS_KEY=SECRET_KEY)
        self.rest.post(NODES, {"apiVersion": "v1", "kind": "Node", "metadata": {"name": "one"}})
        self.devices(4)
        if not self.operator.is_running:
            self.operator.start()

    def credentials(self, **data: str) -> None:
        self.rest.delete(f"{SECRETS}/{SECRET}")
        secret = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": SECRET}, "stringData": data}
        self.rest.post(SECRETS, secret)

    def devices(self, count: int) -> None:
        status = {"allocatable": {DEVICES: str(count)}, "capacity": {DEVICES: str(count)}}
        self.rest.merge(f"{NODES}/one/status", {"status": status})

    def change_runtime(self, **spec: Any) -> None:
        self.rest.merge(f"{RUNTIMES}/default", {"spec": spec})


@pytest.fixture(scope="module")
def plane(control_plane_programs: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    """A control plane of this file's own: what is broken here is missed by nobody else."""
    with control_plane(tmp_path_factory.mktemp("broken")) as running:
        install(running)
        yield running


@pytest.fixture(scope="module")
def operator_here(plane: ControlPlane, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Operator]:
    operator = Operator(plane, None, tmp_path_factory.mktemp("operator"), "operator-of-the-broken")
    yield operator
    if operator.is_running:
        operator.kill()


@pytest.fixture(scope="module")
def rest_here(plane: ControlPlane) -> Iterator[Rest]:
    client = Rest(plane)
    yield client
    client.close()


@pytest.fixture
def installation(plane: ControlPlane, rest_here: Rest, operator_here: Operator, s3: S3) -> Installation:
    whole = Installation(plane, rest_here, operator_here, s3)
    whole.mend()
    return whole


@pytest.fixture
def kubooth(installation: Installation, tmp_path: Path) -> Kubooth:
    return Kubooth(tmp_path, installation.plane.admin, "default")


def findings(kubooth: Kubooth) -> tuple[int, dict[str, Manifest]]:
    """Exit code, and every finding by its check."""
    done = kubooth.try_("doctor", "-o", "json")
    assert not done.stderr, done.stderr
    return done.returncode, {each["check"]: each for each in json.loads(done.stdout)}


def no_crd(whole: Installation) -> None:
    whole.operator.stop()  # which would look for its kinds in vain
    whole.plane.kubectl("delete", "crd", RUNTIME_CRD)


def old_crd(whole: Installation) -> None:
    crd = whole.plane.get("crd", RUNTIME_CRD)
    spec = crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"]
    del spec["allowedNamespaces"]
    whole.plane.kubectl("replace", "-f", "-", input=json.dumps(crd))


def no_operator(whole: Installation) -> None:
    whole.operator.stop()


def no_binding(whole: Installation) -> None:
    whole.plane.kubectl("delete", "clusterrolebinding", OPERATOR)
    asked = ("auth", "can-i", "list", "pods", "-A", f"--as=system:serviceaccount:{SYSTEM_NAMESPACE}:{OPERATOR}")
    eventually(lambda: whole.plane.kubectl(*asked, check=False).returncode, "the end of its rights")


def no_policy(whole: Installation) -> None:
    whole.plane.kubectl("delete", "validatingadmissionpolicybinding", "kubooth-job-status")


def no_runtime(whole: Installation) -> None:
    whole.rest.delete(f"{RUNTIMES}/default")


def closed_runtime(whole: Installation) -> None:
    whole.change_runtime(allowedNamespaces=["team-a"])


def no_secret(whole: Installation) -> None:
    whole.rest.delete(f"{SECRETS}/{SECRET}")


def half_a_secret(whole: Installation) -> None:
    whole.credentials(AWS_ACCESS_KEY_ID=ACCESS_KEY)


def foreign_credentials(whole: Installation) -> None:
    whole.credentials(AWS_ACCESS_KEY_ID=GUEST_ACCESS_KEY, AWS_SECRET_ACCESS_KEY=GUEST_SECRET_KEY)


def no_bucket(whole: Installation) -> None:
    whole.change_runtime(limits={"readPrefixes": ["s3://not-there/photos/"]})


def no_storage(whole: Installation) -> None:
    whole.change_runtime(storage={"endpoint": "http://127.0.0.1:9"})


def no_device_plugin(whole: Installation) -> None:
    whole.change_runtime(accelerator={"resource": "example.com/npu"})


def few_devices(whole: Installation) -> None:
    whole.devices(2)


def no_such_nodes(whole: Installation) -> None:
    whole.change_runtime(nodeSelector={"pool": "gpu"})


SOAK = pytest.mark.soak


@pytest.mark.parametrize(
    ("break_it", "check", "words"),
    [
        (old_crd, "crd PersonalizationRuntime", "is older than this command: it lacks spec.allowedNamespaces"),
        (no_operator, "operator", "no operator leads: nobody has the Lease"),
        (no_binding, "rights", "ServiceAccount kubooth-operator of kubooth-system may not"),
        (no_policy, "policy", "ValidatingAdmissionPolicyBinding kubooth-job-status is missing"),
        (no_runtime, "runtime default", "there is no PersonalizationRuntime default (there is: none)"),
        pytest.param(
            closed_runtime,
            "runtime default",
            "jobs of namespace default are not accepted under it: it allows team-a",
            marks=SOAK,
        ),
        (no_secret, "credentials", "the Secret storage is missing in namespace default"),
        pytest.param(half_a_secret, "credentials", "has no AWS_SECRET_ACCESS_KEY", marks=SOAK),
        (foreign_credentials, "bucket", "with the Secret's credentials: "),
        (no_bucket, "bucket s3://not-there/photos", "bucket"),
        pytest.param(no_storage, "bucket", "http://127.0.0.1:9", marks=SOAK),
        (no_device_plugin, "devices", "no node offers example.com/npu: its device plugin does not run"),
        pytest.param(
            few_devices,
            "devices",
            "the runtime says 4 example.com/gpu a node, the best node has 2",
            marks=SOAK,
        ),
        pytest.param(
            no_such_nodes,
            "devices",
            "no node has the labels of the runtime's nodeSelector (pool=gpu)",
            marks=SOAK,
        ),
        (no_crd, "crd PersonalizationRuntime", f"the CRD {RUNTIME_CRD} is missing"),
    ],
    ids=lambda value: value.__name__ if callable(value) else "",
)
def test_the_fault_is_named(
    installation: Installation, kubooth: Kubooth, break_it: Callable[[Installation], None], check: str, words: str
) -> None:
    break_it(installation)
    code, found = findings(kubooth)
    assert code == 1
    faults = [each for each in found.values() if each["state"] == "fault"]
    named = [each for each in faults if each["check"].startswith(check)]
    assert named and all(words in each["message"] and each["remedy"] for each in named), faults
    others = [each["check"] for each in faults if each not in named]
    assert others == (["operator"] if break_it in (no_binding, no_crd) else [])  # which then cannot lead
    assert SECRET_KEY not in json.dumps(found) and GUEST_SECRET_KEY not in json.dumps(found)


def test_nothing_is_wrong(installation: Installation, kubooth: Kubooth) -> None:
    said = kubooth("doctor")
    assert [line.split()[0] for line in said.splitlines()] == ["ok"] * 11, said
    assert "operator-of-the-broken leads" in said and "1 of 1 nodes have 4 example.com/gpu" in said


def test_what_may_not_be_looked_at_is_said(installation: Installation, kubooth: Kubooth) -> None:
    kubooth.kubeconfig = installation.plane.user_kubeconfig("visitor")
    code, found = findings(kubooth)
    assert code == 0 and found["kubernetes"]["state"] == "ok"
    assert {each["state"] for check, each in found.items() if check != "kubernetes"} == {"unknown"}


def test_the_rights_are_those_of_the_role() -> None:
    (role,) = (each for each in manifests() if each["kind"] == "ClusterRole" and each["metadata"]["name"] == OPERATOR)
    granted = {
        (verb, group, resource, name)
        for rule in role["rules"]
        for verb in rule["verbs"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for name in rule.get("resourceNames", [""])
    }
    assert granted == {(each.verb, each.group, each.resource, each.name) for each in needed()}
