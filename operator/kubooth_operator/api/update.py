"""Whether a job may be changed into another: the transition rules, in Python. The API server applies their CEL."""

from __future__ import annotations

from kubooth_operator.api.job import PersonalizationJob
from kubooth_operator.api.problems import FieldError


def check_update(old: PersonalizationJob, new: PersonalizationJob) -> list[FieldError]:
    """One error for each field that cannot be changed any more."""
    return [
        FieldError(rule.field, rule.message)
        for rule in PersonalizationJob.rules
        if rule.transition and not rule.holds(new, old)
    ]
