"""From a job file and options to a `Plan`: loaded, validated, resolved, with devices and a working folder.

Pure but for reading the files and asking the machine for its devices; writes nothing.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from kubooth_cli.devices import Devices, NotEnoughDevicesError, find_devices
from kubooth_cli.workdir import default_workdir, prior_cache_uri
from kubooth_operator.api import PersonalizationJob
from kubooth_operator.api.load import load_runtime, override, parse, read_manifest
from kubooth_operator.api.local import local_runtime
from kubooth_operator.api.problems import SpecError
from kubooth_operator.resolve import Target, resolve
from kubooth_trainer.config import TrainConfig

_SCHEME = re.compile(r"^[a-z][a-z0-9+.-]*:", re.IGNORECASE)


@dataclass(frozen=True)
class Request:
    """What the command line asked for."""

    job: Path
    manifest: Mapping[str, Any] | None = None  # the job itself, where it is a part of the file `job`
    runtime: Path | None = None
    devices: int | None = None
    overrides: Sequence[str] = ()
    output: str | None = None
    workdir: Path | None = None
    prior_cache: bool = True  # keep class images for later runs, and take those of earlier ones


@dataclass(frozen=True)
class Plan:
    """What will run, and where."""

    config: TrainConfig
    devices: Devices
    workdir: Path


class PlanError(Exception):
    """Why nothing can be started: all that is wrong, one sentence each, with the file it is wrong in."""

    def __init__(self, sentences: Sequence[str]) -> None:
        self.sentences = tuple(sentences)
        super().__init__("\n".join(sentences))


def make_plan(request: Request, environment: Mapping[str, str] = os.environ) -> Plan:
    """Reads, checks and resolves.

    Raises:
        PlanError: the job or runtime is wrong, or asks for devices that are not there.
    """
    with _errors_of(request.job):
        manifest = read_manifest(request.job) if request.manifest is None else dict(request.manifest)
        job = _of_no_cluster(parse(override(manifest, request.overrides), PersonalizationJob))
    if request.runtime:
        with _errors_of(request.runtime):
            runtime = load_runtime(request.runtime)
    else:
        runtime = local_runtime(models=bundled_models(), encoders=bundled_encoders())
    try:
        devices = find_devices(request.devices, environment)
    except NotEnoughDevicesError as error:
        raise PlanError([str(error)]) from error

    def resolved(workdir: Path) -> TrainConfig:
        target = Target(
            workdir=str(workdir),
            checkpoints_uri=(workdir / "checkpoints").as_uri(),
            base_uri=request.job.resolve().parent.as_uri(),
            devices=devices.ranks,
            output=output_uri(request.output) if request.output else None,
            attempt=0,
            namespace="default",
            prior_cache=prior_cache_uri(environment),
        )
        with _errors_of(request.job):
            config = resolve(job, runtime, target)
        if not request.prior_cache:
            config = config.model_copy(update={"prior": config.prior.model_copy(update={"cache": None})})
        return config

    # The default folder is named after the config's digest, which leaves the folder itself out.
    workdir = request.workdir or default_workdir(resolved(Path("/nowhere")), environment)
    workdir = at_home(workdir).absolute()
    return Plan(config=resolved(workdir), devices=devices, workdir=workdir)


def _of_no_cluster(job: PersonalizationJob) -> PersonalizationJob:
    """Without the UID that a manifest from `kubectl get` has: a run here is not that object."""
    return job.model_copy(update={"metadata": job.metadata.model_copy(update={"uid": None})})


@contextmanager
def _errors_of(file: Path) -> Iterator[None]:
    try:
        yield
    except SpecError as error:
        raise PlanError([f"{file}: {each}" for each in error.errors]) from error


def bundled_models() -> dict[str, str]:
    """The catalogue of the optional package `kubooth-world`: name to URI; empty where it is not installed."""
    try:
        import kubooth_world
    except ImportError:
        return {}
    return {name: kubooth_world.model_path(name).resolve().as_uri() for name in kubooth_world.MODELS}


def bundled_encoders() -> dict[str, str]:
    """The encoders of `kubooth-world`, which measure its own drawn scenes: role to URI."""
    try:
        import kubooth_world
    except ImportError:
        return {}
    return {role: kubooth_world.encoder_path(role).resolve().as_uri() for role in kubooth_world.ENCODERS}


def output_uri(given: str, base: Path | None = None) -> str:
    """An absolute URI for `--output`: a path or `file:` URI is taken from the current folder (or `base`)."""
    if given.lower().startswith("file:") and not given.lower().startswith("file:/"):
        given = unquote(given[len("file:") :])
    elif _SCHEME.match(given):
        return given
    return (base or Path.cwd()).joinpath(at_home(Path(given))).absolute().as_uri()


def at_home(path: Path) -> Path:
    """The path with `~` filled in. One that names no user of this machine is a name like any other, as in a shell."""
    try:
        return path.expanduser()
    except RuntimeError:
        return path
