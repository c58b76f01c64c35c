"""Which attempt may keep checkpoints: the claim beside them, taken at the start and asked before anything counts.

An attempt that was cut off and replaced finds its successor's claim, and stops.
"""

from __future__ import annotations

from contextlib import suppress

from kubooth_trainer.claim import CLAIM, RESERVED, Claim, Identity
from kubooth_trainer.errors import StoppedError
from kubooth_trainer.storage import PreconditionFailedError


def claim_checkpoints(claim: Claim) -> None:
    """At the start of an attempt, on rank 0. Raises StoppedError where a later attempt of this job is at work."""

    def judge(owner: Identity | None) -> None:
        if owner is not None and not claim.identity.succeeds(owner):
            raise claim.superseded(owner)

    claim.take(judge)


def require_claim(claim: Claim) -> None:
    """Raises StoppedError where a later attempt has taken over or the checkpoints are no longer wanted, and
    OutputExistsError where another job has."""
    owner, _ = claim.read()
    if owner is None:
        raise StoppedError(f"superseded: the checkpoints in {claim.uri} were deleted by somebody else")
    if owner != claim.identity:
        raise claim.superseded(owner)


def delete_checkpoints(claim: Claim) -> None:
    """Removes every checkpoint of the job: its result stands. A successor that has begun does it itself."""
    storage, uri = claim.storage, claim.uri
    owner, version = claim.read()
    if version is None or (owner is not None and not claim.identity.succeeds(owner)):
        return
    for name in sorted({entry.name.partition("/")[0] for entry in storage.list(uri)} - {CLAIM}):
        storage.delete_tree(storage.join(uri, name))
    with suppress(PreconditionFailedError):  # taken meanwhile
        storage.delete_version(claim.location, version)
    folder = storage.local_path(uri)
    if folder is not None:
        with suppress(OSError):  # S3 knows no empty folders
            folder.rmdir()
            if folder.parent.name == RESERVED:
                folder.parent.rmdir()
