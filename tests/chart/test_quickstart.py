"""The example of the README on an installation by Helm: a job that really trains, under the chart's own operator."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from bed import devcluster
from bed.eventually import eventually
from bed.helm import CHART, BareCluster, Helm
from bed.nodes import ROOT, TRAINER_IMAGE

WHERE = ("-n", "kubooth-system")
JOB = ROOT / "examples" / "quickstart-s3.yaml"
SECONDS = 1800  # a bound, not an expectation

pytestmark = [pytest.mark.soak, pytest.mark.timeout(SECONDS + 300)]


@pytest.fixture
def release(helm: Helm, bare_cluster: BareCluster, tmp_path: Path) -> Iterator[BareCluster]:
    """An installation with the runtime of the example; its trainer image is this checkout."""
    spec = yaml.safe_load(devcluster.RUNTIME.read_text())["spec"]
    spec["storage"]["endpoint"] = bare_cluster.cluster.s3_endpoint
    spec["image"] = TRAINER_IMAGE
    values = tmp_path / "values.yaml"
    values.write_text(json.dumps({"runtime": {"spec": spec}}))
    installing = ("install", "kubooth", CHART, *WHERE, "--create-namespace", "--wait", "--values", values)
    helm(*installing, plane=bare_cluster.plane)
    yield bare_cluster
    helm("uninstall", "kubooth", *WHERE, "--wait", plane=bare_cluster.plane)
    bare_cluster.plane.kubectl("delete", "prt", "default")


def test_the_quickstart_succeeds(release: BareCluster) -> None:
    plane = release.plane
    devcluster.fill_buckets(release.cluster)
    plane.apply(devcluster.credentials())
    plane.kubectl("apply", "-f", JOB)

    def look() -> bool:
        status = plane.get("pjob", "rex").get("status") or {}
        assert status.get("phase") != "Failed", status
        return status.get("phase") == "Succeeded"

    eventually(look, "the quickstart", seconds=SECONDS, tell=lambda: plane.get("pjob", "rex"))
    status = plane.get("pjob", "rex")["status"]
    assert status["attempts"] == 1 and status["output"]["manifestDigest"] and status["report"]["uri"]
    assert {stage["state"] for stage in status["stages"]} == {"Succeeded"}
    plane.kubectl("delete", "pjob", "rex", "--wait")
