"""Who may write a job's status: a trainer's token reaches its own job, in its own attempt, and its own fields.

Tokens are real ones, bound to Pod objects that nobody runs; writes go to the real API server, with the Role that the
operator makes for a job and the policy of the chart.
"""

from __future__ import annotations

import http.client
import json
import ssl
import time
from dataclasses import dataclass
from typing import Any

import pytest
from api.bad_specs import GOOD_JOB, changed
from bed.controlplane import ControlPlane
from bed.eventually import eventually
from bed.installation import CHART_FILES, OPERATOR, SYSTEM_NAMESPACE

from kubooth_operator import names
from kubooth_operator.api.job import MAX_NAME, PersonalizationJob
from kubooth_operator.schema import structural_schema

APPLY = "application/apply-patch+yaml"
MERGE = "application/merge-patch+json"
TIME = "2026-11-22T12:00:00Z"
POLICY = ("validatingadmissionpolicy", "kubooth-job-status")
URI = {"uri": "s3://models/personalized/rex/"}
WRITERS = "is written by the operator and by the pods of the job"

OF_THE_TRAINER: dict[str, Any] = {
    "stages": [{"name": "Train", "state": "Running", "start": TIME, "done": 10, "total": 800, "unit": "steps"}],
    "progress": {"step": 10, "total": 800, "percent": 1.25, "updatedAt": TIME, "summary": "10/800 1%"},
    "checkpoint": {**URI, "step": 10, "time": TIME},
    "identifier": "sks",
    "className": "dog",
    "prior": {"source": "Generated", "images": 200},
    "quality": {
        "verdict": "Accepted",
        "message": "Is good.",
        "figures": [{"name": "Dino", "before": 0.2, "after": 0.7}],
    },
    "output": {**URI, "bytes": 1},
    "report": URI,
}
STARTED: dict[str, Any] = {
    "phase": "Running",
    "reason": "Training",
    "message": "Trains.",
    "attempts": 1,
    "observedGeneration": 1,
    "runtimeSnapshot": {"name": "default", "spec": {"accelerator": {"perNode": 8}}},
    "conditions": [
        {"type": "Accepted", "status": "True", "reason": "Accepted", "message": "Is good.", "lastTransitionTime": TIME}
    ],
}


@dataclass(frozen=True)
class Answer:
    code: int
    message: str


@dataclass(frozen=True)
class Gang:
    """Two jobs, `rex` and `max`, with what the operator makes for them, and their pods, which are objects only."""

    plane: ControlPlane
    namespace: str

    def token(self, pod: str | None, account: str = "rex-kubooth") -> str:
        return self.plane.token(self.namespace, account, pod=pod)

    def patch(self, token: str, status: Any, *, job: str = "rex", kind: str = MERGE, **metadata: Any) -> Answer:
        """Writes to the status with a token, as a trainer does."""
        body = {"metadata": {"name": job, **metadata}, "status": status}
        path = f"/apis/kubooth.io/v1alpha1/namespaces/{self.namespace}/{names.JOB_PLURAL}/{job}/status"
        if kind == APPLY:
            body |= {"apiVersion": GOOD_JOB["apiVersion"], "kind": GOOD_JOB["kind"]}
            path += f"?fieldManager={names.TRAINER_MANAGER}&force=true"
        return call(self.plane, token, "PATCH", path, body, kind)

    def wait_for_right(self, *who: str) -> None:
        """Until the API server knows that somebody may write to the status: it learns of roles from a watch."""
        asked = f"auth can-i patch {names.JOB_PLURAL}.kubooth.io/rex --subresource=status -n {self.namespace}".split()
        eventually(lambda: self.plane.kubectl(*asked, *who, check=False).returncode == 0, f"the right of {who}")

    def as_admin(self, status: dict[str, Any], job: str = "rex") -> None:
        args = ("--subresource=status", "--type=merge", "-p", json.dumps({"status": status}))
        self.plane.kubectl("patch", "pjob", job, "-n", self.namespace, *args)

    def job(self) -> Any:
        return self.plane.get("pjob", "rex", "-n", self.namespace)


