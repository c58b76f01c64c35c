"""`scripts/devcluster`: the cluster of the tests, for people: with the operator, buckets, a runtime, until `down`.

`up` starts `serve` as a process of its own, which holds the whole cluster and ends it at SIGTERM; everything it starts
ends with it. What a shell needs to know lies in one folder, ~/.cache/kubooth/devcluster or KUBOOTH_DEVCLUSTER, which
is there as long as the cluster is.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import yaml
from bed import gobuild
from bed.installation import OPERATOR, ROOT, SYSTEM_NAMESPACE, manifests
from bed.network import bed_folder, obstacle, sweep
from bed.nodes import TRAINER_IMAGE, Cluster, pod_cluster
from bed.s3 import ACCESS_KEY, REGION, SECRET_KEY
from botocore.config import Config

import kubooth_world

STATE = Path(
    os.environ.get("KUBOOTH_DEVCLUSTER")
    or Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "kubooth", "devcluster")
)
RUNTIME = ROOT / "examples" / "runtime-devcluster.yaml"
NAMESPACE = "default"
SECRET = "kubooth-storage"
UP_SECONDS = 600
DOWN_SECONDS = 60
_YEAR_HOURS = 24 * 365


def main() -> int:
    parser = argparse.ArgumentParser(prog="scripts/devcluster")
    commands = parser.add_subparsers(dest="command", required=True)
    starting = commands.add_parser("up")
    starting.add_argument("--nodes", type=int, default=2)
    starting.add_argument("--kind", action="store_true")
    commands.add_parser("down").add_argument("--kind", action="store_true")
    commands.add_parser("serve").add_argument("--nodes", type=int, default=2)
    options = parser.parse_args()
    if options.command == "serve":
        return serve(options.nodes)
    if options.kind:
        return put_into_current() if options.command == "up" else take_out_of_current()
    with _one_at_a_time():
        return up(options.nodes) if options.command == "up" else down()


def up(nodes: int) -> int:
    """Starts the cluster, unless it runs, and prints what a shell needs."""
    if not _server():
        gobuild.programs(*gobuild.CLUSTER, "versitygw")  # here, where its progress is seen, and the network there is
        missing = obstacle()
        if missing:
            _say(missing)
            return 1
        down()
        _say("starting the control plane, nodes, S3 and the operator")
        if not _start(nodes):
            return 1
    facts = json.loads(_facts().read_text())
    _say(f"S3 is at {facts['s3']}, buckets photos and models, AWS_ACCESS_KEY_ID={ACCESS_KEY}")
    _say(f"AWS_SECRET_ACCESS_KEY={SECRET_KEY}; logs are in {STATE}")
    _say('for this shell: eval "$(scripts/devcluster up)"; to end it: scripts/devcluster down')
    print(f"export KUBECONFIG={shlex.quote(str(STATE / 'kubeconfig'))}")
    print(f'export PATH={shlex.quote(str(STATE / "bin"))}:"$PATH"')
    return 0


def down() -> int:
    """Ends the cluster, and removes what one left that was killed."""
    server = _server()
    if server:
        os.kill(server, signal.SIGTERM)
        if not _wait(lambda: not _server(), DOWN_SECONDS):
            os.kill(server, signal.SIGKILL)  # everything it started ends with it
            _wait(lambda: not _server(), DOWN_SECONDS)
    if shutil.which("ip"):
        sweep()
    shutil.rmtree(STATE, ignore_errors=True)
    return 0


def serve(nodes: int) -> int:
    """Holds the cluster until SIGTERM."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: sys.exit(0))
    folder = bed_folder()
    try:
        with pod_cluster(folder, nodes=nodes) as cluster:
            _fill(cluster)
            kubeconfig = cluster.plane.service_account_kubeconfig(SYSTEM_NAMESPACE, OPERATOR, hours=_YEAR_HOURS)
            shutil.copy(cluster.plane.admin, STATE / "kubeconfig")
            (STATE / "bin").mkdir()
            (STATE / "bin" / "kubectl").symlink_to(cluster.plane.kubectl_program)
            _keep_operator(kubeconfig, cluster)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return 0


