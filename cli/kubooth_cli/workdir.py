"""The working folder of a local run: where it lies, who holds it, and what `kubooth run` itself writes there."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from kubooth_trainer.config import TrainConfig

CONFIG_NAME = "config.json"
LOG_NAME = "trainer.log"
LOCK_NAME = "run.lock"


class WorkdirBusyError(Exception):
    """Another run holds this working folder; the message names its process."""


def cache_root(environment: Mapping[str, str]) -> Path:
    """`$XDG_CACHE_HOME/kubooth`, or `~/.cache/kubooth`; a relative XDG_CACHE_HOME is ignored, as it must be."""
    given = environment.get("XDG_CACHE_HOME", "")
    root = Path(given) if given.startswith("/") else Path.home() / ".cache"
    return root / "kubooth"


def default_workdir(config: TrainConfig, environment: Mapping[str, str]) -> Path:
    """One folder per job and decisive settings, so that the same command finds its checkpoints again."""
    return cache_root(environment) / "runs" / f"{config.job.name}-{config.digest()[:10]}"


def prior_cache_uri(environment: Mapping[str, str]) -> str:
    """Where this user's runs share class images."""
    return (cache_root(environment) / "prior").as_uri()


@contextmanager
def locked(workdir: Path) -> Iterator[int]:
    """Holds the folder for one run; yields the lock's descriptor, for the launcher to inherit.

    The lock belongs to the open file, so that it stands until the last process that inherited it has ended: a
    trainer that outlives a killed command line keeps the next one out.

    Raises:
        WorkdirBusyError: another run holds it.
    """
    workdir.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(workdir / LOCK_NAME, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            holder = os.pread(descriptor, 32, 0).decode(errors="replace")
            raise WorkdirBusyError(_busy(workdir, holder)) from error
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        yield descriptor
    finally:
        os.close(descriptor)


def write_config(workdir: Path, config: TrainConfig) -> Path:
    """Writes `config.json` whole or not at all."""
    path = workdir / CONFIG_NAME
    part = path.with_suffix(".part")
    part.write_text(config.model_dump_json(indent=2) + "\n")
    part.replace(path)
    return path


def _busy(workdir: Path, holder: str) -> str:
    pid = holder.strip()
    if pid.isdecimal() and not _alive(int(pid)):
        return (
            f"{workdir}: an earlier run (process {pid}) has ended, but its trainer is still stopping: "
            "try again in a moment"
        )
    by = f"process {pid}" if pid.isdecimal() else "another process"
    return f"{workdir}: {by} is running this job already; wait for it, stop it, or choose another --workdir"


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
