"""pytest plugin: container images, really built from the Dockerfile, and run from their root file systems.

    def test_something(built_image): image = built_image("operator"); image.command(*image.entry)

By buildah without containers (`chroot` isolation) on a Debian base made by debootstrap: what there is where nothing
can be pulled. The operator's takes half a minute once pip's downloads are near, the trainer's some minutes.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from bed import podspec

ROOT = Path(__file__).resolve().parents[2]
USER = 1000
BASE = "localhost/kubooth-test-base:bookworm"
TOOLS = ("buildah", "debootstrap", "unshare", "chroot", "setpriv")
PACKAGES = "python3,python3-venv,ca-certificates"
SUPERFLUOUS = ("var/cache/apt/*", "var/lib/apt/lists/*", "usr/share/doc/*", "usr/share/man/*", "usr/share/locale/*")
BILL_OF_MATERIALS = "usr/share/sbom/kubooth.cdx.json"
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
    def config(self) -> dict[str, Any]:
        """The OCI configuration: Env, Entrypoint, Labels, User."""
        found: dict[str, Any] = json.loads(buildah("inspect", "--type", "image", self.name))["OCIv1"]["config"]
        return found

    @property
    def layers(self) -> list[str]:
        """Their digests, the first at the bottom."""
        image = json.loads(buildah("inspect", "--type", "image", self.name))
        found: list[str] = image["OCIv1"]["rootfs"]["diff_ids"]
        return found

    @property
    def environment(self) -> dict[str, str]:
        """What the image sets."""
        return dict(each.split("=", 1) for each in self.config["Env"])

    @property
    def entry(self) -> list[str]:
        """Process 1."""
        entry: list[str] = self.config["Entrypoint"]
        return entry

    @property
    def for_pods(self) -> podspec.Image:
        """What a node of the bed runs pods from."""
        return podspec.Image(root=self.root, env=self.environment, user=USER)

    def compressed(self, folder: Path) -> list[int]:
        """Bytes of each layer as a registry would hold it; the image is written to `folder`."""
        buildah("push", "--quiet", "--format", "oci", "--compression-format", "gzip", self.name, f"oci:{folder}")
        index = json.loads((folder / "index.json").read_text())
        manifest = json.loads(_blob(folder, index["manifests"][0]["digest"]).read_text())
        return [layer["size"] for layer in manifest["layers"]]

    @property
    def packages(self) -> set[str]:
        """Names of what is installed for Python."""
        return {path.name for path in (self.root / "opt/kubooth").glob("lib/python3*/site-packages/*")}

    @property
    def bill_of_materials(self) -> dict[str, str]:
        """Versions of the packages that its CycloneDX file lists, by name."""
        found = json.loads((self.root / BILL_OF_MATERIALS).read_text())
        assert found["bomFormat"] == "CycloneDX" and found["metadata"]["component"]["name"] == "kubooth"
        return {each["name"]: each["version"] for each in found["components"]}


def _blob(folder: Path, digest: str) -> Path:
    return folder / "blobs" / digest.replace(":", "/")


def buildah(*arguments: str | Path) -> str:
    return _run("buildah", *arguments)


def _run(*command: str | Path) -> str:
    environment = {**os.environ, "BUILDAH_ISOLATION": "chroot"}
    done = subprocess.run(list(command), capture_output=True, text=True, env=environment)
    assert done.returncode == 0, f"{command}: {done.returncode}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    return done.stdout


@pytest.fixture(scope="session")
def image_base(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A Debian with Python and its venv module."""
    missing = [tool for tool in TOOLS if shutil.which(tool) is None]
    if missing or os.geteuid() != 0:
        pytest.skip(f"needs root and {', '.join(TOOLS)}; missing: {', '.join(missing) or 'root'}")
    folder = tmp_path_factory.mktemp("base")
    _run("debootstrap", "--variant=minbase", f"--include={PACKAGES}", "bookworm", folder)
    _run("rm", "-rf", *(path for name in SUPERFLUOUS for path in folder.glob(name)))
    container = buildah("from", "scratch").strip()
    buildah("add", "--quiet", container, folder, "/")
    shutil.rmtree(folder)
    buildah("config", "--env", "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", container)
    buildah("commit", "--quiet", "--rm", container, BASE)
    yield BASE
    buildah("rmi", "--force", BASE)


@pytest.fixture(scope="session")
def image_checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of what the images are made of, to change."""
    folder = tmp_path_factory.mktemp("checkout")
    for name in ("operator", "trainer", "cli", "requirements", "scripts"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("Dockerfile", ".dockerignore", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy2(ROOT / name, folder / name)
    return folder


def build(checkout: Path, base: str, target: str) -> str:
    """The name of the image of one target."""
    ca = ["--ca", AUTHORITIES] if AUTHORITIES.exists() else []
    command = [checkout / "scripts" / "image", "--engine", "buildah", "--base", base, "--tag", "test", *ca, target]
    return _run(*command).splitlines()[-1]


@pytest.fixture(scope="session")
def built_image(image_checkout: Path, image_base: str) -> Iterator[Callable[[str], Image]]:
    """Builds the image of a target, the first time that it is asked for."""
    built: dict[str, Image] = {}
    containers = []

    def built_once(target: str) -> Image:
        if target not in built:
            name = build(image_checkout, image_base, target)
            containers.append(buildah("from", "--pull-never", name).strip())
            built[target] = Image(name, Path(buildah("mount", containers[-1]).strip()))
        return built[target]

    yield built_once
    for container in containers:
        buildah("rm", container)
    for image in built.values():
        buildah("rmi", "--force", image.name)
    buildah("rmi", "--prune", "--force")
