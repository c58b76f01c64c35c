"""The operator's ClusterRole lists what the operator uses, all of it and nothing else."""

from __future__ import annotations

from typing import Any

import pytest
import yaml
from bed import kubelet
from bed.apiproxy import ApiProxy
from bed.controlplane import ControlPlane
from bed.eventually import eventually
from bed.installation import CHART_FILES, OPERATOR, SYSTEM_NAMESPACE
from bed.jobs import CHILD_PATHS, PODS, Bench, job, limit, runtime
from bed.kubelet import Kubelet
from bed.operator_process import Operator
from bed.rest import RUNTIMES

Manifest = dict[str, Any]
Right = tuple[str, str, str]  # verb, API group, resource
CORE = ("configmaps", "services", "serviceaccounts", "pods")
LEASE = f"/apis/coordination.k8s.io/v1/namespaces/{SYSTEM_NAMESPACE}/leases/kubooth-operator"
RBAC = "rbac.authorization.k8s.io"
BINDING = CHILD_PATHS["RoleBinding"] + "/rex-kubooth"
POD_SPEC = {"restartPolicy": "Never", "containers": [{"name": "other", "image": "other"}]}
ROLE = CHART_FILES / "clusterrole.yaml"
ACCOUNT = f"system:serviceaccount:{SYSTEM_NAMESPACE}:{OPERATOR}"


