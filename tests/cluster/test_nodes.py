"""The process nodes are what they say: what a pod sees, how it ends, and what the API server is told of it."""

from __future__ import annotations

import json
import os
import socket
import ssl
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from bed.eventually import eventually
from bed.nodes import TRAINER_IMAGE
from bed.pods import SLEEP, Pods
from bed.podspec import Image
from bed.s3 import S3

RESTRICTED = {
    "runAsNonRoot": True,
    "runAsUser": 1234,
    "readOnlyRootFilesystem": True,
    "allowPrivilegeEscalation": False,
    "capabilities": {"drop": ["ALL"]},
    "seccompProfile": {"type": "RuntimeDefault"},
}
LOOK = """
    import json, os, pathlib, socket
    from importlib.util import find_spec
    def is_writable(path):
        try: pathlib.Path(path, "x").write_text("")
        except OSError: return False
        return True
    status = dict(line.split(":", 1) for line in open("/proc/self/status"))
    shm = os.statvfs("/dev/shm")
    print(json.dumps({
        "user": os.getuid(), "pid": os.getpid(), "capabilities": int(status["CapEff"], 16),
        "host": socket.gethostname(), "address": socket.gethostbyname(socket.gethostname()),
        "interfaces": [name for _, name in socket.if_nameindex()],
        "writable": [path for path in ("/", "/etc", "/work", "/tmp", "/dev/shm", "/etc/settings") if is_writable(path)],
        "files": sorted(os.listdir("/etc/settings")), "shm": shm.f_blocks * shm.f_frsize, "env": dict(os.environ),
        "python": os.path.realpath("/proc/self/exe"), "trainer": find_spec("kubooth_trainer").origin,
    }))
"""


def test_what_a_pod_sees(pods: Pods) -> None:
    pods.cluster.plane.kubectl("label", "ns", pods.namespace, "pod-security.kubernetes.io/enforce=restricted")
    pods.apply("ConfigMap", "settings", data={"COLOUR": "red", "config.json": "{}"})
    pods.apply("Secret", "keys", stringData={"token": "t0ps3cret"})
    fields = {
        "NAME": "metadata.name",
        "RUN": "metadata.labels['run']",
        "NOTE": "metadata.annotations['note']",
        "IP": "status.podIP",
        "NODE": "spec.nodeName",
    }
    env = [{"name": name, "valueFrom": {"fieldRef": {"fieldPath": path}}} for name, path in fields.items()]
    env += [
        {"name": "TOKEN", "valueFrom": {"secretKeyRef": {"name": "keys", "key": "token"}}},
        {"name": "NONE", "valueFrom": {"secretKeyRef": {"name": "absent", "key": "token", "optional": True}}},
        {"name": "GREETING", "value": "$(COLOUR) $(NAME) $(UNKNOWN) $$(NAME)"},
    ]
    mounts = {"work": "/work", "tmp": "/tmp", "shm": "/dev/shm", "config": "/etc/settings"}
    sources = [
        {"configMap": {"name": "settings", "items": [{"key": "config.json", "path": "config.json"}]}},
        {"secret": {"name": "keys"}},
        {"downwardAPI": {"items": [{"path": "name", "fieldRef": {"fieldPath": "metadata.name"}}]}},
    ]
    container = {
        "command": ["python", "-c", "import sys, textwrap; exec(textwrap.dedent(sys.argv[1]))"],
        "args": [LOOK],
        "env": env,
        "envFrom": [{"configMapRef": {"name": "settings"}}],
        "securityContext": RESTRICTED,
        "volumeMounts": [{"name": name, "mountPath": path} for name, path in mounts.items()],
    }
    volumes = [
        {"name": "work", "emptyDir": {}},
        {"name": "tmp", "emptyDir": {}},
        {"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": "32Mi"}},
        {"name": "config", "projected": {"sources": sources}},
    ]
    pods.create("look", container=container, volumes=volumes, hostname="look-0", subdomain="lookers")
    assert pods.ended("look")["reason"] == "Completed"

    seen = json.loads(pods.output("look"))
    pod = pods.get("look")
    assert pod
    address, node = pod["status"]["podIP"], pod["spec"]["nodeName"]
    assert (seen["user"], seen["pid"], seen["capabilities"]) == (1234, 1, 0)
    assert (seen["host"], seen["address"], seen["interfaces"]) == ("look-0", address, ["lo", "eth0"])
    assert seen["writable"] == ["/work", "/tmp", "/dev/shm"]
    assert seen["files"] == ["config.json", "name", "token"] and seen["shm"] == 32 << 20
    assert seen["env"].items() >= {
        "NAME": "look", "RUN": "look", "NOTE": "of the pod", "IP": address, "NODE": node, "TOKEN": "t0ps3cret",
        "COLOUR": "red", "GREETING": "red look $(UNKNOWN) $(NAME)",
    }.items()  # fmt: skip
    assert "NONE" not in seen["env"] and "HOME" not in seen["env"]
    assert Path(seen["python"]) == Path(sys.executable).resolve() and seen["trainer"].startswith("/opt/kubooth/")


