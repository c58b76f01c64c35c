"""pytest plugin: a real control plane with Kubooth installed, for the session; a namespace of its own for each test.

    def test_something(api_server, namespace): api_server.kubectl("apply", "-n", namespace, "-f", "-", input=...)

It has no nodes: pods stay Pending.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import pytest
from bed import gobuild
from bed.controlplane import ControlPlane, control_plane
from bed.installation import install

_numbers = itertools.count(1)


@pytest.fixture(scope="session")
def control_plane_programs(request: pytest.FixtureRequest) -> None:
    """Builds what a control plane needs, the first time on a machine, and shows how far that is."""
    with request.config.pluginmanager.getplugin("capturemanager").global_and_fixture_disabled():
        gobuild.cluster()


@pytest.fixture(scope="session")
def api_server(control_plane_programs: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    """A control plane on loopback."""
    with control_plane(tmp_path_factory.mktemp("plane")) as plane:
        install(plane)
        yield plane


@pytest.fixture
def namespace(api_server: ControlPlane) -> Iterator[str]:
    """The name of a fresh namespace, in which pods can be made."""
    name = f"test-{next(_numbers)}"
    api_server.kubectl("create", "namespace", name)
    api_server.kubectl("wait", "--for=create", "serviceaccount/default", "-n", name, "--timeout=110s")
    yield name
    api_server.kubectl("delete", "namespace", name, "--wait=false")
