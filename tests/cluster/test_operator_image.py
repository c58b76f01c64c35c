"""The operator's image, really built, and run from its root file system: read-only, not as root, against a cluster."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path

import pytest
from bed.controlplane import ControlPlane
from bed.eventually import eventually
from bed.images import USER, Image, build
from bed.installation import OPERATOR, SYSTEM_NAMESPACE
from bed.operator_process import TRAINER_IMAGE, free_port

pytestmark = pytest.mark.soak

MOST_BYTES = 150_000_000  # compressed


@pytest.fixture
def image(built_image: Callable[[str], Image]) -> Image:
    return built_image("operator")


def test_size_labels_and_content(image: Image, tmp_path: Path) -> None:
    size = sum(image.compressed(tmp_path))
    print(f"compressed: {size / 1e6:.1f} MB")
    assert size < MOST_BYTES
    assert image.config["User"] == f"{USER}:{USER}"
    assert image.config["Labels"]["org.opencontainers.image.title"] == "kubooth-operator"
    assert {"kubernetes", "boto3"} <= image.packages  # boto3 is for `kubooth leftovers`, which the chart can run
    assert not image.packages & {"torch", "numpy", "pip", "setuptools", "kubooth_world"}
    assert {path.name for path in (image.root / "opt/code").glob("kubooth_*")} >= {"kubooth_operator", "kubooth_cli"}


def test_the_bill_of_materials_lists_what_is_installed(image: Image) -> None:
    listed = {name.lower().replace("_", "-").replace(".", "-") for name in image.bill_of_materials}
    installed = {name.removesuffix(".dist-info").rpartition("-")[0] for name in image.packages if "dist-info" in name}
    assert listed >= {name.lower().replace("_", "-").replace(".", "-") for name in installed}
    assert "cyclonedx-bom" not in listed


def test_a_change_of_code_makes_one_layer_anew(image: Image, image_checkout: Path, image_base: str) -> None:
    before = image.layers
    with (image_checkout / "operator" / "kubooth_operator" / "kinds.py").open("a") as file:
        file.write("# changed\n")
    start = time.monotonic()
    build(image_checkout, image_base, "operator")
    print(f"built anew in {time.monotonic() - start:.1f} s")
    assert [ours == theirs for ours, theirs in zip(before, image.layers, strict=True)].count(False) == 1


def test_it_leads_from_a_read_only_root(
    image: Image, api_server: ControlPlane, no_operator: None, tmp_path: Path
) -> None:
    port = free_port()
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
