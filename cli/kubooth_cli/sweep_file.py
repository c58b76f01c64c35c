"""A sweep file: one job, variants of it, seeds. From the file to the runs, all of them checked, nothing started.

Called by `sweep`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError, field_validator

from kubooth_cli.plan import Plan, PlanError, Request, make_plan
from kubooth_operator.api.load import read_manifest
from kubooth_operator.api.problems import SpecError, path_of

Name = Annotated[str, StringConstraints(pattern=r"^[a-z0-9]([a-z0-9-]{0,38}[a-z0-9])?$")]
Seed = Annotated[int, Field(ge=0, le=2**32 - 1)]
SEED_FIELD = "training.seed"


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class Variant(_Part):
    """`set` has fields below `spec` by their dotted paths, as `--set` knows them."""

    name: Name
    set: dict[str, Any] = Field(default_factory=dict)


class Sweep(_Part):
    """`base` is the path of a job file, from the sweep file's folder, or a job itself."""

    base: str | dict[str, Any]
    variants: Annotated[list[Variant], Field(min_length=1)]
    seeds: list[Seed] = Field(default_factory=list)

    @field_validator("variants")
    @classmethod
    def _names_differ(cls, variants: list[Variant]) -> list[Variant]:
        _differ([variant.name for variant in variants])
        return variants

    @field_validator("seeds")
    @classmethod
    def _seeds_differ(cls, seeds: list[int]) -> list[int]:
        _differ(seeds)
        return seeds


def _differ(values: Sequence[object]) -> None:
    twice = sorted({str(value) for value in values if values.count(value) > 1})
    if twice:
        raise ValueError(f"{twice[0]} is given twice")


@dataclass(frozen=True, kw_only=True)
class SweepOptions:
    """What the command line adds. `output` takes a folder for each run."""

    output: Path
    workdir: Path | None = None
    runtime: Path | None = None
    devices: int | None = None


@dataclass(frozen=True, kw_only=True)
class PlannedRun:
    """One training of a sweep. `name` is unique in it: the variant's, and the seed where there are several."""

    name: str
    variant: str
    plan: Plan


def read_sweep(file: Path) -> Sweep:
    """Raises PlanError with all that is wrong with the file itself."""
    try:
        raw = read_manifest(file)
        if "kind" in raw:
            raise PlanError([f"{file}: is a {raw['kind']}, not a sweep: name it as `base` in a sweep file"])
        return Sweep.model_validate(raw)
    except SpecError as error:
        raise PlanError([f"{file}: {each}" for each in error.errors]) from error
    except ValidationError as error:
        found = error.errors(include_url=False)
        raise PlanError([f"{file}: {path_of(each['loc'])}: {each['msg']}" for each in found]) from error


def plan_sweep(file: Path, sweep: Sweep, options: SweepOptions) -> list[PlannedRun]:
    """Every run in order: variants as given, each with all seeds. Raises PlanError with all that is wrong."""
    job, manifest = (file, sweep.base) if isinstance(sweep.base, dict) else (file.parent / sweep.base, None)
    seeds: Sequence[int | None] = sweep.seeds or [None]
    runs: list[PlannedRun] = []
    wrong: list[str] = []
    for variant in sweep.variants:
        for seed in seeds:
            name = variant.name if seed is None else f"{variant.name}-seed-{seed}"
            try:
                plan = make_plan(_request(job, manifest, variant, seed, name, options))
            except PlanError as error:
                wrong += [f"variant {variant.name}: {sentence}" for sentence in error.sentences]
                break  # other seeds are wrong in the same way
            runs.append(PlannedRun(name=name, variant=variant.name, plan=plan))
    if wrong:
        raise PlanError(wrong)
    return runs


def _request(
    job: Path,
    manifest: Mapping[str, Any] | None,
    variant: Variant,
    seed: int | None,
    name: str,
    options: SweepOptions,
) -> Request:
    settings = variant.set if seed is None else {**variant.set, SEED_FIELD: seed}
    return Request(
        job=job,
        manifest=manifest,
        runtime=options.runtime,
        devices=options.devices,
        overrides=[f"{path}={json.dumps(value)}" for path, value in settings.items()],
        output=str(options.output / name),
        workdir=options.workdir / name if options.workdir else None,
    )
