"""The API, defined once: both kinds with every field, how a manifest is read, and what can be wrong with it."""

from kubooth_operator.api.job import API_VERSION, GROUP, VERSION, JobSpec, PersonalizationJob
from kubooth_operator.api.load import load_any, load_job, load_runtime
from kubooth_operator.api.local import local_runtime
from kubooth_operator.api.problems import FieldError, SpecError
from kubooth_operator.api.runtime import PersonalizationRuntime, RuntimeSpec

__all__ = [
    "API_VERSION",
    "GROUP",
    "VERSION",
    "FieldError",
    "JobSpec",
    "PersonalizationJob",
    "PersonalizationRuntime",
    "RuntimeSpec",
    "SpecError",
    "load_any",
    "load_job",
    "load_runtime",
    "local_runtime",
]
