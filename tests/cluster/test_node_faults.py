"""The faults that the process nodes can show: killed ranks, lost nodes, silence, late pods, and a killed bed."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest
from bed import network
from bed.apiclient import UnavailableError
from bed.eventually import eventually
from bed.nodes import Cluster
from bed.pod import rank_of
from bed.pods import Pods


def test_a_rank_is_killed(pods: Pods) -> None:
    ranks = "for r in 0 1; do RANK=$r python -c 'import time; time.sleep(60)' & done; echo up; wait -n; echo ended $?"
    pods.create("gang", ranks)
    pods.running("gang")
    eventually(lambda: {0, 1} <= set(map(rank_of, pods.process("gang").containers[0].processes())), "both ranks")
    pods.process("gang").kill(rank=1)
    assert pods.ended("gang")["exitCode"] == 0 and pods.output("gang").endswith("ended 137\n")


def test_a_whole_pod_is_killed(pods: Pods) -> None:
    pods.create("whole")
    pods.running("whole")
    pods.process("whole").kill()
    state = pods.ended("whole")
    assert (state["exitCode"], state["reason"]) == (137, "Error")


def test_a_silent_pod_says_nothing_and_hears_nothing(pods: Pods) -> None:
    program = f"""
        import socket, time
        def connects():
            try: socket.create_connection(("{pods.cluster.bridge.address}", 443), 1).close()
            except TimeoutError: return False
            return True
        print("up", flush=True)
        while connects(): time.sleep(0.05)
        print("silent", flush=True)
        while not connects(): time.sleep(0.05)
        print("heard", flush=True)
    """
    pods.create_python("mute", program)
    pods.running("mute")
    pod = pods.process("mute")
    pod.silence()
    eventually(lambda: "silent" in pod.containers[0].log.read_text(), "silence")
    pod.unsilence()
    assert pods.ended("mute")["exitCode"] == 0 and pods.output("mute") == "up\nsilent\nheard\n"


def test_a_late_pod(pods: Pods) -> None:
    until = time.monotonic() + 10
    pods.cluster.delay_pods("late-", until)
    pods.create("late-0", "true")
    pods.waiting("late-0", "ContainerCreating", "")
    assert pods.ended("late-0")["exitCode"] == 0 and time.monotonic() >= until


@pytest.mark.parametrize("frozen", [False, True], ids=["running on", "frozen"])
def test_a_node_vanishes_and_comes_back(pods: Pods, frozen: bool) -> None:
    at_once = {
        "key": "node.kubernetes.io/unreachable",
        "operator": "Exists",
        "effect": "NoExecute",
        "tolerationSeconds": 0,
    }
    pods.create("cut", "trap '' TERM; echo up; while true; do date; sleep 0.1; done", tolerations=[at_once])
    pods.running("cut")
    node, container = pods.cluster.node_of(pods.namespace, "cut"), pods.process("cut").containers[0]
    node.vanish(frozen=frozen)
    try:
        size = container.log.stat().st_size
        deleted = pods.until("cut", lambda pod: "deletionTimestamp" in pod["metadata"], "deleted")
        assert "DisruptionTarget" in [each["type"] for each in deleted["status"]["conditions"]]
        assert (container.log.stat().st_size == size) == frozen
        pods.delete("cut", gracePeriodSeconds=0)
        pods.gone("cut")
        assert Path("/proc", str(container.pid)).exists()  # which nobody could tell it
    finally:
        node.come_back()
    eventually(lambda: not Path("/proc", str(container.pid)).exists(), "end of the old pod")
    path = f"/api/v1/nodes/{node.name}"
    eventually(lambda: not pods.cluster.api.request("GET", path)["spec"].get("taints"), "a node as before")


def test_an_outage_of_the_api_server_ends_no_pod(pods: Pods) -> None:
    mount = {"volumeMounts": [{"name": "hold", "mountPath": "/hold"}]}
    script = "echo up; until [ -e /hold/go ]; do sleep 0.05; done"
    pods.create("calm", script, container=mount, volumes=[{"name": "hold", "emptyDir": {}}])
    pods.running("calm")
    pod = pods.process("calm")
    pods.cluster.plane.stop_apiserver()
    try:
        with pytest.raises(UnavailableError):
            pods.get("calm")
        (pod.folder / "volumes" / "hold" / "go").touch()
        eventually(lambda: pod.containers[0].exit_code == 0, "the end that nobody is told of")
    finally:
        pods.cluster.plane.start_apiserver()
    assert pods.ended("calm")["exitCode"] == 0


def test_a_killed_bed_leaves_nothing_to_the_next(cluster: Cluster) -> None:
    program = """
        import signal
        from bed.container import Container
        from bed.network import Bridge, bed_folder
        launch = {"image": "/", "mounts": [], "read_only": True, "user": 1000, "group": 0, "no_new_privileges": True,
                  "drop_capabilities": True, "folder": "/", "command": ["/bin/sleep", "600"], "env": {}}
        with Bridge() as bridge:
            folder, pod = bed_folder(), bridge.attach("orphan")
            container = Container({"name": "main"}, folder)
            container.start({**launch, "namespaces": pod.namespaces}, pod.address)
            print(bridge.name, folder, container.pid, flush=True)
            signal.pause()
    """
    command = [sys.executable, "-P", "-c", textwrap.dedent(program)]
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    with subprocess.Popen(command, env=env, stdout=subprocess.PIPE, text=True) as bed:
        try:
            assert bed.stdout
            bridge, folder, pid = bed.stdout.readline().split()
            assert has_link(bridge) and Path("/proc", pid).exists()
        finally:
            bed.kill()
    eventually(lambda: not Path("/proc", pid).exists(), "end of the container")
    network.sweep()
    assert not has_link(bridge) and not Path(folder).exists()
    assert has_link(cluster.bridge.name)


def has_link(name: str) -> bool:
    return subprocess.run(["ip", "link", "show", name], capture_output=True).returncode == 0
