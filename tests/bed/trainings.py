"""pytest plugin: jobs that really train, in pods on two nodes, under an operator that is a process of its own.

    def test_something(trainings): trainings.submit(); ...; trainings.succeed()

Model and photos lie in one bucket for the session; each test has a namespace, a runtime and an output of its own.
Training is in fp32 with one thread a rank, so that equal trainings give equal bits.
"""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import boto3
import pytest
from bed.apiproxy import api_proxy
from bed.eventually import eventually
from bed.jobs import JOBS, Bench, Manifest, job, runtime
from bed.nodes import TRAINER_IMAGE, Cluster
from bed.operator_process import Operator
from bed.pod import Pod
from bed.rest import RUNTIMES, Rest
from bed.s3 import ACCESS_KEY, REGION, S3, SECRET_KEY
from bed.shared import alone_with, shared_folder
from botocore.config import Config

STEPS = 60
EVERY_STEPS = 10
SUCCESS_SECONDS = 600  # a bound, not an expectation
SECRET = "storage"
_numbers = itertools.count(1)


@dataclass
class Trainings:
    """The jobs of one test."""

    cluster: Cluster
    operator: Operator
    bench: Bench
    s3: S3
    runtime: str

    def submit(
        self,
        name: str = "rex",
        *,
        nodes: int = 2,
        run_policy: Manifest | None = None,
        spec: Manifest | None = None,
        **training: Any,
    ) -> None:
        """Creates a job as `manifest` has it."""
        self.bench.create(self.manifest(name, nodes=nodes, run_policy=run_policy, spec=spec, **training))

    def manifest(
        self,
        name: str = "rex",
        *,
        nodes: int = 2,
        run_policy: Manifest | None = None,
        spec: Manifest | None = None,
        **training: Any,
    ) -> Manifest:
        """A job of pods with one rank each; `training` goes over its hyper-parameters, `spec` over all."""
        sampler = {"steps": 3, "guidanceScale": 3}
        whole: Manifest = {
            "model": {"uri": self.s3.uri("models/tiny/")},
            "subject": {"className": "dog", "images": self.s3.uri("photos/")},
            "prior": {"images": 6, "sampler": sampler},
            "training": {"steps": STEPS, "batchSize": 4, "precision": "FP32", "learningRate": 1e-4, **training},
            "parallelism": {"nodes": nodes, "zeroStage": 2},
            "checkpoints": {"everySteps": EVERY_STEPS},
            "evaluation": {"prompts": ["a {identifier} {class}"], "imagesPerPrompt": 1, "sampler": sampler},
            "output": {"uri": self.output(name)},
            "runPolicy": run_policy or {},
            **(spec or {}),
        }
        return job(name, runtime=self.runtime, **whole)

    def change_runtime(self, **spec: Any) -> None:
        """Before a job is created."""
        self.bench.rest.merge(f"{RUNTIMES}/{self.runtime}", {"spec": spec})

    def output(self, name: str = "rex") -> str:
        return self.s3.uri(f"out/{self.bench.namespace}/{name}/")

    def keys(self, name: str = "rex") -> list[str]:
        """The keys below a job's output, relative to it."""
        prefix = self.output(name).removeprefix(self.s3.uri())
        return [key.removeprefix(prefix) for key in self.s3.keys(prefix)]

    def wait_for_checkpoint(self, name: str = "rex", *, attempt: int = 1) -> None:
        """Until a checkpoint of that attempt is whole: training is on its way."""

        def look() -> bool:
            status = self.bench.status(name)
            assert status.get("phase") not in ("Failed", "Succeeded"), status
            prefix = f".kubooth/checkpoints/attempt-{attempt}/"
            return any(key.startswith(prefix) and key.endswith("/checkpoint.json") for key in self.keys(name))

        eventually(look, f"a checkpoint of attempt {attempt}", seconds=SUCCESS_SECONDS, tell=lambda: self.story(name))

    def pod(self, index: int, name: str = "rex") -> Pod:
        """The running pod of a node rank, as its node runs it."""
        return self.cluster.pod(self.bench.namespace, self.pod_name(index, name))

    def pod_name(self, index: int, name: str = "rex") -> str:
        prefix = f"{name}-kubooth-{self.bench.status(name)['attempts']}-{index}-"
        return next(each for pod in self.bench.pods() if (each := pod["metadata"]["name"]).startswith(prefix))

    def succeed(self, name: str = "rex") -> Manifest:
        """Waits for the end; the status, of a job whose result is whole."""

        def look() -> Manifest | None:
            status = self.bench.status(name)
            assert status.get("phase") != "Failed", f"{status}\n{self.story(name)}"
            return status if status.get("phase") == "Succeeded" else None

        return eventually(look, "success", seconds=SUCCESS_SECONDS, tell=lambda: self.story(name))

    def fail(self, name: str = "rex") -> Manifest:
        """Waits for the end of a job that cannot succeed; its status."""

        def look() -> Manifest | None:
            status = self.bench.status(name)
            assert status.get("phase") != "Succeeded", status
            return status if status.get("phase") == "Failed" else None

        return eventually(look, "failure", seconds=SUCCESS_SECONDS, tell=lambda: self.story(name))

    def weights(self, name: str = "rex") -> dict[str, str]:
        """SHA-256 of every file of weights in a result, as its manifest has them."""
        prefix = self.output(name).removeprefix(self.s3.uri())
        manifest = json.loads(self.s3.get(f"{prefix}manifest.json"))
        return {file["name"]: file["sha256"] for file in manifest["files"] if file["name"].endswith(".safetensors")}

    def assert_nothing_is_left(self) -> None:
        """No process of an ended pod; and once the jobs are deleted, no object."""
        bench = self.bench
        running = [container for node in self.cluster.nodes for pod in node.pods for container in pod.containers
                   if container.is_running and pod.manifest["metadata"]["namespace"] == bench.namespace]  # fmt: skip
        assert not running
        for name in ("rex", "calm"):
            if bench.rest.find(bench.job_path(name)):
                bench.rest.delete(bench.job_path(name), propagationPolicy="Background")
        eventually(lambda: not bench.children() and not bench.pods(), "no child", tell=bench.children)

    def story(self, name: str = "rex") -> str:
        """What there is to know about a job that went wrong."""
        logs = [
            f"--- {pod.name}\n{container.log.read_text(errors='replace')[-9000:]}"
            for node in self.cluster.nodes
            for pod in node.pods
            for container in pod.containers
            if container.log.exists() and pod.manifest["metadata"]["namespace"] == self.bench.namespace
        ]
        status = {
            key: value for key, value in self.bench.status(name).items() if key not in ("resolved", "runtimeSnapshot")
        }
        return "\n".join([json.dumps(status, indent=1), *logs, "--- operator", self.operator.log[-6000:]])


