"""The operator's image, really built, and run from its root file system: read-only, not as root, against a cluster.

By buildah without containers (`chroot` isolation) on a Debian base made by debootstrap: what continuous integration
has where nothing can be pulled. Half a minute once pip's downloads are near, some minutes otherwise.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import signal
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from bed.controlplane import ControlPlane
from bed.eventually import eventually
from bed.installation import OPERATOR, SYSTEM_NAMESPACE
from bed.operator_process import TRAINER_IMAGE, _free_port

pytestmark = pytest.mark.soak

ROOT = Path(__file__).resolve().parents[2]
USER = 1000
MOST_BYTES = 150_000_000  # compressed
BASE = "localhost/kubooth-test-base:bookworm"
TOOLS = ("buildah", "debootstrap", "unshare", "chroot", "setpriv")
PACKAGES = "python3,python3-venv,ca-certificates"
SUPERFLUOUS = ("var/cache/apt/*", "var/lib/apt/lists/*", "usr/share/doc/*", "usr/share/man/*", "usr/share/locale/*")
AUTHORITIES = Path("/etc/ssl/certs/ca-certificates.crt")


@dataclass
class Image:
    """One that is in buildah's store, and its root file system as a folder."""

    name: str
    root: Path

    def command(self, *arguments: str, before: str = "true") -> list[str]:
        """Runs in the image as a pod would: its root read-only, /tmp and /dev writable, not as root."""
        root = shlex.quote(str(self.root))
        steps = [
            f"mount --bind {root} {root}",
            f"mount -o remount,bind,ro {root}",
            f"mount -t tmpfs tmpfs {root}/tmp && chmod 1777 {root}/tmp",
            f"mount --rbind /dev {root}/dev",
            f"mount -t proc proc {root}/proc",
            before,
            f"exec {shutil.which('chroot')} --userspec={USER}:{USER} {root} {shlex.join(arguments)}",
        ]
        return ["unshare", "--mount", "--fork", "--pid", "--kill-child", "bash", "-ec", "\n".join(steps)]

    @property
    def environment(self) -> dict[str, str]:
        """What the image sets."""
        config = json.loads(_run("buildah", "inspect", "--type", "image", self.name))["OCIv1"]["config"]
        return dict(each.split("=", 1) for each in config["Env"])

    @property
    def entry(self) -> list[str]:
        config = json.loads(_run("buildah", "inspect", "--type", "image", self.name))["OCIv1"]["config"]
        assert config["User"] == f"{USER}:{USER}"
        entry: list[str] = config["Entrypoint"]
        return entry


