"""The commands for the cluster against a real API server. The status of jobs is written by the tests."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from bed.commands import Kubooth
from bed.controlplane import ControlPlane
from bed.jobs import Bench, job

Manifest = dict[str, Any]
START = "2026-11-01T12:00:00Z"
STAGES = ("Download", "Prior", "Prepare", "Train", "Evaluate", "Upload")
RUNTIME_SNAPSHOT = {"name": "default", "spec": {"price": {"perDeviceHour": 3.6, "currency": "EUR"}}}


def write(bench: Bench, name: str = "rex", **status: Any) -> None:
    """Puts fields into the status of a job, as operator and trainer would."""
    bench.rest.merge(f"{bench.job_path(name)}/status", {"status": status})


def stage(name: str, state: str, **fields: Any) -> Manifest:
    return {"name": name, "state": state, **fields}


def succeeded(**more: Any) -> Manifest:
    return {
        "phase": "Succeeded",
        "attempts": 1,
        "output": {"uri": "s3://models/personalized/rex/"},
        "report": {"uri": "s3://models/personalized/rex/report.html"},
        **more,
    }


# What goes wrong before there is anything to do: one sentence each.


def kubeconfig(tmp_path: Path, **changes: Any) -> Path:
    """One that leads to a port where nobody listens, or as `changes` say."""
    cluster = {"server": changes.get("server", "https://127.0.0.1:9"), **changes.get("cluster", {})}
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "c", "cluster": cluster}],
        "users": [{"name": "u", "user": {"token": changes.get("token", "none")}}],
        "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u", "namespace": "team"}}],
        "current-context": "x",
    }
    path = tmp_path / "kubeconfig"
    path.write_text(json.dumps(config))
    return path


@pytest.mark.parametrize("arguments", [("list",), ("doctor",)])
def test_without_a_cluster(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    kubooth = Kubooth(tmp_path, tmp_path / "nowhere", "default")
    code, line = kubooth.refuses(*arguments)
    assert code == 2 and f"no cluster: there is no kubeconfig at {tmp_path / 'nowhere'}" in line
    kubooth.kubeconfig = kubeconfig(tmp_path)
    code, line = kubooth.refuses(*arguments)
    assert code == 75 and "https://127.0.0.1:9 does not answer" in line


@pytest.mark.parametrize(
    ("content", "words"),
    [("", "cannot be used"), ("{", "cannot be used"), ("[]", "cannot be used"), ("{}", "current-context")],
)
def test_a_kubeconfig_in_disorder(tmp_path: Path, content: str, words: str) -> None:
    path = tmp_path / "broken"
    path.write_text(content)
    code, line = Kubooth(tmp_path, path, "default").refuses("list")
    assert code == 2 and "no cluster: " in line and words in line


def test_a_context_that_is_not_there(kubooth: Kubooth) -> None:
    code, line = kubooth.refuses("list", "--context", "other")
    assert code == 2 and "other" in line


def test_an_expired_token(kubooth: Kubooth, api_server: ControlPlane, tmp_path: Path) -> None:
    cluster = {"certificate-authority": str(api_server.ca)}
    kubooth.kubeconfig = kubeconfig(tmp_path, server=api_server.endpoint, cluster=cluster, token="expired")
    for arguments in (("list",), ("doctor",)):
        code, line = kubooth.refuses(*arguments)
        assert code == 77 and "does not accept your credentials: they may have expired" in line


def test_without_permission(kubooth: Kubooth, api_server: ControlPlane) -> None:
    kubooth.kubeconfig = api_server.user_kubeconfig("nobody")
    code, line = kubooth.refuses("list")
    assert code == 77 and "you are not allowed to do this" in line and 'User "nobody" cannot list' in line
    code, line = kubooth.refuses("suspend", "rex")
    assert code == 77 and "cannot get" in line


def test_a_job_that_is_not_there(kubooth: Kubooth) -> None:
    for arguments in (("watch", "rex"), ("logs", "rex"), ("download", "rex")):
        code, line = kubooth.refuses(*arguments)
        assert code == 2 and f"there is no job rex in namespace {kubooth.namespace}" in line


def test_a_cluster_without_kubooth(tmp_path: Path, kubooth: Kubooth, api_server: ControlPlane) -> None:
    """The aggregated API of another group answers as a cluster without our CRDs does."""
    code, line = kubooth.refuses("list", "--kubeconfig", _without_crds(tmp_path, api_server))
    assert code == 2 and "Kubooth is not installed" in line


def _without_crds(tmp_path: Path, api_server: ControlPlane) -> Path:
    config = yaml.safe_load(api_server.admin.read_text())
    config["clusters"][0]["cluster"]["server"] += "/nowhere"  # where the API server knows no path
    path = tmp_path / "elsewhere"
    path.write_text(yaml.safe_dump(config))
    return path


# Jobs that are there.


def test_list_and_describe(kubooth: Kubooth, bench: Bench) -> None:
    assert kubooth("list") == ""
    for name in ("rex", "tom"):
        bench.create(job(name))
    progress = {"step": 640, "total": 800, "loss": 0.0812, "summary": "640/800 80%", "eta": "3m10s"}
    stages = [stage("Prior", "Succeeded", start=START, end="2026-11-01T12:01:00Z", done=200, total=200, unit="images")]
    write(bench, phase="Running", reason="Running", message="step 640", attempts=2, progress=progress, stages=stages)
    write(bench, failure={"reason": "PeerLost", "message": "a rank was lost", "pod": "rex-0", "log": ["last words"]})
    header, rex, tom = kubooth("list").splitlines()
    assert header.split() == ["NAME", "PHASE", "METHOD", "PROGRESS", "ETA", "AGE"]
    assert rex.split()[:6] == ["rex", "Running", "DreamBooth", "640/800", "80%", "3m10s"]
    assert tom.split()[:2] == ["tom", "Pending"]
    assert "LOSS" in kubooth("list", "-o", "wide") and bench.namespace in kubooth("list", "-A")
    assert kubooth("list", "-o", "name").splitlines() == [f"personalizationjob.kubooth.io/{n}" for n in ("rex", "tom")]
    items = json.loads(kubooth("list", "-o", "json"))["items"]
    assert [item["kind"] for item in items] == ["PersonalizationJob"] * 2
    assert kubooth("list", "-l", "team=blue") == ""

    said = kubooth("describe", "rex")
    for words in ("Running (Running)", "step 640", "640/800 80%, loss 0.0812, 3m10s left", "200 images, in 1m00s",
                  "PeerLost: a rank was lost", "| last words", "s3://photos/rex/"):  # fmt: skip
        assert words in said
    assert yaml.safe_load(kubooth("describe", "rex", "-o", "yaml"))["metadata"]["name"] == "rex"


def test_suspend_and_resume(kubooth: Kubooth, bench: Bench) -> None:
    for name in ("rex", "tom", "done"):
        bench.create(job(name))
    write(bench, "done", **succeeded())
    assert kubooth("suspend", "rex", "tom").splitlines() == [
        f"personalizationjob.kubooth.io/{name} suspended" for name in ("rex", "tom")
    ]
    assert bench.job()["spec"]["suspend"] is bench.job("tom")["spec"]["suspend"] is True
    assert kubooth("resume", "rex", "-o", "name") == "personalizationjob.kubooth.io/rex\n"
    assert bench.job()["spec"]["suspend"] is False
    code, line = kubooth.refuses("suspend", "rex", "done")
    assert code == 2 and "job done has ended (Succeeded)" in line
    assert bench.job()["spec"]["suspend"] is False


def test_cost(kubooth: Kubooth, bench: Bench) -> None:
    for name in ("rex", "tom"):
        bench.create(job(name))
    write(bench, **succeeded(deviceSeconds=7200, runtimeSnapshot=RUNTIME_SNAPSHOT))
    lines = kubooth("cost").splitlines()
    assert lines[1].split() == ["rex", "2h00m", "7.20", "EUR"] and lines[2].split() == ["tom", "0s", "no", "price"]
    assert ["total", "2h00m", "7.20", "EUR"] in [line.split() for line in lines]
    (cost,) = json.loads(kubooth("cost", "rex", "-o", "json"))
    assert (cost["device_seconds"], cost["cost"], cost["currency"]) == (7200, 7.2, "EUR")


def test_watch_in_plain_lines_to_success(kubooth: Kubooth, bench: Bench) -> None:
    bench.create(job())
    with kubooth.start("watch", "rex") as process:
        assert process.stdout
        lines = iter(process.stdout)

        def until(words: str) -> str:
            return next(line for line in lines if words in line)

        assert until("rex").startswith("rex (dog) in namespace ")
        until("Pending")
        write(bench, phase="Starting", reason="WaitingForPods", message="2 pods are on their way", attempts=1)
        until("Starting (WaitingForPods): 2 pods are on their way")
        write(bench, phase="Running", stages=[stage("Train", "Running", done=0, total=800, unit="steps", start=START)])
        until("Train: started (0/800 steps)")
        write(bench, progress={"step": 1, "total": 800, "loss": 0.5})
        train = stage("Train", "Succeeded", done=800, total=800, unit="steps", start=START, end="2026-11-01T12:05:00Z")
        write(bench, **succeeded(stages=[train]))
        until("Train: done in 5m00s (800 steps)")
        assert until("model:") == "model:  s3://models/personalized/rex/\n"
        until("kubooth download rex")
        assert process.wait() == 0


def test_watch_of_a_job_that_fails_or_goes(kubooth: Kubooth, bench: Bench) -> None:
    bench.create(job())
    write(bench, phase="Failed", failure={"reason": "BadSubject", "message": "no photos", "log": ["a line"]})
    done = kubooth.try_("watch", "rex")
    assert done.returncode == 1 and "rex has failed: BadSubject: no photos\n| a line" in done.stderr
    assert kubooth("logs", "rex") == "a line\n"
    bench.create(job("tom"))
    with kubooth.start("watch", "tom") as process:
        assert process.stdout
        assert "tom" in process.stdout.readline()
        bench.rest.delete(bench.job_path("tom"))
        assert "job tom was deleted" in process.stdout.read()
        assert process.wait() == 1


def test_ctrl_c_ends_the_watching_not_the_job(kubooth: Kubooth, bench: Bench) -> None:
    bench.create(job())
    with kubooth.start("watch", "rex") as process:
        assert process.stdout
        assert "rex" in process.stdout.readline()
        process.send_signal(signal.SIGINT)
        assert "the job goes on: kubooth watch rex shows it again" in process.stdout.read()
        assert process.wait() == 130
    assert bench.job()["spec"].get("suspend", False) is False


def test_watch_on_a_terminal_draws_bars(kubooth: Kubooth, bench: Bench) -> None:
    bench.create(job())
    write(bench, **succeeded(stages=[stage(name, "Succeeded", done=1, total=1) for name in STAGES]))
    script = shutil.which("script")
    if script is None:
        pytest.skip("no script(1) for a terminal")
    command = " ".join(f"'{word}'" for word in kubooth.command("watch", "rex"))
    done = subprocess.run(
        [script, "-qec", command, os.devnull],
        env={**kubooth.environment, "TERM": "xterm", "COLUMNS": "100"},
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        check=True,
    )
    assert all(name in done.stdout for name in STAGES) and "━" in done.stdout


# As a plugin of kubectl.


def test_as_a_kubectl_plugin(kubooth: Kubooth, bench: Bench, api_server: ControlPlane) -> None:
    bench.create(job())
    path = {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    for plugin in ("kubooth", "pjob"):
        done = api_server.kubectl(plugin, "list", "-n", bench.namespace, "-o", "name", env=path)
        assert done.stdout == "personalizationjob.kubooth.io/rex\n"
    done = api_server.kubectl("__complete", "pjob", "watch", "-n", bench.namespace, "r", env=path)
    assert done.stdout.splitlines() == ["rex", ":4"]


def test_shell_completion(kubooth: Kubooth, bench: Bench) -> None:
    bench.create(job())
    for shell in ("bash", "zsh", "fish"):
        assert "_KUBOOTH_COMPLETE" in kubooth("completion", shell)
    words = {"_KUBOOTH_COMPLETE": "bash_complete", "COMP_WORDS": "kubooth sus", "COMP_CWORD": "1"}
    assert kubooth.try_("completion", env=words).stdout == "plain,suspend\n"
    words |= {"COMP_WORDS": f"kubooth suspend -n {bench.namespace} r", "COMP_CWORD": "4"}
    assert kubooth.try_("completion", env=words).stdout == "plain,rex\n"