class Undisturbed:
    """Weights of a job that nothing happens to: trained once for all processes of the tests, by the first in need."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / "undisturbed.json"

    def training(self) -> AbstractContextManager[None]:
        """While it is held, others wait for what comes of it."""
        return alone_with(self._path)

    def keep(self, weights: dict[str, str]) -> None:
        self._path.write_text(json.dumps(weights))

    def weights(self, trainings: Trainings) -> dict[str, str]:
        with self.training():
            if not self._path.exists():
                trainings.submit("calm")
                trainings.succeed("calm")
                self.keep(trainings.weights("calm"))
            kept: dict[str, str] = json.loads(self._path.read_text())
        return kept


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Undisturbed:
    return Undisturbed(shared_folder(tmp_path_factory))


@pytest.fixture(scope="session")
def cluster_rest(cluster: Cluster) -> Iterator[Rest]:
    client = Rest(cluster.plane)
    yield client
    client.close()


@pytest.fixture(scope="session")
def cluster_operator(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Operator]:
    """The operator of `cluster`, not started yet."""
    with api_proxy(cluster.plane.endpoint, cluster.plane.ca) as proxy:
        operator = Operator(cluster.plane, proxy, tmp_path_factory.mktemp("cluster-operator"), "cluster-operator-0")
        yield operator
        if operator.is_running:
            operator.kill()


@pytest.fixture(scope="session")
def training_bucket(cluster: Cluster, tiny_model: Path, photos: Path) -> Iterator[S3]:
    """A bucket with model and photos."""
    session = boto3.Session(aws_access_key_id=ACCESS_KEY, aws_secret_access_key=SECRET_KEY)
    config = Config(s3={"addressing_style": "path"}, proxies={})
    client = session.client("s3", endpoint_url=cluster.s3_endpoint, region_name=REGION, config=config)
    bucket = S3(cluster.s3_endpoint, client, f"trainings-{os.getpid()}")
    client.create_bucket(Bucket=bucket.bucket)
    for folder, prefix in ((tiny_model, "models/tiny"), (photos, "photos")):
        for path in folder.rglob("*"):
            if path.is_file():
                bucket.put(f"{prefix}/{path.relative_to(folder).as_posix()}", path.read_bytes())
    yield bucket
    client.close()


@pytest.fixture
def trainings(
    cluster: Cluster, cluster_rest: Rest, cluster_operator: Operator, cluster_namespace: str, training_bucket: S3
) -> Iterator[Trainings]:
    """A namespace with the credentials, a runtime for it, and the operator at work."""
    if not cluster_operator.is_running:
        cluster_operator.start()
    name = f"tiny-{next(_numbers)}"
    cluster.plane.kubectl("label", "ns", cluster_namespace, "pod-security.kubernetes.io/enforce=restricted")
    keys = {"AWS_ACCESS_KEY_ID": ACCESS_KEY, "AWS_SECRET_ACCESS_KEY": SECRET_KEY}
    secret = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": SECRET, "namespace": cluster_namespace}}
    cluster.plane.apply({**secret, "stringData": keys})
    cluster_rest.post(
        RUNTIMES,
        runtime(
            name,
            image=TRAINER_IMAGE,
            env=[{"name": "OMP_NUM_THREADS", "value": "1"}],  # as many threads in every attempt, wherever it runs
            sharedMemory="64Mi",
            terminationGracePeriodSeconds=20,
            storage={"endpoint": cluster.s3_endpoint, "region": REGION, "credentialsSecret": SECRET},
        ),
    )
    bench = Bench(cluster_rest, cluster_namespace)
    yield Trainings(cluster, cluster_operator, bench, training_bucket, name)
    cluster_operator.proxy.rules.clear()
    for item in cluster_rest.items(JOBS.format(cluster_namespace)):
        cluster_rest.delete(f"{JOBS.format(cluster_namespace)}/{item['metadata']['name']}")
    cluster_rest.delete(f"{RUNTIMES}/{name}")