def _run(*command: str | Path) -> str:
    environment = {**os.environ, "BUILDAH_ISOLATION": "chroot"}
    done = subprocess.run(list(command), capture_output=True, text=True, env=environment)
    assert done.returncode == 0, f"{command}: {done.returncode}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    return done.stdout


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A Debian with Python and its venv module."""
    missing = [tool for tool in TOOLS if shutil.which(tool) is None]
    if missing or os.geteuid() != 0:
        pytest.skip(f"needs root and {', '.join(TOOLS)}; missing: {', '.join(missing) or 'root'}")
    folder = tmp_path_factory.mktemp("base")
    _run("debootstrap", "--variant=minbase", f"--include={PACKAGES}", "bookworm", folder)
    _run("rm", "-rf", *(path for name in SUPERFLUOUS for path in folder.glob(name)))
    container = _run("buildah", "from", "scratch").strip()
    _run("buildah", "add", "--quiet", container, folder, "/")
    shutil.rmtree(folder)
    _run("buildah", "config", "--env", "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", container)
    _run("buildah", "commit", "--quiet", "--rm", container, BASE)
    yield BASE
    _run("buildah", "rmi", "--force", BASE)


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of what the images are made of, to change."""
    folder = tmp_path_factory.mktemp("checkout")
    for name in ("operator", "trainer", "cli", "requirements", "scripts"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("Dockerfile", ".dockerignore", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy2(ROOT / name, folder / name)
    return folder


def build(checkout: Path, base: str) -> str:
    ca = ["--ca", AUTHORITIES] if AUTHORITIES.exists() else []
    command = [checkout / "scripts" / "image", "--engine", "buildah", "--base", base, "--tag", "test", *ca, "operator"]
    return _run(*command).splitlines()[-1]


@pytest.fixture(scope="module")
def image(checkout: Path, base: str) -> Iterator[Image]:
    name = build(checkout, base)
    container = _run("buildah", "from", "--pull-never", name).strip()
    yield Image(name, Path(_run("buildah", "mount", container).strip()))
    _run("buildah", "rm", container)
    _run("buildah", "rmi", "--force", name)
    _run("buildah", "rmi", "--prune", "--force")


def test_size_labels_and_content(image: Image, tmp_path: Path) -> None:
    _run("buildah", "push", "--quiet", "--format", "oci", "--compression-format", "gzip", image.name, f"oci:{tmp_path}")
    size = sum(path.stat().st_size for path in (tmp_path / "blobs").rglob("*") if path.is_file())
    print(f"compressed: {size / 1e6:.1f} MB")
    assert size < MOST_BYTES
    config = json.loads(_run("buildah", "inspect", "--type", "image", image.name))["OCIv1"]["config"]
    assert config["Labels"]["org.opencontainers.image.title"] == "kubooth-operator"
    packages = {path.name for path in (image.root / "opt/kubooth").glob("lib/python3*/site-packages/*")}
    assert "kubernetes" in packages and not packages & {"torch", "numpy", "pip", "setuptools", "kubooth_world"}
    assert {path.name for path in (image.root / "opt/code").glob("kubooth_*")} >= {"kubooth_operator", "kubooth_cli"}


def layers(name: str) -> list[str]:
    found: list[str] = json.loads(_run("buildah", "inspect", "--type", "image", name))["OCIv1"]["rootfs"]["diff_ids"]
    return found


def test_a_change_of_code_makes_one_layer_anew(image: Image, checkout: Path, base: str) -> None:
    before = layers(image.name)
    with (checkout / "operator" / "kubooth_operator" / "kinds.py").open("a") as file:
        file.write("# changed\n")
    start = time.monotonic()
    after = layers(build(checkout, base))
    print(f"built anew in {time.monotonic() - start:.1f} s")
    assert [ours == theirs for ours, theirs in zip(before, after, strict=True)].count(False) == 1


def test_it_leads_from_a_read_only_root(
    image: Image, api_server: ControlPlane, no_operator: None, tmp_path: Path
) -> None:
    port = _free_port()
    account = api_server.service_account_kubeconfig(SYSTEM_NAMESPACE, OPERATOR)
    kubeconfig = tmp_path / "kubeconfig"  # with the authority in it, for the image has no other file of ours
    kubeconfig.write_text(api_server.kubectl("config", "view", "--flatten", "--raw", kubeconfig=account).stdout)
    options = ["--trainer-image", TRAINER_IMAGE, "--lease-namespace", SYSTEM_NAMESPACE, "--health-port", str(port)]
    given = f"{image.root}/tmp/kubeconfig"
    before = f"install -o {USER} -m 400 {shlex.quote(str(kubeconfig))} {shlex.quote(given)}"
    command = image.command(*image.entry, *options, before=before)
    environment = {**image.environment, "KUBECONFIG": "/tmp/kubeconfig"}
    start = time.monotonic()
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        eventually(lambda: process.poll() is not None or answers(port), "an operator that works", seconds=120)
        print(f"works after {time.monotonic() - start:.1f} s")
        assert process.poll() is None, process.stdout and process.stdout.read()
        worker = int(Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()[0])
        status = Path(f"/proc/{worker}/status").read_text()
        assert f"Uid:\t{USER}\t{USER}" in status
        assert Path(f"/proc/{worker}/cmdline").read_bytes().startswith(b"python\0-m\0kubooth_operator.main")
        os.kill(worker, signal.SIGTERM)
        assert process.wait(30) == 0
    finally:
        process.kill()
        process.communicate()


def answers(port: int) -> bool:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(f"http://127.0.0.1:{port}/readyz", timeout=5) as answer:
            return "working" in answer.read().decode()
    except (OSError, urllib.error.URLError):
        return False
