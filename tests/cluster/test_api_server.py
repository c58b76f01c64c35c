"""The control plane of the tests is what it says: versions, admission, tokens, an outage."""

from __future__ import annotations

import json
from typing import Any

import pytest
from bed.controlplane import ControlPlane
from bed.eventually import eventually


def pod(name: str, **container: Any) -> str:
    containers = [{"name": "main", "image": "nothing", **container}]
    manifest = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": {"containers": containers}}
    return json.dumps(manifest)


def test_server_and_kubectl_are_of_one_version(api_server: ControlPlane) -> None:
    version = json.loads(api_server.kubectl("version", "-o", "json").stdout)
    assert version["serverVersion"]["gitVersion"] == version["clientVersion"]["gitVersion"]


def test_pod_security_and_quota_are_enforced(api_server: ControlPlane, namespace: str) -> None:
    def is_refused(manifest: str, words: str) -> bool:
        """Whether such a pod is refused by now: admission knows labels and quotas from a watch, a moment late."""
        done = api_server.kubectl(*apply, "--dry-run=server", input=manifest, check=False)
        return done.returncode == 1 and words in done.stderr

    apply = ("apply", "-n", namespace, "-f", "-")
    api_server.kubectl("label", "namespace", namespace, "pod-security.kubernetes.io/enforce=restricted")
    eventually(lambda: is_refused(pod("root"), 'violates PodSecurity "restricted'), "a refusal by PodSecurity")
    api_server.kubectl("label", "namespace", namespace, "pod-security.kubernetes.io/enforce-")
    api_server.kubectl("create", "quota", "none", "--hard=pods=0", "-n", namespace)
    eventually(lambda: is_refused(pod("one"), "exceeded quota: none"), "a refusal by quota")
    done = api_server.kubectl(*apply, input=pod("one"), check=False)
    assert done.returncode == 1 and "exceeded quota: none" in done.stderr


def test_a_service_account_has_no_rights_of_its_own(api_server: ControlPlane, namespace: str) -> None:
    api_server.kubectl("create", "serviceaccount", "guest", "-n", namespace)
    guest = api_server.service_account_kubeconfig(namespace, "guest")
    assert f"system:serviceaccount:{namespace}:guest" in api_server.kubectl("auth", "whoami", kubeconfig=guest).stdout
    done = api_server.kubectl("get", "pods", kubeconfig=guest, check=False)
    assert done.returncode == 1 and "Forbidden" in done.stderr


def test_an_indexed_job_gets_its_pods(api_server: ControlPlane, namespace: str) -> None:
    spec = {
        "completionMode": "Indexed",
        "completions": 2,
        "parallelism": 2,
        "template": {"spec": {"restartPolicy": "Never", "containers": [{"name": "main", "image": "nothing"}]}},
    }
    job = {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "gang", "namespace": namespace}, "spec": spec}
    api_server.apply(job)
    selector = "-l=batch.kubernetes.io/job-name=gang"
    api_server.kubectl("wait", "--for=create", "pod", selector, "-n", namespace, "--timeout=60s")
    unscheduled = "--for=jsonpath={.status.conditions[?(@.type=='PodScheduled')].reason}=Unschedulable"
    api_server.kubectl("wait", unscheduled, "pod", selector, "-n", namespace, "--timeout=60s")


@pytest.mark.usefixtures("namespace")
def test_an_outage_ends_where_it_began(api_server: ControlPlane) -> None:
    endpoint = api_server.endpoint
    api_server.stop_apiserver()
    try:
        assert not api_server.is_ready()
        assert api_server.kubectl("get", "ns", check=False).returncode == 1
    finally:
        api_server.start_apiserver()
    assert api_server.endpoint == endpoint
    assert api_server.get("ns", "default")["metadata"]["name"] == "default"
