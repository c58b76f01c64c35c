"""pytest plugin: real Helm, and a cluster without Kubooth for it to install.

    def test_something(helm, bare_cluster): helm("install", "kubooth", CHART, "-n", "kubooth-system")

The cluster has the images that the chart names: the operator's is this checkout; the trainer's ends well as soon as
its test lets it, by `bare_cluster.gate`.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml
from bed import gobuild
from bed.controlplane import ControlPlane
from bed.network import bed_folder, obstacle
from bed.nodes import ROOT, TRAINER_IMAGE, Cluster, pod_cluster, trainer_image
from bed.podspec import Image

CHART = ROOT / "charts" / "kubooth"
RELEASE = yaml.safe_load((CHART / "Chart.yaml").read_text())["version"]
PREVIOUS = "0.0.9"
"""Stands for the release before: this chart under another version, as `helm package` makes it."""
_HELM_SECONDS = 300
_TRAINER = """#!/bin/sh
# In the place of Python in the trainer's image: ends well once the test lets it.
until [ -e /opt/gate/open ]; do sleep 0.1; done
"""


@dataclass(frozen=True)
class Helm:
    """The program. Knows no cluster but the one it is given, and nothing of the user's."""

    program: Path
    folder: Path

    def __call__(
        self, *args: str | Path, plane: ControlPlane | None = None, check: bool = True
    ) -> subprocess.CompletedProcess[str]:
        env: Mapping[str, str] = {"PATH": os.defpath, "HOME": str(self.folder), "HELM_DRIVER": "secret"}
        if plane is not None:
            env = {**env, "KUBECONFIG": str(plane.admin)}
        command = [str(self.program), *map(str, args)]
        done = subprocess.run(command, capture_output=True, text=True, env=env, cwd=self.folder, timeout=_HELM_SECONDS)
        if check and done.returncode != 0:
            raise AssertionError(f"helm {' '.join(command[1:])} ended with {done.returncode}:\n{done.stderr}")
        return done


@dataclass
class BareCluster:
    """`gate`: trainers run until a file `open` is in it."""

    cluster: Cluster
    gate: Path

    @property
    def plane(self) -> ControlPlane:
        return self.cluster.plane

    def let_trainers_end(self) -> None:
        (self.gate / "open").touch()

    def hold_trainers(self) -> None:
        (self.gate / "open").unlink(missing_ok=True)


@pytest.fixture(scope="session")
def helm(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Helm:
    """Built the first time on a machine, which takes minutes."""
    with request.config.pluginmanager.getplugin("capturemanager").global_and_fixture_disabled():
        program = gobuild.programs("helm")["helm"]
    return Helm(program, tmp_path_factory.mktemp("helm"))


@pytest.fixture(scope="session")
def bare_cluster(control_plane_programs: None) -> Iterator[BareCluster]:
    """Two nodes, and no Kubooth."""
    missing = obstacle()
    if missing:
        pytest.skip(missing)
    folder = bed_folder()
    gate, trainer = folder / "gate", folder / "trainer"
    gate.mkdir()
    trainer.mkdir()
    folder.chmod(0o755)
    (trainer / "python").write_text(_TRAINER)
    (trainer / "python").chmod(0o755)
    path = f"/opt/trainer:{os.defpath}"
    ends = Image(env={"PATH": path}, folders={"/opt/trainer": trainer, "/opt/gate": gate}, user=1000)
    operator = trainer_image()
    images = {TRAINER_IMAGE: operator}  # for a runtime that names it: one that really trains
    for version in (RELEASE, PREVIOUS):
        images |= {f"kubooth/operator:{version}": operator, f"kubooth/trainer:{version}": ends}
    try:
        with pod_cluster(folder / "cluster", images=images) as cluster:
            yield BareCluster(cluster, gate)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
