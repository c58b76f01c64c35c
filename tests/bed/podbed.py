"""pytest plugin: a cluster whose pods really run, for the session; a namespace and a bucket of their own for each test.

    def test_something(cluster, cluster_namespace, cluster_s3): cluster.plane.apply(...)
    def test_another(pods): pods.create("one", "echo a line of bash")

Where no namespaces can be made, the tests that ask for it skip and say so.
"""

from __future__ import annotations

import itertools
import os
import shutil
from collections.abc import Iterator

import boto3
import pytest
from bed.eventually import eventually
from bed.network import bed_folder, obstacle
from bed.nodes import Cluster, pod_cluster
from bed.pods import Pods
from bed.s3 import REGION, S3
from botocore.config import Config

_numbers = itertools.count(1)


@pytest.fixture(scope="session")
def cluster(control_plane_programs: None) -> Iterator[Cluster]:
    """Two nodes of four devices each."""
    missing = obstacle()
    if missing:
        pytest.skip(missing)
    folder = bed_folder()
    try:
        with pod_cluster(folder) as running:
            yield running
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def cluster_namespace(cluster: Cluster) -> Iterator[str]:
    """The name of a fresh namespace of `cluster`."""
    name = f"pods-{next(_numbers)}"
    cluster.plane.kubectl("create", "namespace", name)
    yield name
    cluster.plane.kubectl("delete", "namespace", name, "--wait=false")


@pytest.fixture
def pods(cluster: Cluster, cluster_namespace: str) -> Pods:
    """Pods of a namespace of their own, once it has its ServiceAccount."""
    path = f"/api/v1/namespaces/{cluster_namespace}/serviceaccounts/default"
    eventually(lambda: cluster.api.get(path), "the ServiceAccount")
    return Pods(cluster, cluster_namespace)


@pytest.fixture
def cluster_s3(cluster: Cluster, s3_credentials: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[S3]:
    """A fresh bucket on the server that the pods reach too, with the owner's credentials in the environment."""
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.setenv(name, f"127.0.0.1,{cluster.bridge.address}")
    client = boto3.Session().client(
        "s3", endpoint_url=cluster.s3_endpoint, region_name=REGION, config=Config(s3={"addressing_style": "path"})
    )
    bucket = f"bed-{os.getpid()}-{next(_numbers)}"
    client.create_bucket(Bucket=bucket)
    yield S3(cluster.s3_endpoint, client, bucket)
    client.close()
