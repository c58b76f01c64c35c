"""A job's buckets as the caller reaches them: the runtime's endpoint from outside, the caller's own credentials."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from kubooth_cli.cluster.jobs import ENDED, phase_of, runtime_spec, status_of
from kubooth_cli.cluster.session import CommandError

if TYPE_CHECKING:
    from kubooth_trainer.storage import Storage

Manifest = dict[str, Any]
endpoint_option = click.option(
    "--endpoint", metavar="URL", help="S3 endpoint to use; else the runtime's externalEndpoint, else its endpoint."
)


def storage_at(runtime: Manifest, endpoint: str | None) -> Storage:
    """The store of a runtime's spec; credentials come from boto3's default chain. Raises CommandError."""
    try:
        import boto3  # noqa: F401
    except ImportError as error:
        raise CommandError(f"{error}: install what the cluster commands need, pip install 'kubooth[cluster]'") from None
    from kubooth_trainer.config import StorageConfig
    from kubooth_trainer.storage import Patience, Storage

    storage = runtime.get("storage") or {}
    where = endpoint or storage.get("externalEndpoint") or storage.get("endpoint")
    patience = Patience(attempts=4, retry_seconds=10)  # somebody waits
    return Storage(StorageConfig(endpoint=where, region=storage.get("region")), patience)


def result_of(job: Manifest, endpoint: str | None) -> tuple[Storage, str]:
    """The store and the URI of a job's result. Raises CommandError where there is none, or none that can be read."""
    name, status = job["metadata"]["name"], status_of(job)
    output = (status.get("output") or {}).get("uri")
    if phase_of(job) != "Succeeded" or not output:
        raise CommandError(f"job {name} has no result: {_why_not(job)}")
    return _read(job, "result", output, endpoint)


def report_of(job: Manifest, endpoint: str | None) -> tuple[Storage, str]:
    """The same of its report, which a job that the quality gate has rejected has too."""
    report = (status_of(job).get("report") or {}).get("uri")
    if not report:
        raise CommandError(f"job {job['metadata']['name']} has no report: {_why_not(job)}")
    return _read(job, "report", report, endpoint)


def _why_not(job: Manifest) -> str:
    phase, name = phase_of(job), job["metadata"]["name"]
    return f"it is {phase}" + ("" if phase in ENDED else f"; kubooth watch {name} waits for its end")


def _read(job: Manifest, what: str, uri: str, endpoint: str | None) -> tuple[Storage, str]:
    if not uri.startswith("s3://"):
        name = job["metadata"]["name"]
        raise CommandError(f"the {what} of job {name} is at {uri}, on a node of the cluster: read it there")
    return storage_at(runtime_spec(job), endpoint), uri