def test_the_token_is_the_pods_own(pods: Pods) -> None:
    program = """
        import json, pathlib, ssl, urllib.request
        folder = pathlib.Path("/var/run/secrets/kubernetes.io/serviceaccount")
        review = {"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview"}
        request = urllib.request.Request(
            "https://kubernetes.default.svc/apis/authentication.k8s.io/v1/selfsubjectreviews",
            json.dumps(review).encode(),
            {"Authorization": "Bearer " + (folder / "token").read_text(), "Content-Type": "application/json"})
        context = ssl.create_default_context(cafile=str(folder / "ca.crt"))
        print(urllib.request.urlopen(request, context=context).read().decode())
    """
    pods.create_python("who", program)
    assert pods.ended("who")["exitCode"] == 0
    user = json.loads(pods.output("who"))["status"]["userInfo"]
    assert user["username"] == f"system:serviceaccount:{pods.namespace}:default"
    assert user["extra"]["authentication.kubernetes.io/pod-name"] == ["who"]


def test_pods_of_a_headless_service_find_each_other(pods: Pods) -> None:
    ring = {"clusterIP": "None", "publishNotReadyAddresses": True, "selector": {"run": "server"}}
    pods.apply("Service", "ring", spec=ring)
    program = "import socket; socket.create_server(('', 29500)).accept()[0].sendall(b'hello')"
    never = {"exec": {"command": ["false"]}}  # not ready, and yet it must be found
    server = {"command": ["python", "-c", program], "readinessProbe": never}
    name = f"server-0.ring.{pods.namespace}"
    late = time.monotonic() + 4
    pods.cluster.delay_dns(name, late)
    pods.create("server", container=server, hostname="server-0", subdomain="ring")
    pods.create("client", f"until exec 3<>/dev/tcp/{name}.svc/29500; do sleep 0.2; done 2>/dev/null; cat <&3")
    assert pods.ended("client")["exitCode"] == 0 and time.monotonic() > late
    assert pods.output("client") == "hello" and pods.ended("server")["exitCode"] == 0


def test_an_image_that_is_not_there(pods: Pods) -> None:
    pods.create("lost", container={"image": "registry.example/none:1"})
    pods.waiting("lost", "ErrImagePull", "registry.example/none:1: not found")
    pods.waiting("lost", "ImagePullBackOff", "Back-off pulling image")
    pods.delete("lost")
    pods.gone("lost")


