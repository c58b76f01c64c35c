"""The life of an installation, by real Helm on a cluster whose pods run: install, use, upgrade, rollback, uninstall."""

from __future__ import annotations

import json
import re
import subprocess
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
from bed.eventually import eventually
from bed.helm import CHART, PREVIOUS, RELEASE, BareCluster, Helm
from bed.jobs import job
from bed.s3 import ACCESS_KEY, REGION, S3, SECRET_KEY
from botocore.config import Config

from kubooth_trainer.claim import CLAIM, Identity

Manifest = dict[str, Any]
NAMESPACE = "kubooth-system"
TEAM = "team"
WHERE = ("-n", NAMESPACE)
WAIT = ("--wait", "--timeout", "240s")
OPERATORS = "app.kubernetes.io/component=operator"
CRDS = {"personalizationjobs.kubooth.io", "personalizationruntimes.kubooth.io"}


OTHER_SCHEMA = [
    {"op": "add", "path": "/spec/versions/0/schema/openAPIV3Schema/properties/spec/description", "value": "Of old."}
]
MUST_HAVE = "metadata.labels must have example.com/team, with a value"


class Installation:
    """A release, and a team that uses it."""

    def __init__(self, helm: Helm, bare: BareCluster) -> None:
        self.helm_program, self.bare, self.plane = helm, bare, bare.plane

    def helm(self, *args: str | Path, check: bool = True) -> Any:
        return self.helm_program(*args, plane=self.plane, check=check)

    def items(self, *what: str) -> list[Manifest]:
        items: list[Manifest] = self.plane.get(*what)["items"]
        return items

    def submit(self, name: str, *options: str) -> subprocess.CompletedProcess[str]:
        command = ("create", "-n", TEAM, "-f", "-", *options)
        return self.plane.kubectl(*command, input=json.dumps(job(name)), check=not options)

    def status(self, name: str) -> Manifest:
        status: Manifest = self.plane.get("pjob", name, "-n", TEAM).get("status") or {}
        return status

    def wait_for(self, name: str, phase: str) -> Manifest:
        def look() -> bool:
            return bool(self.status(name).get("phase") == phase)

        eventually(look, f"{name} {phase}", seconds=120, tell=lambda: f"{self.status(name)}\n{self.logs()}")
        return self.status(name)

    def logs(self) -> str:
        wanted = ["logs", *WHERE, "-l", OPERATORS, "--tail=40", "--prefix"]
        return str(self.plane.kubectl(*wanted, check=False).stdout)

    def operators(self) -> list[Manifest]:
        """The operator's pods that are to stay."""
        pods = self.items("pods", *WHERE, "-l", OPERATORS)
        return [pod for pod in pods if "deletionTimestamp" not in pod["metadata"]]

    def identities(self) -> dict[str, str]:
        """UIDs of all that a team's jobs have, pods and children."""
        kinds = "pjob,jobs.batch,pods,configmaps,services,serviceaccounts,roles,rolebindings,networkpolicies"
        found = self.items(kinds, "-n", TEAM)
        return {f"{each['kind']}/{each['metadata']['name']}": each["metadata"]["uid"] for each in found}

    def of_release(self) -> set[str]:
        """What there is of the chart's in the whole cluster, by its label."""
        listed = self.plane.kubectl("api-resources", "--verbs=list", "-o", "name").stdout.split()
        kinds = ",".join(kind for kind in listed if not kind.startswith(("events", "componentstatuses")))
        selector = "app.kubernetes.io/managed-by=Helm"
        found = self.items(kinds, "-A", "-l", selector)
        return {f"{each['kind']}/{each['metadata']['name']}" for each in found}


@pytest.fixture
def installation(helm: Helm, bare_cluster: BareCluster) -> Iterator[Installation]:
    """The cluster, with a team's namespace and nothing of Kubooth's; emptied afterwards, CRDs apart."""
    made = Installation(helm, bare_cluster)
    bare_cluster.hold_trainers()
    made.plane.kubectl("create", "namespace", TEAM)
    yield made
    bare_cluster.let_trainers_end()
    for release in json.loads(made.helm("list", "-A", "-o", "json").stdout):
        made.helm("uninstall", release["name"], "-n", release["namespace"], "--wait")
    made.plane.kubectl("delete", "namespace", TEAM)
    made.plane.kubectl("delete", "prt", "--all", "--ignore-not-found", check=False)


