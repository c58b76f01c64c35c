"""The tutorial, followed to the letter: its commands and files, in a copy of this checkout and a home of its own."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from bed.network import obstacle
from docs.manual import DOCS, ROOT, blocks

SECONDS = 5400  # a bound, not an expectation: most of it is training on few cores

pytestmark = [pytest.mark.soak, pytest.mark.timeout(SECONDS + 300)]


@pytest.fixture
def machine(control_plane_programs: None) -> Iterator[Path]:
    """A folder with a `checkout` and a `home`. Nothing is there but the programs of the cluster, built already."""
    missing = obstacle()
    if missing:
        pytest.skip(missing)
    folder = Path(tempfile.mkdtemp(prefix="kubooth-tutorial-"))
    folder.chmod(0o755)  # pods run as another user
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        check=True,
    )
    for name in filter(None, listed.stdout.decode().split("\0")):
        if (ROOT / name).exists():
            target = folder / "checkout" / name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, target, follow_symlinks=False)
    cache = folder / "home" / ".cache" / "kubooth"
    cache.mkdir(parents=True)
    built = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "kubooth", "bin")
    (cache / "bin").symlink_to(built)
    yield folder
    down = [folder / "checkout/scripts/devcluster", "down"]
    subprocess.run(down, env=environment(folder), capture_output=True, timeout=300)
    shutil.rmtree(folder)


def environment(machine: Path) -> dict[str, str]:
    """That of the tests, without what points to their own Python environment, cluster or credentials."""
    mine = ("PYTHON", "VIRTUAL_ENV", "KUBE", "KUBOOTH", "AWS_", "XDG_")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(mine)}
    return {**kept, "HOME": str(machine / "home")}


def test_the_tutorial(machine: Path) -> None:
    page = DOCS / "tutorial.md"
    checkout = machine / "checkout"
    for block in blocks(page, languages=("yaml",)):
        if block.title:
            (checkout / block.title).write_text(block.text)
    script = "set -euxo pipefail\n" + "".join(block.text for block in blocks(page, languages=("bash",)))
    with (machine / "log").open("w+") as log:
        done = subprocess.run(
            ["bash", "-c", script],
            cwd=checkout,
            env=environment(machine),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            timeout=SECONDS,
        )
        log.seek(0)
        assert done.returncode == 0, log.read()[-8000:]
    for result in ("outputs/quickstart", "outputs/my-dog", "my-dog-model"):
        manifest = json.loads((checkout / result / "manifest.json").read_text())
        assert manifest["files"], result
        assert "<html" in (checkout / result / "report.html").read_text()
    assert "<html" in (checkout / "rex-report.html").read_text()
    assert (checkout / "snow.png").read_bytes().startswith(b"\x89PNG")