def test_an_image_with_a_root_of_its_own(pods: Pods, tmp_path: Path) -> None:
    (tmp_path / "var").mkdir()
    (tmp_path / "var" / "run").symlink_to("/run")
    program = {"/bin/kubectl": pods.cluster.plane.kubectl_program}  # needs no libraries
    pods.cluster.images["bare:1"] = Image(root=tmp_path, folders=program)
    pods.apply("ConfigMap", "settings", data={"config": "kind: Config\napiVersion: v1\ncurrent-context: of-the-pod\n"})
    volume = {"name": "settings", "configMap": {"name": "settings"}}
    mount = {"image": "bare:1", "volumeMounts": [{"name": "settings", "mountPath": "/var/run/settings"}]}
    look = ["kubectl", "config", "current-context", "--kubeconfig=/run/settings/config"]
    pods.create("bare", container={"command": look, **mount}, volumes=[volume])
    ended = pods.ended("bare")
    assert ended["exitCode"] == 0, ended["message"]
    assert pods.output("bare") == "of-the-pod\n"
    pods.create("of-the-machine", container=mount, volumes=[volume])  # bash
    assert 'exec: "bash": executable file not found in $PATH' in pods.ended("of-the-machine")["message"]


def test_a_missing_key_holds_the_container_until_it_is_there(pods: Pods) -> None:
    reference = {"secretKeyRef": {"name": "later", "key": "key"}}
    pods.create("patient", "echo $VALUE", container={"env": [{"name": "VALUE", "valueFrom": reference}]})
    pods.waiting("patient", "CreateContainerConfigError", 'secret "later" not found')
    pods.apply("Secret", "later", stringData={"other": "1"})
    pods.waiting("patient", "CreateContainerConfigError", f"couldn't find key key in Secret {pods.namespace}/later")
    pods.apply("Secret", "later", stringData={"key": "found"})
    assert pods.ended("patient")["exitCode"] == 0 and pods.output("patient") == "found\n"


def test_who_must_not_be_root_is_not(pods: Pods) -> None:
    pods.create("root", container={"securityContext": {"runAsNonRoot": True, "runAsUser": 0}})
    pods.waiting("root", "CreateContainerConfigError", "image will run as root")


@pytest.mark.parametrize(
    ("script", "expected"),
    [
        ("echo done > /dev/termination-log", (0, "Completed", "done\n")),
        ("echo why > /dev/termination-log; exit 70", (70, "Error", "why\n")),
        ("echo first; echo last; exit 3", (3, "Error", "first\nlast\n")),
        ("exec python -c 'import ctypes; ctypes.string_at(0)'", (139, "Error", "")),
    ],
    ids=["success", "exit code", "log as message", "signal"],
)
def test_how_a_container_ends(pods: Pods, script: str, expected: tuple[int, str, str]) -> None:
    pods.create("end", script, container={"terminationMessagePolicy": "FallbackToLogsOnError"})
    state = pods.ended("end")
    assert (state["exitCode"], state["reason"], state.get("message", "")) == expected
    assert state["startedAt"] <= state["finishedAt"]


def test_a_command_that_is_not_there(pods: Pods) -> None:
    pods.create("typo", container={"command": ["trian"]})
    state = pods.ended("typo")
    assert (state["exitCode"], state["reason"]) == (128, "StartError")
    assert 'exec: "trian": executable file not found in $PATH' in state["message"]


def test_conditions_and_readiness(pods: Pods) -> None:
    probes: dict[str, Any] = {
        "file": {"exec": {"command": ["test", "-e", "/tmp/ready"]}},
        "page": {"httpGet": {"path": "/", "port": "web"}},
        "port": {"tcpSocket": {"port": 8000}},
    }
    serve = "until [ -e /hold/go ]; do sleep 0.05; done; touch /tmp/ready; exec python -m http.server 8000"
    for name, probe in probes.items():
        container = {
            "readinessProbe": {**probe, "periodSeconds": 1, "timeoutSeconds": 2},
            "ports": [{"name": "web", "containerPort": 8000}],
            "volumeMounts": [{"name": "hold", "mountPath": "/hold"}],
        }
        pods.create(name, serve, container=container, volumes=[{"name": "hold", "emptyDir": {}}])
    for name in probes:
        pod = pods.until(name, lambda pod: pod["status"]["phase"] == "Running", "running")
        conditions = {each["type"]: each["status"] for each in pod["status"]["conditions"]}
        is_up = dict.fromkeys(("PodScheduled", "PodReadyToStartContainers", "Initialized"), "True")
        assert conditions == {**is_up, "ContainersReady": "False", "Ready": "False"}
        (pods.process(name).folder / "volumes" / "hold" / "go").touch()
    for name in probes:
        pods.until(name, lambda pod: pod["status"]["containerStatuses"][0]["ready"], "ready")


