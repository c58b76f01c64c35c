"""`scripts/devcluster` as a person uses it: up, look around, up again, down, and nothing is left."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import boto3
import pytest
import yaml
from bed.controlplane import control_plane
from bed.installation import OPERATOR, ROOT, SYSTEM_NAMESPACE
from bed.network import obstacle
from bed.s3 import ACCESS_KEY, REGION, SECRET_KEY
from botocore.config import Config

INSTALLED = (
    "crd/personalizationjobs.kubooth.io",
    "crd/personalizationruntimes.kubooth.io",
    "validatingadmissionpolicy/kubooth-job-status",
    "validatingadmissionpolicybinding/kubooth-job-status",
    f"clusterrole/{OPERATOR}",
    f"clusterrolebinding/{OPERATOR}",
    f"namespace/{SYSTEM_NAMESPACE}",
    f"serviceaccount/{OPERATOR}",
)


def run(*command: str, env: dict[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, env=env, capture_output=True, text=True, timeout=300)


def devcluster(*command: str, env: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """What the script runs, in the environment that runs the tests."""
    return run(sys.executable, "-m", "bed.devcluster", *command, env=env)


@pytest.fixture
def env(control_plane_programs: None, tmp_path: Path) -> Iterator[dict[str, str]]:
    """An environment whose cluster is not the user's own."""
    missing = obstacle()
    if missing:
        pytest.skip(missing)
    here = {"KUBOOTH_DEVCLUSTER": str(tmp_path / "state"), "PYTHONPATH": str(ROOT / "tests"), "HOME": str(tmp_path)}
    yield (environment := {**os.environ, "XDG_CACHE_HOME": cache_home(), **here})
    devcluster("down", env=environment)


def cache_home() -> str:
    """Where the binaries are."""
    return os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")


def test_up_and_down(env: dict[str, str], tmp_path: Path) -> None:
    up = devcluster("up", env=env)
    assert up.returncode == 0, up.stderr
    exports = dict(re.fullmatch(r"export (\w+)=(.*)", line).groups() for line in up.stdout.splitlines())  # type: ignore[union-attr]
    assert list(exports) == ["KUBECONFIG", "PATH"]
    shell = {**env, "KUBECONFIG": shlex.split(exports["KUBECONFIG"])[0]}
    kubectl = str(tmp_path / "state" / "bin" / "kubectl")
    assert exports["PATH"] == f'{tmp_path}/state/bin:"$PATH"'
    for resource, expected in [
        ("nodes", {"node/node-1", "node/node-2"}),
        ("prt", {"personalizationruntime.kubooth.io/default"}),
        ("secret", {"secret/kubooth-storage"}),
    ]:
        found = run(kubectl, "get", resource, "-o", "name", env=shell)
        assert set(found.stdout.split()) == expected, found.stderr
    job = ROOT / "examples" / "quickstart-s3.yaml"
    assert run(kubectl, "apply", "-f", str(job), env=shell).returncode == 0
    accepted = run(kubectl, "wait", "--for=condition=Accepted", "--timeout=60s", "pjob/rex", env=shell)
    assert accepted.returncode == 0, accepted.stderr + (tmp_path / "state" / "operator.log").read_text()
    again = devcluster("up", env=env)
    assert (again.returncode, again.stdout) == (0, up.stdout)
    server = (tmp_path / "state" / "pid").read_text()
    assert devcluster("down", env=env).returncode == 0
    assert not (tmp_path / "state").exists()
    deadline = time.monotonic() + 30  # a network namespace ends a moment after its last process
    while left := leftovers(server, str(tmp_path)):
        assert time.monotonic() < deadline, left
        time.sleep(0.1)
    assert devcluster("down", env=env).returncode == 0