def test_the_life_of_an_installation(installation: Installation, tmp_path: Path) -> None:
    here = installation
    here.helm("package", CHART, "--version", PREVIOUS, "--app-version", PREVIOUS, "-d", tmp_path)
    old = tmp_path / f"kubooth-{PREVIOUS}.tgz"

    # Install, with the defaults alone.
    said = here.helm("install", "kubooth", old, *WHERE, "--create-namespace", *WAIT).stdout
    assert "helm test kubooth -n kubooth-system" in said and "kubectl apply -f my-job.yaml" in said
    assert "ATTENTION" not in said
    assert len({pod["spec"]["nodeName"] for pod in here.operators()}) == 2
    tested = here.helm("test", "kubooth", *WHERE, "--timeout", "120s").stdout
    assert re.search(r"Phase: +Succeeded", tested), tested

    # A job runs, under the operator's own pods.
    here.submit("rex")
    running = here.wait_for("rex", "Running")
    assert running["runtimeSnapshot"]["name"] == "default"
    (pod,) = here.items("pods", "-n", TEAM)
    assert pod["spec"]["containers"][0]["image"] == f"kubooth/trainer:{PREVIOUS}"
    before = here.identities()

    # Upgrade: another operator, the same job. CRDs of another release are told of, and brought by the command.
    operators = here.operators()
    here.plane.kubectl("patch", "crd", "personalizationjobs.kubooth.io", "--type=json", "-p", json.dumps(OTHER_SCHEMA))
    said = here.helm("upgrade", "kubooth", CHART, *WHERE, *WAIT, "--set", "operator.workers=4").stdout
    assert "the CRD personalizationjobs.kubooth.io is not of this release" in said
    assert "the CRD personalizationruntimes.kubooth.io is not" not in said
    crds = here.helm("show", "crds", CHART).stdout
    here.plane.kubectl("apply", "--server-side", "--force-conflicts", "-f", "-", input=crds)
    assert images(here) == {f"kubooth/operator:{RELEASE}"}
    assert uids(operators).isdisjoint(uids(here.operators()))
    assert here.identities() == before and here.status("rex")["attempts"] == 1

    # An upgrade that cannot come up takes nothing away; a rollback mends it.
    said = here.helm("upgrade", "kubooth", CHART, *WHERE, "--set", "operator.image.tag=none").stdout
    assert "ATTENTION" not in said
    eventually(
        lambda: waiting(here) & {"ErrImagePull", "ImagePullBackOff"},
        "an image that is not there",
        tell=lambda: waiting(here),
    )
    here.submit("mia")
    here.wait_for("mia", "Running")
    before = here.identities()
    here.helm("rollback", "kubooth", "1", *WHERE, *WAIT)
    assert images(here) == {f"kubooth/operator:{PREVIOUS}"}
    assert here.identities() == before

    # Both replicas are killed at once; when others work, the jobs end well, and are counted.
    here.plane.kubectl("delete", "pods", *WHERE, "-l", OPERATORS, "--grace-period=0", "--force")
    eventually(lambda: leading(here) == [0, 1], "two others", seconds=120, tell=here.logs)
    assert here.identities() == before
    here.bare.let_trainers_end()
    assert here.wait_for("rex", "Succeeded")["attempts"] == 1
    here.wait_for("mia", "Succeeded")
    figures = "\n".join(metrics(pod) for pod in here.operators())
    assert 'kubooth_jobs_finished_total{phase="Succeeded",reason="Succeeded"} 2.0' in figures

    # Uninstall: what people wrote stays, and what their jobs made.
    left = here.identities()
    said = here.helm("uninstall", "kubooth", *WHERE, "--wait").stdout
    kept = {"PersonalizationRuntime/default"}
    eventually(lambda: here.of_release() == kept, "nothing left", tell=lambda: f"{said}\n{here.of_release()}")
    assert here.identities() == left and here.status("rex")["phase"] == "Succeeded"
    assert {crd["metadata"]["name"] for crd in here.items("crd")} == CRDS

    # Again, in another namespace: the runtime that stayed belongs to the release of that name and namespace alone.
    refused = here.helm("install", "kubooth", CHART, "-n", "elsewhere", "--create-namespace", check=False)
    assert refused.returncode != 0 and 'PersonalizationRuntime "default"' in refused.stderr, refused.stderr
    here.helm("install", "kubooth", CHART, *WHERE, "--set", "jobs.requiredLabels={example.com/team}")
    eventually(lambda: MUST_HAVE in here.submit("bob", "--dry-run=server").stderr, "a rule for labels")
    asked = ("--set", "metrics.podMonitor.enabled=true", "--reuse-values")
    lacking = here.helm("upgrade", "kubooth", CHART, *WHERE, *asked, check=False)
    assert 'no matches for kind "PodMonitor"' in lacking.stderr, lacking.stderr
    second = here.helm("install", "two", CHART, "-n", "elsewhere", check=False)
    assert "Kubooth is installed already, as release kubooth in namespace kubooth-system" in second.stderr