def test_a_failed_liveness_probe_ends_the_container(pods: Pods) -> None:
    probe = {"exec": {"command": ["false"]}, "periodSeconds": 1, "failureThreshold": 1}
    pods.create("dead", container={"livenessProbe": probe})
    assert pods.ended("dead")["exitCode"] in (143, 137)


def test_init_containers_run_first(pods: Pods) -> None:
    mount = {"volumeMounts": [{"name": "shared", "mountPath": "/shared"}]}
    first = {"name": "first", "image": TRAINER_IMAGE, "command": ["bash", "-c", "echo first > /shared/x"], **mount}
    pods.create(
        "two", "cat /shared/x", container=mount, initContainers=[first], volumes=[{"name": "shared", "emptyDir": {}}]
    )
    assert pods.ended("two")["exitCode"] == 0 and pods.output("two") == "first\n"


def test_a_folder_of_the_node(pods: Pods, tmp_path: Path) -> None:
    mount = {"volumeMounts": [{"name": "host", "mountPath": "/host"}]}
    path = {"path": str(tmp_path / "kept"), "type": "DirectoryOrCreate"}
    pods.create("host", "echo here > /host/x", container=mount, volumes=[{"name": "host", "hostPath": path}])
    assert pods.ended("host")["exitCode"] == 0 and (tmp_path / "kept" / "x").read_text() == "here\n"


def test_a_pod_may_leave_in_its_grace_period(pods: Pods) -> None:
    pods.create(
        "polite",
        "trap 'echo saving; sleep 0.5; echo saved; exit 7' TERM; echo up; while true; do sleep 0.1; done",
        terminationGracePeriodSeconds=60,
    )
    pods.running("polite")
    pods.cluster.api.patch(f"{pods.path}/polite", {"metadata": {"finalizers": ["kubooth.test/hold"]}})
    pods.delete("polite")
    assert pods.ended("polite")["exitCode"] == 7 and pods.output("polite") == "up\nsaving\nsaved\n"
    pods.cluster.api.patch(f"{pods.path}/polite", {"metadata": {"finalizers": None}})
    pods.gone("polite")


def test_who_does_not_leave_is_killed(pods: Pods) -> None:
    pods.create("stubborn", "trap '' TERM; echo up; while true; do sleep 0.1; done")
    pods.running("stubborn")
    began = time.monotonic()
    pods.delete("stubborn", gracePeriodSeconds=2)
    pods.gone("stubborn")
    assert time.monotonic() - began >= 1.5


def test_force_deletion_ends_the_processes(pods: Pods) -> None:
    pods.create("forced", "trap '' TERM; echo up; while true; do sleep 0.1; done")
    pods.running("forced")
    pid = pods.process("forced").containers[0].pid
    pods.delete("forced", gracePeriodSeconds=0)
    eventually(lambda: not Path("/proc", str(pid)).exists(), "end of the processes")