def call(plane: ControlPlane, token: str, method: str, path: str, body: Any, kind: str) -> Answer:
    host = plane.endpoint.removeprefix("https://")
    connection = http.client.HTTPSConnection(host, context=ssl.create_default_context(cafile=str(plane.ca)), timeout=30)
    try:
        headers = {"Authorization": f"Bearer {token}", "Content-Type": kind}
        connection.request(method, path, json.dumps(body), headers)
        response = connection.getresponse()
        return Answer(response.status, json.load(response).get("message", ""))
    finally:
        connection.close()


@pytest.fixture
def gang(api_server: ControlPlane, namespace: str, no_operator: None) -> Gang:
    gang = Gang(api_server, namespace)
    objects: list[Any] = []
    for job in ("rex", "max"):
        objects += [changed(GOOD_JOB, {"metadata.name": job}), *rights(names.shared_name(job), [job])]
    objects += rights("shared", ["rex", "max"])  # as a runtime's serviceAccountName gives it to all jobs
    api_server.apply(*({**each, "metadata": {**each["metadata"], "namespace": namespace}} for each in objects))
    wait_for_policy(gang)
    gang.as_admin(STARTED)
    gang.as_admin(STARTED, "max")
    return gang


def rights(account: str, jobs: list[str]) -> list[dict[str, Any]]:
    """A ServiceAccount with a Role for the status of jobs."""
    rbac = "rbac.authorization.k8s.io"
    status = f"{names.JOB_PLURAL}/status"
    rule = {"apiGroups": ["kubooth.io"], "resources": [status], "resourceNames": jobs, "verbs": ["get", "patch"]}
    metadata = {"name": account}
    return [
        {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": metadata},
        {"apiVersion": f"{rbac}/v1", "kind": "Role", "metadata": metadata, "rules": [rule]},
        {
            "apiVersion": f"{rbac}/v1",
            "kind": "RoleBinding",
            "metadata": metadata,
            "roleRef": {"apiGroup": rbac, "kind": "Role", "name": account},
            "subjects": [{"kind": "ServiceAccount", "name": account}],
        },
    ]


def make_pod(gang: Gang, name: str, account: str = "rex-kubooth") -> str:
    spec = {"serviceAccountName": account, "containers": [{"name": "trainer", "image": "nothing"}]}
    gang.plane.apply(
        {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": gang.namespace}, "spec": spec}
    )
    return name


def wait_for_policy(gang: Gang) -> None:
    """A policy takes effect a moment after it was made."""
    token = gang.token(None)
    deadline = time.monotonic() + 30
    while WRITERS not in (answer := gang.patch(token, {"identifier": "sks"})).message:
        assert time.monotonic() < deadline, answer
        time.sleep(0.1)


def test_rank_0_writes_all_that_is_the_trainers(gang: Gang) -> None:
    token = gang.token(make_pod(gang, "rex-kubooth-1-0-abcde"))
    assert gang.patch(token, OF_THE_TRAINER, kind=APPLY).code == 200
    status = gang.job()["status"]
    assert {field: status[field] for field in OF_THE_TRAINER} == OF_THE_TRAINER
    assert {field: status[field] for field in STARTED} == STARTED
    path = f"/apis/kubooth.io/v1alpha1/namespaces/{gang.namespace}/{names.JOB_PLURAL}/rex/status"
    assert call(gang.plane, token, "GET", path, None, MERGE).code == 200
    fewer = {field: OF_THE_TRAINER[field] for field in ("stages", "progress")}
    assert gang.patch(token, fewer, kind=APPLY).code == 200
    assert set(gang.job()["status"]) & set(OF_THE_TRAINER) == set(fewer)


def test_every_field_of_the_status_has_one_owner() -> None:
    assert set(OF_THE_TRAINER) <= set(STATUS)
    policy = (CHART_FILES / "policy.yaml").read_text()
    assert str(list(OF_THE_TRAINER)) in policy


STATUS = structural_schema(PersonalizationJob)["properties"]["status"]["properties"]
OF_THE_OPERATOR = sorted(set(STATUS) - set(OF_THE_TRAINER))


def other_value(schema: dict[str, Any]) -> Any:
    """Something that the schema takes, and that no job here has."""
    match schema:
        case {"enum": [first, *_]}:
            return first
        case {"format": "date-time"}:
            return "2020-01-01T00:00:00Z"
        case {"type": "object", "properties": properties}:
            return {name: other_value(properties[name]) for name in schema.get("required", properties)}
        case {"type": "object"}:
            return {"changed": True}
        case {"type": "array"}:
            return [other_value(schema["items"])]
        case _:
            return {"string": "Changed", "integer": 5, "number": 0.5, "boolean": True}[schema["type"]]


def test_the_operators_fields_are_out_of_reach(gang: Gang) -> None:
    token = gang.token(make_pod(gang, "rex-kubooth-1-0-abcde"))
    for field in OF_THE_OPERATOR:
        for kind in (MERGE, APPLY):
            answer = gang.patch(token, {"identifier": "sks", field: other_value(STATUS[field])}, kind=kind)
            assert answer.code == 403, (field, answer)
            assert f"status.{field} is written by the operator alone, a trainer writes stages, " in answer.message
    for field in STARTED:  # nor can they be taken away
        assert f"status.{field} is written by the operator alone" in gang.patch(token, {field: None}).message
    assert "is written by the operator alone" in gang.patch(token, None).message
    assert {field: gang.job()["status"].get(field) for field in (*STARTED, "identifier")} == {
        **STARTED,
        "identifier": None,
    }


@pytest.mark.parametrize(
    ("pod", "account", "attempts", "message"),
    [
        ("rex-kubooth-1-0-abcde", "rex-kubooth", 2, "is not of attempt 2 of job rex"),  # left over of an attempt
        ("rex-kubooth-2-0-abcde", "rex-kubooth", 1, "is not of attempt 1 of job rex"),
        ("rex-kubooth-1-0-abcde", "rex-kubooth", None, "is not of attempt 0 of job rex"),  # not started
        ("rex-kubooth-1-1-abcde", "rex-kubooth", 1, "is not of attempt 1 of job rex"),
        ("rex-kubooth-12-0-abcde", "rex-kubooth", 1, "is not of attempt 1 of job rex"),
        ("web-0", "rex-kubooth", 1, "pod web-0 is not of attempt 1 of job rex"),  # somebody's with that account
        ("max-kubooth-1-0-abcde", "shared", 1, "is not of attempt 1 of job rex"),  # another job's, same account
        (
            "rex-kubooth-1-x-kubooth-1-0-abcde",
            "shared",
            1,
            "is not of attempt 1 of job rex",
        ),  # a job with such a name
    ],
)
def test_other_pods_are_refused(gang: Gang, pod: str, account: str, attempts: int | None, message: str) -> None:
    token = gang.token(make_pod(gang, pod, account), account)
    gang.as_admin({"attempts": attempts})
    answer = gang.patch(token, {"identifier": "sks"}, kind=APPLY)
    assert (answer.code, message in answer.message) == (403, True), answer
    assert "identifier" not in gang.job()["status"]


def test_of_a_job_with_the_longest_name_the_pod_of_the_present_attempt_alone_may_write(gang: Gang) -> None:
    """The Job controller cuts the name of a pod where it would be longer than 63 characters."""
    name = "r" * MAX_NAME
    longest = changed(GOOD_JOB, {"metadata.name": name, "metadata.namespace": gang.namespace})
    role = changed(rights("shared", [name])[1], {"metadata.namespace": gang.namespace})
    gang.plane.apply(longest, role)
    pods = {attempt: pod_of_a_batch_job(gang, names.attempt_name(name, attempt)) for attempt in (1, 10, 12)}
    for attempt in pods:
        gang.as_admin({"attempts": attempt}, name)
        may = {
            each: gang.patch(gang.token(pod, "shared"), {"identifier": f"of-{each}"}, job=name).code == 200
            for each, pod in pods.items()
        }
        assert may == {each: each == attempt for each in pods}, pods


def pod_of_a_batch_job(gang: Gang, name: str) -> str:
    """The name that the Job controller gives to the pod of index 0."""
    pod_spec = {
        "restartPolicy": "Never",
        "serviceAccountName": "shared",
        "containers": [{"name": "trainer", "image": "nothing"}],
    }
    batch_job = {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": name, "namespace": gang.namespace},
        "spec": {"completionMode": "Indexed", "completions": 1, "template": {"spec": pod_spec}},
    }
    gang.plane.apply(batch_job)
    where = ("pod", f"-l=batch.kubernetes.io/job-name={name}", "-n", gang.namespace)
    gang.plane.kubectl("wait", "--for=create", *where, "--timeout=60s")
    (pod,) = gang.plane.get(*where)["items"]
    return str(pod["metadata"]["name"])


def test_a_token_without_a_pod_is_refused(gang: Gang) -> None:
    answer = gang.patch(gang.token(None), {"identifier": "sks"})
    assert (answer.code, "this token is not bound to a pod" in answer.message) == (403, True), answer


def test_a_token_of_a_pod_that_is_gone_is_no_longer_one(gang: Gang) -> None:
    token = gang.token(make_pod(gang, "rex-kubooth-1-0-abcde"))
    gang.plane.kubectl("delete", "pod", "rex-kubooth-1-0-abcde", "-n", gang.namespace, "--force", "--grace-period=0")
    eventually(lambda: gang.patch(token, {"identifier": "sks"}).code == 401, "the end of the token")


def test_another_jobs_token_has_no_right_at_all(gang: Gang) -> None:
    token = gang.token(make_pod(gang, "max-kubooth-1-0-abcde", "max-kubooth"), "max-kubooth")
    assert gang.patch(token, {"identifier": "sks"}, job="max").code == 200
    answer = gang.patch(token, {"identifier": "sks"})
    assert (answer.code, 'cannot patch resource "personalizationjobs/status"' in answer.message) == (403, True), answer


def test_an_account_of_another_namespace_is_refused(gang: Gang) -> None:
    """Even one that was given the right there, in a pod with the right name."""
    binding = rights("rex-kubooth", ["rex"])[2]
    subjects = [{"kind": "ServiceAccount", "name": "rex-kubooth", "namespace": SYSTEM_NAMESPACE}]
    gang.plane.apply({**binding, "metadata": {"name": "guest", "namespace": gang.namespace}, "subjects": subjects})
    other = Gang(gang.plane, SYSTEM_NAMESPACE)
    account = {"name": "rex-kubooth", "namespace": SYSTEM_NAMESPACE}
    gang.plane.apply({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": account})
    try:
        gang.wait_for_right(f"--as=system:serviceaccount:{SYSTEM_NAMESPACE}:rex-kubooth")
        token = other.token(make_pod(other, "rex-kubooth-1-0-abcde"))
        answer = gang.patch(token, {"identifier": "sks"})
        assert (answer.code, WRITERS in answer.message) == (403, True), answer
    finally:
        gang.plane.kubectl("delete", "sa/rex-kubooth", "-n", SYSTEM_NAMESPACE)
        gang.plane.kubectl("delete", "pod/rex-kubooth-1-0-abcde", "-n", SYSTEM_NAMESPACE, "--force", "--grace-period=0")


def test_a_person_with_every_right_is_refused_too(gang: Gang) -> None:
    """A cluster-admin by RBAC: only members of system:masters are taken for administrators of the status."""
    person = gang.plane.user_kubeconfig("eve")
    gang.plane.kubectl("create", "rolebinding", "eve", "--clusterrole=admin", "--user=eve", "-n", gang.namespace)
    rule = ["--verb=*", f"--resource={names.JOB_PLURAL}.kubooth.io,{names.JOB_PLURAL}.kubooth.io/status"]
    gang.plane.kubectl("create", "role", "eve", *rule, "-n", gang.namespace)
    gang.plane.kubectl("create", "rolebinding", "eve-jobs", "--role=eve", "--user=eve", "-n", gang.namespace)
    gang.wait_for_right("--as=eve")
    write = ("patch", "pjob", "rex", "-n", gang.namespace, "--subresource=status", "--type=merge", "-p")
    done = gang.plane.kubectl(*write, '{"status": {"phase": "Succeeded"}}', kubeconfig=person, check=False)
    assert done.returncode == 1 and f"the status of job rex {WRITERS}, not by eve" in done.stderr
    spec = ("patch", "pjob", "rex", "-n", gang.namespace, "--type=merge", "-p", '{"spec": {"suspend": true}}')
    gang.plane.kubectl(*spec, kubeconfig=person)


def test_the_operator_writes_everything(gang: Gang) -> None:
    allow = ["--verb=patch", f"--resource={names.JOB_PLURAL}.kubooth.io/status"]
    gang.plane.kubectl("create", "role", "writer", *allow, "-n", gang.namespace)
    account = f"--serviceaccount={SYSTEM_NAMESPACE}:{OPERATOR}"
    gang.plane.kubectl("create", "rolebinding", "writer", "--role=writer", account, "-n", gang.namespace)
    gang.wait_for_right(f"--as=system:serviceaccount:{SYSTEM_NAMESPACE}:{OPERATOR}")
    token = gang.plane.token(SYSTEM_NAMESPACE, OPERATOR)
    assert gang.patch(token, {**OF_THE_TRAINER, "phase": "Succeeded", "attempts": 3}).code == 200


def test_metadata_and_spec_are_out_of_reach_of_a_status_write(gang: Gang) -> None:
    token = gang.token(make_pod(gang, "rex-kubooth-1-0-abcde"))
    before = gang.job()
    changes = {"labels": {"a": "b"}, "annotations": {"a": "b"}, "finalizers": ["kubooth.io/stay"]}
    for kind in (MERGE, APPLY):
        assert gang.patch(token, {"identifier": f"by-{kind[12:15]}"}, kind=kind, **changes).code == 200
    after = gang.job()
    assert after["status"]["identifier"] == "by-app"
    assert after["spec"] == before["spec"]
    own = {"resourceVersion", "managedFields"}
    assert {k: v for k, v in after["metadata"].items() if k not in own} == {
        k: v for k, v in before["metadata"].items() if k not in own
    }


CAN = [("get", "personalizationjobs/rex", "status"), ("patch", "personalizationjobs/rex", "status")]
CANNOT = [
    *((verb, "personalizationjobs/rex", None) for verb in ("get", "patch", "update", "delete")),
    *((verb, "personalizationjobs/rex", "status") for verb in ("update", "delete")),
    *((verb, "personalizationjobs/max", "status") for verb in ("get", "patch")),
    *((verb, "personalizationjobs", None) for verb in ("list", "watch", "create")),
    *((verb, "personalizationjobs", "status") for verb in ("get", "patch", "list")),
    *((verb, "secrets", None) for verb in ("get", "list", "create")),
    ("get", "configmaps", None),
    ("get", "pods", None),
    ("get", "pods", "log"),
    ("create", "pods", "exec"),
    ("create", "jobs.batch", None),
    ("create", "serviceaccounts", "token"),
    ("create", "rolebindings.rbac.authorization.k8s.io", None),
    ("get", "personalizationruntimes", None),
    ("impersonate", "users", None),
]


def test_can_i(gang: Gang) -> None:
    pod = make_pod(gang, "rex-kubooth-1-0-abcde")
    trainer = gang.plane.service_account_kubeconfig(gang.namespace, "rex-kubooth", pod=pod)
    for expected, cases in (("yes", CAN), ("no", CANNOT)):
        for verb, resource, subresource in cases:
            part = [f"--subresource={subresource}"] if subresource else []
            done = gang.plane.kubectl("auth", "can-i", verb, resource, *part, kubeconfig=trainer, check=False)
            assert done.stdout.strip() == expected, (verb, resource, subresource, done.stderr)


def test_can_i_lists_one_line_more_than_for_anybody(gang: Gang) -> None:
    gang.plane.kubectl("create", "serviceaccount", "nobody", "-n", gang.namespace)
    pod = make_pod(gang, "rex-kubooth-1-0-abcde")
    trainer = gang.plane.service_account_kubeconfig(gang.namespace, "rex-kubooth", pod=pod)
    nobody = gang.plane.service_account_kubeconfig(gang.namespace, "nobody")
    of_trainer, of_nobody = (
        {
            " ".join(line.split())
            for line in gang.plane.kubectl("auth", "can-i", "--list", kubeconfig=who).stdout.splitlines()
        }
        for who in (trainer, nobody)
    )
    assert of_trainer - of_nobody == {"personalizationjobs.kubooth.io/status [] [rex] [get patch]"}


def test_the_api_server_understands_the_policy(api_server: ControlPlane) -> None:
    """It checks the types in expressions against the CRD, and warns in the status."""
    api_server.kubectl("wait", "--for=jsonpath={.status.observedGeneration}", "--timeout=60s", *POLICY)
    assert not api_server.get(*POLICY)["status"].get("typeChecking", {}).get("expressionWarnings")