@pytest.mark.soak
@pytest.mark.timeout(2400)
def test_the_quickstart(env: dict[str, str], tmp_path: Path) -> None:
    """As the docs tell it: from photos in S3 to the model, its report and its manifest there."""
    assert devcluster("up", env=env).returncode == 0
    state = tmp_path / "state"
    shell = {**env, "KUBECONFIG": str(state / "kubeconfig")}
    kubectl = str(state / "bin" / "kubectl")
    assert run(kubectl, "apply", "-f", str(ROOT / "examples" / "quickstart-s3.yaml"), env=shell).returncode == 0
    wait = [kubectl, "wait", "--for=condition=Succeeded", "--timeout=30m", "pjob/rex"]
    done = subprocess.run(wait, env=shell, capture_output=True, text=True, timeout=1900)
    told = run(kubectl, "get", "pjob", "rex", "-o", "yaml", env=shell).stdout
    assert done.returncode == 0, told
    client = boto3.Session(aws_access_key_id=ACCESS_KEY, aws_secret_access_key=SECRET_KEY).client(
        "s3",
        endpoint_url=json.loads((state / "ready.json").read_text())["s3"],
        region_name=REGION,
        config=Config(s3={"addressing_style": "path"}, proxies={}),
    )
    with contextlib.closing(client):
        found = client.list_objects_v2(Bucket="models", Prefix="personalized/rex/")["Contents"]
    names = {item["Key"].removeprefix("personalized/rex/") for item in found}
    assert {"manifest.json", "report.html", "unet/diffusion_pytorch_model.safetensors"} <= names
    assert yaml.safe_load(told)["status"]["attempts"] == 1


def leftovers(server: str, state: str) -> list[str]:
    """Processes, interfaces and folders of a cluster."""
    marks = [state.encode(), f"kubooth-bed-{server}-".encode()]
    commands = [(path.parent.name, contents(path)) for path in Path("/proc").glob("[0-9]*/cmdline")]
    processes = [f"process {pid}: {text!r}" for pid, text in commands if any(mark in text for mark in marks)]
    links = subprocess.run(["ip", "-brief", "link"], capture_output=True, text=True, check=True).stdout.splitlines()
    interfaces = [f"interface {link}" for link in links if re.match(rf"kb{server}[bv]", link)]
    places = (Path("/dev/shm"), Path(tempfile.gettempdir()))
    folders = [str(path) for place in places for path in place.glob(f"kubooth-bed-{server}-*")]
    return processes + interfaces + folders


def contents(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""


def test_a_cluster_that_is_there_already(control_plane_programs: None, tmp_path: Path) -> None:
    with control_plane(tmp_path / "plane") as plane:
        (tmp_path / "kubectl").symlink_to(plane.kubectl_program)
        path = f"{tmp_path}:{os.environ['PATH']}"
        env = {**plane.environment, "PATH": path, "PYTHONPATH": str(ROOT / "tests"), "XDG_CACHE_HOME": cache_home()}
        for _ in range(2):  # the second time nothing is new
            up = devcluster("up", "--kind", env=env)
            assert (up.returncode, up.stdout) == (0, ""), up.stderr
        job = ROOT / "examples" / "quickstart-s3.yaml"
        plane.kubectl("create", "--dry-run=server", "-f", job)
        found = plane.kubectl("get", *INSTALLED, "-o", "name", "-n", SYSTEM_NAMESPACE).stdout.split()
        assert len(found) == len(INSTALLED)
        plane.kubectl("create", "-f", job)
        down = devcluster("down", "--kind", env=env)
        assert down.returncode == 0, down.stderr
        found = plane.kubectl("get", *INSTALLED, "-o", "name", "-n", SYSTEM_NAMESPACE, check=False).stdout.split()
        assert found == []


def test_an_unknown_command_shows_the_help(tmp_path: Path) -> None:
    for arguments in ([], ["sideways"]):
        done = subprocess.run([ROOT / "scripts" / "devcluster", *arguments], capture_output=True, text=True)
        assert done.returncode == 2 and done.stderr.startswith("Usage: scripts/devcluster up")
    done = subprocess.run([ROOT / "scripts" / "devcluster", "up", "--help"], capture_output=True, text=True)
    assert done.returncode == 0 and "It starts no operator" in done.stdout