def _keep_operator(kubeconfig: Path, cluster: Cluster) -> None:
    """Runs the operator, again when it ends, as a Deployment would."""
    options = ["--trainer-image", TRAINER_IMAGE, "--lease-namespace", SYSTEM_NAMESPACE, "--health-port", "0"]
    command = [sys.executable, "-m", "kubooth_operator.main", "--identity", "devcluster", *options]
    tied = ["setpriv", "--pdeathsig", "KILL"] if shutil.which("setpriv") else []
    while True:
        with (STATE / "operator.log").open("ab") as log:
            operator = subprocess.Popen(
                [*tied, *command],
                env={**os.environ, "KUBECONFIG": str(kubeconfig)},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        try:
            facts = _facts().with_suffix(".new")
            facts.write_text(json.dumps({"s3": cluster.s3_endpoint}))
            facts.replace(_facts())  # who waits for it reads at once
            _say(f"the operator ended with {operator.wait()}: starting it again")
        finally:
            operator.kill()
            operator.wait()
        time.sleep(1)


def _fill(cluster: Cluster) -> None:
    """Buckets, the credentials, the runtime."""
    fill_buckets(cluster)
    runtime = yaml.safe_load(RUNTIME.read_text())
    runtime["spec"]["storage"]["endpoint"] = cluster.s3_endpoint
    cluster.plane.apply(credentials(), runtime)


def credentials() -> dict[str, Any]:
    """The Secret that the runtime names, in the namespace of the examples."""
    keys = {"AWS_ACCESS_KEY_ID": ACCESS_KEY, "AWS_SECRET_ACCESS_KEY": SECRET_KEY}
    metadata = {"name": SECRET, "namespace": NAMESPACE}
    return {"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "stringData": keys}


def fill_buckets(cluster: Cluster) -> None:
    """Makes them, with the example photos and the bundled model."""
    client = boto3.Session(aws_access_key_id=ACCESS_KEY, aws_secret_access_key=SECRET_KEY).client(
        "s3",
        endpoint_url=cluster.s3_endpoint,
        region_name=REGION,
        config=Config(s3={"addressing_style": "path"}, proxies={}),
    )
    with contextlib.closing(client):
        for bucket, folders in {
            "photos": {"quickstart": ROOT / "examples" / "quickstart" / "photos", "dog": ROOT / "examples" / "dog"},
            "models": {"small-world": kubooth_world.model_path("small-world")},
        }.items():
            client.create_bucket(Bucket=bucket)
            for name, folder in folders.items():
                for path in sorted(each for each in folder.rglob("*") if each.is_file()):
                    client.upload_file(str(path), bucket, f"{name}/{path.relative_to(folder)}")


def put_into_current() -> int:
    """Applies what Kubooth needs to the cluster of the current kubeconfig."""
    _kubectl("apply", "--server-side", "--force-conflicts", "-f", str(ROOT / "crds"))
    _kubectl("wait", "--for=condition=Established", "--timeout=60s", "-f", str(ROOT / "crds"))
    _apply_all("apply", "--server-side", "--force-conflicts")
    if _kubectl("get", "personalizationruntime", "default", check=False) != 0:
        _kubectl("apply", "-f", str(RUNTIME))
    _say("set storage.endpoint of the runtime (kubectl edit prt default) and start the operator: see --help")
    return 0


def take_out_of_current() -> int:
    """Removes what `put_into_current` applied; jobs and runtimes go with their CRDs."""
    _apply_all("delete", "--ignore-not-found")
    _kubectl("delete", "--ignore-not-found", "-f", str(ROOT / "crds"))
    return 0


def _apply_all(*verb: str) -> None:
    items = {"apiVersion": "v1", "kind": "List", "items": manifests()}
    _kubectl(*verb, "-f", "-", input=json.dumps(items))


def _kubectl(*args: str, input: str | None = None, check: bool = True) -> int:
    program = shutil.which("kubectl") or str(gobuild.programs("kubectl")["kubectl"])
    done = subprocess.run([program, *args], input=input, text=True, stdout=sys.stderr)
    if check and done.returncode != 0:
        sys.exit(done.returncode)
    return done.returncode


def _start(nodes: int) -> bool:
    """Starts `serve` and waits until it is ready."""
    STATE.mkdir(mode=0o700, parents=True)
    command = [sys.executable, "-m", "bed.devcluster", "serve", "--nodes", str(nodes)]
    path = os.pathsep.join([str(ROOT / "tests"), *filter(None, [os.environ.get("PYTHONPATH")])])
    with (STATE / "log").open("ab") as log:
        server = subprocess.Popen(
            command,
            env={**os.environ, "PYTHONPATH": path},
            cwd="/",
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,  # so that Ctrl-C of a later command does not reach it
        )
    (STATE / "pid").write_text(str(server.pid))
    try:
        is_up = _wait(lambda: _facts().exists() or server.poll() is not None, UP_SECONDS) and server.poll() is None
    except KeyboardInterrupt:
        is_up = False
    if not is_up:
        log_text = (STATE / "log").read_text(errors="replace")
        if server.poll() is None:
            server.terminate()
            server.wait()
        down()
        _say(f"it did not come up:\n{log_text[-4000:]}")
    return is_up


def _server() -> int | None:
    """The process id of `serve`, where it runs."""
    try:
        pid = int((STATE / "pid").read_text())
        command = Path("/proc", str(pid), "cmdline").read_bytes().split(b"\0")
    except (OSError, ValueError):
        return None
    return pid if b"bed.devcluster" in command else None


def _facts() -> Path:
    return STATE / "ready.json"


def _wait(is_so: Any, seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while not is_so():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.1)
    return True


@contextlib.contextmanager
def _one_at_a_time() -> Iterator[None]:
    STATE.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(STATE.parent, os.O_RDONLY)  # the folder itself is the lock, so that no file stays
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _say(text: str) -> None:
    print(f"devcluster: {text}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