@pytest.fixture
def store(bare_cluster: BareCluster, s3_credentials: None) -> Iterator[S3]:
    """A bucket of the cluster's own store, with work of a job `rex` that is there and of a job `tom` that is not."""
    endpoint = bare_cluster.cluster.s3_endpoint
    where = Config(s3={"addressing_style": "path"}, proxies={})
    client = boto3.Session().client("s3", endpoint_url=endpoint, region_name=REGION, config=where)
    client.create_bucket(Bucket="results")
    yield S3(endpoint, client, "results")
    client.close()


def test_what_deleted_jobs_left_is_cleared_away(installation: Installation, store: S3, tmp_path: Path) -> None:
    here, path = installation, tmp_path / "values.yaml"
    values = {
        "leftovers": {
            "enabled": True,
            "maxAge": "0s",
            "locations": [{"uri": store.uri("out/")}],
            "credentialsSecret": "store",
        },
        "runtime": {"spec": {"storage": {"endpoint": store.endpoint, "region": REGION}}},
    }
    path.write_text(json.dumps(values))
    here.helm("install", "kubooth", CHART, *WHERE, "--create-namespace", "--values", path)
    keys = {"AWS_ACCESS_KEY_ID": ACCESS_KEY, "AWS_SECRET_ACCESS_KEY": SECRET_KEY}
    here.plane.kubectl(
        "create", "secret", "generic", "store", *WHERE, *(f"--from-literal={name}={key}" for name, key in keys.items())
    )
    here.submit("rex")
    uid = here.plane.get("pjob", "rex", "-n", TEAM)["metadata"]["uid"]
    for name, owner in (("rex", uid), ("tom", "gone")):
        who = Identity(name=name, namespace=TEAM, uid=owner, attempt=1, digest="d")
        store.put(f"out/{name}/.kubooth/checkpoints/{CLAIM}", who.to_json())
        store.put(f"out/{name}/.kubooth/checkpoints/attempt-1/step-000100/weights.safetensors", b"w" * 1000)
    here.plane.kubectl("create", "job", "now", "--from=cronjob/kubooth-leftovers", *WHERE)

    def said() -> str:
        return str(here.plane.kubectl("logs", *WHERE, "job/now", check=False).stdout)

    def has_ended() -> bool:
        status = here.plane.get("job", "now", *WHERE).get("status") or {}
        assert not status.get("failed"), said()
        return bool(status.get("succeeded"))

    eventually(has_ended, "the end of the Job", seconds=120, tell=said)
    assert all(key.startswith("out/rex/") for key in store.keys()) and len(store.keys()) == 2  # noqa: SIM118
    assert "tom" in said() and "1.0 kB cleared away" in said()


def uids(objects: list[Manifest]) -> set[str]:
    return {each["metadata"]["uid"] for each in objects}


def images(here: Installation) -> set[str]:
    return {pod["spec"]["containers"][0]["image"] for pod in here.operators()}


def waiting(here: Installation) -> set[str]:
    """Why containers of the operator's pods wait."""
    states = [each["state"] for pod in here.operators() for each in pod["status"].get("containerStatuses", ())]
    return {state["waiting"]["reason"] for state in states if "waiting" in state}


def leading(here: Installation) -> list[int]:
    """Of each replica that answers: 1 where it works, 0 where it stands by."""
    found = [re.search(r"^kubooth_leader (\d)", metrics(pod), re.MULTILINE) for pod in here.operators()]
    return sorted(int(each[1]) for each in found if each)


def metrics(pod: Manifest) -> str:
    """What one replica serves; nothing where it does not answer yet."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(f"http://{pod['status'].get('podIP')}:8080/metrics", timeout=10) as answer:
            return str(answer.read().decode())
    except OSError:
        return ""
