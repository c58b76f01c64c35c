"""Every value of a job settled: the job's own, else the runtime's default, else the built-in one. Pure.

Called by `resolve`, and by `acceptance` for `status.resolved`, which keeps them from a job's first attempt on.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from kubooth_operator.api.fields import Part, facts_of
from kubooth_operator.api.job import JobSpec, PersonalizationJob
from kubooth_operator.api.problems import FieldError, SpecError, field_errors, sub_parts
from kubooth_operator.api.runtime import PersonalizationRuntime


def settle(job: PersonalizationJob, runtime: PersonalizationRuntime) -> JobSpec:
    """The job's spec with every value settled (job > runtime > built-in); it is what `status.resolved` shows.

    Raises SpecError where a combination breaks a rule, such as a runtime's warm-up above the job's steps.
    """
    chosen = job.spec.model_dump(mode="json", by_alias=True, exclude_none=True)
    defaults = runtime.spec.defaults.model_dump(mode="json", by_alias=True, exclude_none=True)
    values = _layered(JobSpec, chosen, defaults)
    try:
        return JobSpec.model_validate_json(json.dumps(values), by_alias=True, by_name=False)
    except ValidationError as error:
        note = f" (with the defaults of runtime {runtime.metadata.name} and the built-in values)"
        raise SpecError(
            [FieldError(each.path, each.message + note) for each in field_errors(error, JobSpec, prefix="spec")]
        ) from None


def _layered(part: type[Part], chosen: Mapping[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
    """The job's values over the runtime's over the built-in ones, group by group."""
    groups = dict(sub_parts(part))
    shut_out = set(part.one_of) if any(name in chosen for name in part.one_of) else set()
    values = {**{k: v for k, v in defaults.items() if k not in shut_out}, **chosen}
    taken = any(name in values for name in part.one_of)
    for attribute, field in part.model_fields.items():
        name = field.alias or attribute
        facts = facts_of(field)
        if name in groups:
            values[name] = _layered(groups[name], chosen.get(name, {}), defaults.get(name, {}))
        elif name not in values and facts.builtin is not None and not (taken and name in part.one_of):
            values[name] = facts.builtin
    for attribute, field in part.model_fields.items():  # once the neighbours are settled
        name, same_as = field.alias or attribute, facts_of(field).same_as
        if name not in values and same_as in values:
            values[name] = values[same_as]
    return values
