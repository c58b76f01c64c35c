"""The example of the README on an installation by Helm, in pods that run the images built from the Dockerfile: a job
that really trains, under the chart's own operator."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml
from bed import devcluster
from bed.eventually import eventually
from bed.helm import CHART, RELEASE, BareCluster, Helm
from bed.images import BILL_OF_MATERIALS, Image
from bed.nodes import ROOT

NAMESPACE = "kubooth-system"
WHERE = ("-n", NAMESPACE)
JOB = ROOT / "examples" / "quickstart-s3.yaml"
TRAINER = "kubooth.test/trainer:built"
SECONDS = 1800  # a bound, not an expectation

pytestmark = [pytest.mark.soak, pytest.mark.timeout(SECONDS + 900)]


@pytest.fixture
def release(
    helm: Helm, bare_cluster: BareCluster, built_image: Callable[[str], Image], tmp_path: Path
) -> Iterator[BareCluster]:
    """An installation with the runtime of the example, on nodes that have the images."""
    images = bare_cluster.cluster.images
    before = dict(images)
    images[f"kubooth/operator:{RELEASE}"] = built_image("operator").for_pods
    images[TRAINER] = built_image("trainer").for_pods
    spec = yaml.safe_load(devcluster.RUNTIME.read_text())["spec"]
    spec["storage"]["endpoint"] = bare_cluster.cluster.s3_endpoint
    spec["image"] = TRAINER
    values = tmp_path / "values.yaml"
    values.write_text(json.dumps({"runtime": {"spec": spec}}))
    installing = ("install", "kubooth", CHART, *WHERE, "--create-namespace", "--wait", "--values", values)
    helm(*installing, plane=bare_cluster.plane)
    yield bare_cluster
    helm("uninstall", "kubooth", *WHERE, "--wait", plane=bare_cluster.plane)
    bare_cluster.plane.kubectl("delete", "prt", "default")
    images.update(before)


def test_the_quickstart_succeeds(release: BareCluster) -> None:
    plane = release.plane
    assert has_bill_of_materials(release, NAMESPACE) == [True, True]  # two operators
    devcluster.fill_buckets(release.cluster)
    plane.apply(devcluster.credentials())
    plane.kubectl("apply", "-f", JOB)
    trainers: list[bool] = []

    def look() -> bool:
        status = plane.get("pjob", "rex").get("status") or {}
        assert status.get("phase") != "Failed", status
        if status.get("phase") == "Running":
            trainers[:] = trainers or has_bill_of_materials(release, "default")
        return status.get("phase") == "Succeeded"

    eventually(look, "the quickstart", seconds=SECONDS, tell=lambda: plane.get("pjob", "rex"))
    assert trainers == [True, True]
    status = plane.get("pjob", "rex")["status"]
    assert status["attempts"] == 1 and status["output"]["manifestDigest"] and status["report"]["uri"]
    assert {stage["state"] for stage in status["stages"]} == {"Succeeded"}
    plane.kubectl("delete", "pjob", "rex", "--wait")


def has_bill_of_materials(bare: BareCluster, namespace: str) -> list[bool]:
    """Of each running pod of a namespace: whether its root is that of an image, which alone has one."""
    pods = bare.plane.kubectl("get", "pods", "-n", namespace, "-o", "name").stdout.split()
    running = [bare.cluster.pod(namespace, pod.removeprefix("pod/")).containers[0] for pod in pods]
    return [Path(f"/proc/{each.pid}/root/{BILL_OF_MATERIALS}").is_file() for each in running if each.is_running]
