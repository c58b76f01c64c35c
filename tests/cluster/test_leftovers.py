"""After many trainings, some of them deleted on the way, a bucket holds results and what jobs share, and no more."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from bed.commands import Kubooth
from bed.eventually import eventually
from bed.s3 import ACCESS_KEY, SECRET_KEY
from bed.trainings import Trainings

from kubooth_trainer.claim import CLAIM
from kubooth_trainer.progress import InfoEvent, event_from_json

STEPS = 12
AT_ONCE = 3
LONG = 20_000  # steps of a job that is deleted before its end


@pytest.fixture
def shared(trainings: Trainings, tmp_path: Path) -> str:
    """The runtime has caches: of models on the node, of class images in the bucket, whose folder this is."""
    models = tmp_path / "models"
    models.mkdir()
    models.chmod(0o777)
    space = trainings.bench.namespace
    # Folders of the node are not for namespaces that are restricted.
    label = "pod-security.kubernetes.io/enforce=privileged"
    trainings.cluster.plane.kubectl("label", "ns", space, label, "--overwrite")
    trainings.change_runtime(
        modelCache={"hostPath": str(models)}, priorCache={"uri": trainings.s3.uri(f"priors/{space}/")}
    )
    return f"priors/{space}/"


@pytest.mark.parametrize(
    ("jobs", "deleted"),
    [pytest.param(3, {1}, id="3"), pytest.param(20, {1, 4, 8, 13, 14, 19}, id="20", marks=pytest.mark.soak)],
)
def test_the_bucket_holds_results_only(
    trainings: Trainings, shared: str, tmp_path: Path, jobs: int, deleted: set[int]
) -> None:
    names = [f"job-{number:02}" for number in range(jobs)]
    gone = {names[number] for number in deleted}
    trainings.submit(names[0], nodes=1, steps=STEPS)
    trainings.succeed(names[0])
    for start in range(1, jobs, AT_ONCE):
        wave = names[start : start + AT_ONCE]
        for name in wave:
            trainings.submit(name, nodes=1, steps=LONG if name in gone else STEPS)
        for name in sorted(wave, key=lambda name: name not in gone):
            if name in gone:
                delete_in_training(trainings, name)
            else:
                trainings.succeed(name)

    assert found_in_model_cache(trainings, names[0]) == "Filled"
    assert {found_in_model_cache(trainings, name) for name in names[1:] if name not in gone} == {"Hit"}
    for name in gone:
        assert any(key.startswith(".kubooth/checkpoints/attempt-1/") for key in trainings.keys(name))
    clear_leftovers(trainings, tmp_path)
    for name in names:
        assert set(trainings.keys(name)) == (set() if name in gone else files_of_result(trainings, name)), name
    entry = re.compile(rf"{re.escape(shared)}namespaces/[^/]+/[0-9a-f]{{64}}/(\d{{5}}\.safetensors|prior\.json)")
    priors = [key for key in trainings.s3.keys() if key.startswith(shared)]  # noqa: SIM118
    assert priors and all(entry.fullmatch(key) for key in priors)
    uploads = trainings.s3.client.list_multipart_uploads(Bucket=trainings.s3.bucket)
    assert not uploads.get("Uploads")


def delete_in_training(trainings: Trainings, name: str) -> None:
    trainings.wait_for_checkpoint(name)
    bench = trainings.bench
    bench.rest.delete(bench.job_path(name), propagationPolicy="Background")
    mine = f"{name}-kubooth-"
    eventually(
        lambda: not any(pod["metadata"]["name"].startswith(mine) for pod in bench.pods()),
        f"no pod of {name}",
    )


def found_in_model_cache(trainings: Trainings, name: str) -> str:
    """What a job's trainer says of its model, which lies on its node."""
    log = trainings.cluster.plane.kubectl("logs", trainings.pod_name(0, name), "-n", trainings.bench.namespace).stdout
    events = map(event_from_json, log.splitlines())
    (said,) = [event.value for event in events if isinstance(event, InfoEvent) and event.key == "modelCache"]
    return said.rpartition(" ")[2]


def clear_leftovers(trainings: Trainings, folder: Path) -> None:
    """By the command line, with an administrator's rights."""
    credentials = {"AWS_ACCESS_KEY_ID": ACCESS_KEY, "AWS_SECRET_ACCESS_KEY": SECRET_KEY}
    no_proxy = {"NO_PROXY": "*", "no_proxy": "*"}
    kubooth = Kubooth(folder, trainings.cluster.plane.admin, trainings.bench.namespace, credentials | no_proxy)
    where = trainings.s3.uri("out/")
    kubooth("leftovers", where, "--runtime", trainings.runtime, "--max-age", "0s", "--delete")


def files_of_result(trainings: Trainings, name: str) -> set[str]:
    prefix = trainings.output(name).removeprefix(trainings.s3.uri())
    manifest = json.loads(trainings.s3.get(f"{prefix}manifest.json"))
    return {CLAIM, "manifest.json", *(file["name"] for file in manifest["files"])}
