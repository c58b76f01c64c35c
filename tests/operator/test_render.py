"""The children of three jobs, as golden manifests; and what must hold of every pod.

`KUBOOTH_WRITE_GOLDEN=1 scripts/test tests/operator/test_render.py` writes `golden/` anew. Read the difference before
you commit it: it is what changes on every cluster.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import yaml
from api.bad_specs import job as job_manifest

from kubooth_operator import names, render
from kubooth_operator.api.job import PersonalizationJob
from kubooth_operator.api.load import parse
from kubooth_operator.api.runtime import PersonalizationRuntime
from kubooth_operator.children import contains
from kubooth_operator.plan import Manifest, Settings
from kubooth_operator.podspec import TRACKING_CREDENTIALS
from kubooth_operator.settle import settle
from kubooth_trainer.config import TrainConfig

GOLDEN = Path(__file__).parent / "golden"
WRITE = os.environ.get("KUBOOTH_WRITE_GOLDEN") == "1"
SETTINGS = Settings(trainer_image="registry.example/kubooth-trainer:0.1.0")

GPU_RUNTIME: dict[str, Any] = {
    "image": "registry.example/trainer:2",
    "imagePullSecrets": [{"name": "registry"}],
    "accelerator": {"resource": "nvidia.com/gpu", "perNode": 8},
    "nodeSelector": {"pool": "gpu"},
    "tolerations": [{"key": "gpu", "operator": "Exists", "effect": "NoSchedule"}],
    "affinity": {"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": []}},
    "resources": {"requests": {"cpu": 8, "memory": "64Gi"}, "limits": {"memory": "64Gi"}},
    "sharedMemory": "16Gi",
    "env": [{"name": "NCCL_SOCKET_IFNAME", "value": "eth0"}, {"name": "HOME", "value": "/work"}],
    "volumes": [{"name": "hub", "mountPath": "/models", "source": {"persistentVolumeClaim": {"claimName": "hub"}}}],
    "podLabels": {"team": "vision", "kubooth.io/job": "not-this"},
    "podAnnotations": {"sidecar.istio.io/inject": "false"},
    "terminationGracePeriodSeconds": 600,
    "serviceAccountName": "cloud-identity",
    "tracking": {"mlflow": {"uri": "https://mlflow.example"}, "credentialsSecret": "kubooth-tracking"},
    "storage": {"endpoint": "http://s3.example:9000", "region": "eu", "credentialsSecret": "kubooth-storage"},
}
CASES: dict[str, tuple[dict[str, Any], dict[str, Any], int]] = {
    "smallest": ({}, {}, 1),
    "gpu": (
        {
            "parallelism": {"nodes": 2, "devicesPerNode": 8, "zeroStage": 2},
            "training__batchSize": 16,
            "priorityClassName": "low",
        },
        GPU_RUNTIME,
        3,
    ),
    "queued": ({"queueName": "gpus"}, {"storage": {"instanceIdentity": True}}, 1),
}


class Readable(yaml.SafeDumper):
    """Without anchors, and texts of many lines as they are."""

    def ignore_aliases(self, data: Any) -> bool:
        return True

    def represent_str(self, text: str) -> yaml.ScalarNode:  # type: ignore[override]
        return self.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None)


Readable.add_representer(str, Readable.represent_str)


def accepted(fields: dict[str, Any], runtime_spec: dict[str, Any]) -> render.Accepted:
    """A job after acceptance."""
    job = parse(job_manifest(**fields), PersonalizationJob)
    runtime = parse(
        {
            "apiVersion": "kubooth.io/v1alpha1",
            "kind": "PersonalizationRuntime",
            "metadata": {"name": "default"},
            "spec": runtime_spec,
        },
        PersonalizationRuntime,
    )
    return render.Accepted(
        name="rex",
        namespace="team-a",
        uid="0a1b2c3d-0000-4000-8000-000000000000",
        spec=settle(job, runtime),
        runtime=runtime,
    )


def rendered(case: str) -> list[Manifest]:
    fields, runtime, attempt = CASES[case]
    return render.children(accepted(fields, runtime), attempt, SETTINGS)


def pod_spec(fields: dict[str, Any], runtime: dict[str, Any]) -> Manifest:
    spec: Manifest = render.batch_job(accepted(fields, runtime), 1, SETTINGS)["spec"]["template"]["spec"]
    return spec


@pytest.mark.parametrize("case", CASES)
def test_golden_manifests(case: str) -> None:
    path = GOLDEN / f"{case}.yaml"
    children = rendered(case)
    if case != "smallest":  # one of them shows the trainer's configuration
        for child in children:
            child.pop("data", None)
    text = yaml.dump_all(children, Dumper=Readable, sort_keys=False, width=120)
    if WRITE:
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    assert path.read_text() == text, "see the docstring of this file"


@pytest.mark.parametrize("case", CASES)
def test_what_is_rendered_is_plain_and_contained_in_itself(case: str) -> None:
    for child in rendered(case):
        again = json.loads(json.dumps(child))
        assert again == child
        assert contains(again, child)


@pytest.mark.parametrize("case", CASES)
def test_every_child_is_owned_by_the_job_and_says_so(case: str) -> None:
    for child in rendered(case):
        (owner,) = child["metadata"]["ownerReferences"]
        assert (owner["kind"], owner["controller"], owner["blockOwnerDeletion"]) == ("PersonalizationJob", True, False)
        assert child["metadata"]["labels"].items() >= names.child_labels("rex", owner["uid"]).items()
        assert child["metadata"]["name"].startswith("rex-kubooth")


@pytest.mark.parametrize("case", CASES)
def test_the_pods_pass_the_restricted_profile(case: str) -> None:
    spec = rendered(case)[-1]["spec"]["template"]["spec"]
    (container,) = spec["containers"]
    assert spec["securityContext"]["runAsNonRoot"] is True
    assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert not {"hostNetwork", "hostPID", "hostIPC", "initContainers"} & spec.keys()


@pytest.mark.parametrize(
    ("runtime", "label", "annotation"),
    [
        ({}, "false", "disabled"),
        (
            {"podLabels": {"sidecar.istio.io/inject": "true"}, "podAnnotations": {"linkerd.io/inject": "enabled"}},
            "true",
            "enabled",
        ),
    ],
    ids=["built in", "the runtime's"],
)
def test_meshes_add_no_sidecars_unless_the_runtime_asks(runtime: dict[str, Any], label: str, annotation: str) -> None:
    """One that never ends would keep the pods of a finished job running."""
    metadata = render.batch_job(accepted({}, runtime), 1, SETTINGS)["spec"]["template"]["metadata"]
    assert metadata["labels"]["sidecar.istio.io/inject"] == label
    assert metadata["annotations"]["linkerd.io/inject"] == annotation


@pytest.mark.parametrize("case", CASES)
def test_the_config_is_whole_and_holds_no_credentials(case: str) -> None:
    (config_map,) = (child for child in rendered(case) if child["kind"] == "ConfigMap")
    config = TrainConfig.model_validate_json(config_map["data"]["config.json"])
    assert config.job.attempt == CASES[case][2]
    assert config.checkpoints.uri == "s3://models/personalized/rex/.kubooth/checkpoints/"
    assert "kubooth-storage" not in config_map["data"]["config.json"]


def test_the_trainer_may_reach_its_own_status_and_nothing_else() -> None:
    (role,) = (child for child in rendered("smallest") if child["kind"] == "Role")
    assert [(rule["resources"], rule["resourceNames"], rule["verbs"]) for rule in role["rules"]] == [
        (["personalizationjobs"], ["rex"], ["get"]),
        (["personalizationjobs/status"], ["rex"], ["get", "patch"]),
    ]


def test_the_runtimes_environment_comes_last_and_counts() -> None:
    env = pod_spec({}, GPU_RUNTIME)["containers"][0]["env"]
    assert [each["name"] for each in env] == [
        "POD_NAME", "POD_UID", "AWS_EC2_METADATA_DISABLED", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY",
        "AWS_SESSION_TOKEN", *TRACKING_CREDENTIALS, "NCCL_SOCKET_IFNAME", "HOME",
    ]  # fmt: skip
    assert env[-1] == {"name": "HOME", "value": "/work"}
    optional = [each["name"] for each in env if each.get("valueFrom", {}).get("secretKeyRef", {}).get("optional")]
    assert optional == ["AWS_SESSION_TOKEN", *TRACKING_CREDENTIALS]


def test_a_pod_may_ask_its_node_for_an_identity_only_where_the_runtime_says_so() -> None:
    for storage, disabled in (({}, True), ({"instanceIdentity": True}, False)):
        env = {each["name"] for each in pod_spec({}, {"storage": storage})["containers"][0]["env"]}
        assert ("AWS_EC2_METADATA_DISABLED" in env) is disabled


@pytest.mark.parametrize(
    ("cache", "source"),
    [
        ({"claimName": "models"}, {"persistentVolumeClaim": {"claimName": "models"}}),
        ({"hostPath": "/models"}, {"hostPath": {"path": "/models", "type": "DirectoryOrCreate"}}),
    ],
)
def test_the_model_cache_is_mounted_where_the_config_says(cache: dict[str, Any], source: dict[str, Any]) -> None:
    spec = pod_spec({}, {"modelCache": cache})
    mounts = {each["mountPath"]: each["name"] for each in spec["containers"][0]["volumeMounts"]}
    assert {"name": mounts[names.MODELS_FOLDER], **source} in spec["volumes"]


TOLERATIONS = [
    ("none", [], [30, 30]),
    ("another", [{"key": "gpu", "operator": "Exists"}], [None, 30, 30]),
    ("its-own", [{"key": "node.kubernetes.io/unreachable", "effect": "NoExecute", "tolerationSeconds": 5}], [5, 30]),
    ("its-own-for-every-effect", [{"key": "node.kubernetes.io/not-ready"}], [None, 30]),
]


@pytest.mark.parametrize(("given", "seconds"), [c[1:] for c in TOLERATIONS], ids=[c[0] for c in TOLERATIONS])
def test_pods_leave_a_node_that_does_not_answer(given: list[Manifest], seconds: list[int | None]) -> None:
    tolerations = pod_spec({}, {"tolerations": given} if given else {})["tolerations"]
    assert [each.get("tolerationSeconds") for each in tolerations] == seconds


def test_devices_stand_in_limits_and_requests() -> None:
    resources = pod_spec({}, {"accelerator": {"resource": "example.com/tpu", "perNode": 4}})["containers"][0][
        "resources"
    ]
    assert resources == {"limits": {"example.com/tpu": "1"}, "requests": {"example.com/tpu": "1"}}
    assert "resources" not in pod_spec({}, {})["containers"][0]


def test_host_names_of_the_longest_names_fit() -> None:
    assert len(f"{names.attempt_name('j' * 45, 999)}-1023") <= 63