def test_an_eviction_has_its_reason(pods: Pods) -> None:
    plane = pods.cluster.plane
    container = {"name": "main", "image": TRAINER_IMAGE, "command": ["bash", "-c", SLEEP]}
    template = {"spec": {"restartPolicy": "Never", "containers": [container]}}
    rules = [{"action": "FailJob", "onPodConditions": [{"type": "DisruptionTarget"}]}]
    spec = {
        "backoffLimit": 0,
        "podReplacementPolicy": "Failed",
        "template": template,
        "podFailurePolicy": {"rules": rules},
    }
    pods.apply("Job", "evict", "batch/v1", spec=spec)
    in_namespace = ("-n", pods.namespace)
    plane.kubectl("wait", "--for=create", "pod", "-l=job-name=evict", *in_namespace, "--timeout=60s")
    plane.kubectl("wait", "--for=condition=Ready", "pod", "-l=job-name=evict", *in_namespace, "--timeout=60s")
    node = plane.get("pods", "-l=job-name=evict", *in_namespace)["items"][0]["spec"]["nodeName"]
    try:
        plane.kubectl("drain", node, "--pod-selector=job-name=evict")
    finally:
        plane.kubectl("uncordon", node)
    plane.kubectl("wait", "--for=condition=Failed", "job/evict", *in_namespace, "--timeout=60s")
    failed = [
        each for each in plane.get("job", "evict", *in_namespace)["status"]["conditions"] if each["type"] == "Failed"
    ]
    assert failed[0]["reason"] == "PodFailurePolicy" and "DisruptionTarget" in failed[0]["message"]


def test_a_memory_limit_is_enforced(pods: Pods) -> None:
    limits = {"resources": {"limits": {"memory": "100Mi"}}}
    program = "import time; data = [bytearray(b'x' * (1 << 20)) for _ in range({})]; time.sleep({})"
    shm = {"volumeMounts": [{"name": "shm", "mountPath": "/dev/shm"}]}
    pods.create_python("fits", program.format(40, 1), **limits)
    pods.create("hoards", f'python -c "{program.format(200, 60)}"; exit 5', container=limits)
    pods.create(
        "fills", "head -c 200M /dev/zero > /dev/shm/x; sleep 60", container={**limits, **shm},
        volumes=[{"name": "shm", "emptyDir": {"medium": "Memory"}}],
    )  # fmt: skip
    assert pods.ended("fits")["exitCode"] == 0
    for name in ("hoards", "fills"):
        state = pods.ended(name)
        assert (state["exitCode"], state["reason"]) == (137, "OOMKilled")


def test_logs_through_the_api_server(pods: Pods) -> None:
    pods.create("talks", "for i in 1 2 3; do echo line $i; sleep 0.3; done; echo end >&2")
    pods.running("talks")
    assert pods.output("talks", "--follow") == "line 1\nline 2\nline 3\nend\n"
    assert pods.output("talks", "--tail=2") == "line 3\nend\n"


def test_logs_are_not_for_strangers(pods: Pods) -> None:
    node = pods.cluster.nodes[0]
    port = pods.cluster.api.request("GET", f"/api/v1/nodes/{node.name}")["status"]["daemonEndpoints"]["kubeletEndpoint"]
    context = ssl.create_default_context(cafile=str(pods.cluster.plane.ca))
    with (
        socket.create_connection((node.address, port["Port"]), 10) as plain,
        context.wrap_socket(plain, server_hostname=node.address) as stranger,
        pytest.raises(ssl.SSLError, match="certificate required"),
    ):
        stranger.recv(1)


def test_the_s3_server_is_reached_from_pods(pods: Pods, cluster_s3: S3) -> None:
    cluster_s3.put("photo", b"pixels")
    program = f"""
        import boto3
        client = boto3.client("s3", endpoint_url="{cluster_s3.endpoint}", region_name="us-east-1")
        print(client.get_object(Bucket="{cluster_s3.bucket}", Key="photo")["Body"].read().decode())
    """
    env = [{"name": name, "value": value} for name, value in os.environ.items() if name.startswith("AWS_")]
    pods.create_python("fetches", program, env=env)
    assert pods.ended("fetches")["exitCode"] == 0 and pods.output("fetches") == "pixels\n"