def granted() -> set[Right]:
    (role,) = (document for document in yaml.safe_load_all(ROLE.read_text()) if document)
    assert role["kind"] == "ClusterRole" and role["metadata"]["name"] == OPERATOR
    return {
        (verb, group, resource)
        for rule in role["rules"]
        for verb in rule["verbs"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
    }


FOREIGN = {
    ("ServiceAccount", "rex-kubooth"): {},
    ("Role", "rex-kubooth"): {},
    ("RoleBinding", "rex-kubooth"): {"roleRef": {"apiGroup": RBAC, "kind": "Role", "name": "none"}},
    ("Service", "rex-kubooth"): {"spec": {"ports": [{"port": 80}]}},
    ("NetworkPolicy", "rex-kubooth"): {"spec": {"podSelector": {}}},
    ("ConfigMap", "rex-kubooth-1"): {},
    ("Job", "rex-kubooth-1"): {"spec": {"suspend": True, "template": {"spec": POD_SPEC}}},
}


def test_every_right_is_used_and_no_other_is_needed(operator: Operator, bench: Bench) -> None:
    """A whole life: runtime late, names in use, children edited, a lost node, a second attempt, the end."""
    rest, space, proxy = bench.rest, bench.namespace, operator.proxy
    operator.stop()
    rest.delete(LEASE)
    proxy.calls.clear()
    said = len(operator.log)
    operator.start()
    for (kind, name), content in FOREIGN.items():
        rest.post(CHILD_PATHS[kind].format(space), {"metadata": {"name": name}, **content})
    bench.create(job(runtime="rights", runPolicy={"ttlSecondsAfterFinished": 0}))
    bench.wait_for_reason("RuntimeNotFound")
    bench.create_runtime(runtime("rights", terminationGracePeriodSeconds=1))
    bench.wait_for_reason("NameTaken")
    quota = limit(bench, "pods")
    for kind, name in FOREIGN:
        if kind == "Job":  # which is tried when nothing else is missing
            bench.touch()
            eventually(lambda: was_looked_at(proxy, "jobs"), "the Job of another", tell=lambda: operator.log[-3000:])
        rest.delete(bench.child_path(kind, name), propagationPolicy="Background")
    bench.touch()
    bench.wait_for_reason("PodsNotCreated")
    rest.delete(quota)
    (pod,) = bench.wait_for_pods()
    for which, child in bench.children().items():
        rest.merge(bench.child_path(*which), {"metadata": {"labels": {"app.kubernetes.io/name": "other"}}})
        eventually(lambda which=which, child=child: has_labels_of(bench, which, child), f"{which} as it was")
    operator.stop()
    replace_binding(bench)
    operator.start()
    eventually(lambda: role_of(bench.rest.find(BINDING.format(space))) == "rex-kubooth", "the right role")
    bind_to_a_ghost(bench, pod)
    kubelet.run(rest, pod)
    bench.wait_for_phase("Running")
    rest.delete(f"{PODS.format(space)}/{pod['metadata']['name']}")
    eventually(lambda: bench.status().get("attempts") == 2, "another attempt", seconds=60, tell=bench.status)
    with Kubelet(rest, kubelet.succeed, space):
        eventually(lambda: rest.find(bench.job_path()) is None, "its time to live is over", seconds=60)
    rest.delete(f"{RUNTIMES}/rights")

    used = {(call.verb, call.group, call.resource) for call in proxy.calls if call.group or call.resource in CORE}
    used.add(("get", "kubooth.io", "personalizationjobs/status"))  # granted to trainers: who grants must hold it
    assert granted() - used == set(), "granted and not used"
    assert {right for right in used if right[2]} - granted() == set(), "used and not granted"
    assert refusals(operator.log[said:]) == []


def refusals(log: str) -> list[str]:
    """For want of a right. What else is forbidden is the namespace of an earlier test, which is on its way out."""
    said = (line for line in log.splitlines() if "forbidden" in line.lower())
    return [line for line in said if "because it is being terminated" not in line]


def was_looked_at(proxy: ApiProxy, resource: str) -> bool:
    return any((call.verb, call.resource) == ("get", resource) for call in list(proxy.calls))


def has_labels_of(bench: Bench, which: tuple[str, str], child: Manifest) -> bool:
    return bool(bench.rest.get(bench.child_path(*which))["metadata"]["labels"] == child["metadata"]["labels"])


def role_of(binding: Manifest | None) -> str | None:
    return binding["roleRef"]["name"] if binding else None


def replace_binding(bench: Bench) -> None:
    """By one that looks like ours and refers to another role."""
    path = BINDING.format(bench.namespace)
    ours = bench.rest.get(path)
    metadata = {name: ours["metadata"][name] for name in ("name", "labels", "ownerReferences")}
    bench.rest.delete(path)
    other = {"metadata": metadata, "roleRef": {**ours["roleRef"], "name": "none"}, "subjects": ours["subjects"]}
    bench.rest.post(path.rpartition("/")[0], other)


def bind_to_a_ghost(bench: Bench, pod: Manifest) -> None:
    """To a node that nobody has heard of, as after a power cut: the pod will not go by itself."""
    name = pod["metadata"]["name"]
    target = {"apiVersion": "v1", "kind": "Node", "name": "ghost"}
    binding = {"apiVersion": "v1", "kind": "Binding", "metadata": {"name": name}, "target": target}
    bench.rest.post(f"{PODS.format(bench.namespace)}/{name}/binding", binding)


@pytest.mark.parametrize(
    ("verb", "resource", "expected"),
    [
        ("get", "secrets", "no"),
        ("list", "secrets", "no"),
        ("create", "secrets", "no"),
        ("create", "pods", "no"),
        ("create", "pods/exec", "no"),
        ("escalate", "roles.rbac.authorization.k8s.io", "no"),
        ("bind", "clusterroles.rbac.authorization.k8s.io", "no"),
        ("impersonate", "serviceaccounts", "no"),
        ("create", "serviceaccounts/token", "no"),
        ("delete", "services", "no"),
        ("update", "personalizationjobs.kubooth.io", "no"),
        ("patch", "personalizationjobs.kubooth.io/status", "yes"),
    ],
)
def test_what_the_operator_may(api_server: ControlPlane, verb: str, resource: str, expected: str) -> None:
    resource, _, subresource = resource.partition("/")
    which = [f"--subresource={subresource}"] if subresource else []
    done = api_server.kubectl("auth", "can-i", verb, resource, *which, f"--as={ACCOUNT}", "-A", check=False)
    assert done.stdout.strip() == expected, done.stderr


def test_its_lease_is_the_only_one_it_may_change(api_server: ControlPlane) -> None:
    for name, expected in (("kubooth-operator", "yes"), ("kube-scheduler", "no")):
        asked = ["update", f"leases.coordination.k8s.io/{name}", "-n", "kube-system", f"--as={ACCOUNT}"]
        assert api_server.kubectl("auth", "can-i", *asked, check=False).stdout.strip() == expected
