"""Who may write to a place: a small object there names the job and the attempt, taken by conditional writes.

Shared by `publish`, for outputs, and `checkpoint`. An attempt that was cut off and replaced finds its successor's
claim, and stops: of two attempts of one job object only the later one goes on.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass

from pydantic import BaseModel, ConfigDict, ValidationError

from kubooth_trainer.config import TrainConfig
from kubooth_trainer.errors import KuboothError, OutputExistsError, StoppedError, StorageUnavailableError
from kubooth_trainer.storage import PreconditionFailedError, Storage

CLAIM = "kubooth-job.json"
RESERVED = ".kubooth"  # a folder in an output for work in progress; no part of the output
ROUNDS = 5  # how often a moving place is looked at again


class Record(BaseModel):
    """Read leniently: a newer release may have written more."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    def to_json(self) -> bytes:
        return (json.dumps(self.model_dump(mode="json"), indent=2, sort_keys=True) + "\n").encode()


class Identity(Record):
    """Whose it is. Of one namespace and name, equal digests mean the same job; and so does an equal UID: what is to be
    trained cannot change in a job object once it has started, whatever digest another release makes of it."""

    name: str
    namespace: str
    uid: str | None
    attempt: int
    digest: str  # TrainConfig.digest()

    @classmethod
    def of(cls, config: TrainConfig) -> Identity:
        return cls(**config.job.model_dump(), digest=config.digest())

    def is_same_job(self, other: Identity) -> bool:
        is_same_object = self.uid is not None and self.uid == other.uid
        return (self.namespace, self.name) == (other.namespace, other.name) and (
            is_same_object or self.digest == other.digest
        )

    def succeeds(self, other: Identity) -> bool:
        """Whether this writer may take over from `other`: not from a later attempt of its own job object."""
        return self.uid != other.uid or self.attempt >= other.attempt


@dataclass(frozen=True, kw_only=True)
class Claim:
    """The claim on the folder `uri`, on behalf of `identity`."""

    storage: Storage
    uri: str
    identity: Identity

    @property
    def location(self) -> str:
        return self.storage.join(self.uri, CLAIM)

    def read(self) -> tuple[Identity | None, str | None]:
        """The owner (None: nobody that we know) and the claim's version (None: there is none)."""
        if not self.storage.exists(self.location):
            return None, None
        data, version = self.storage.read_versioned(self.location)
        try:
            return Identity.model_validate_json(data), version
        except ValidationError:
            return None, version

    def take(self, judge: Callable[[Identity | None], None]) -> None:
        """Makes it ours. `judge` sees every other owner and raises where it is not ours to take."""
        for _ in range(ROUNDS):
            owner, version = self.read()
            if owner == self.identity:
                return
            if version is not None:
                judge(owner)
            try:
                self.storage.write_bytes(
                    self.location, self.identity.to_json(), if_absent=version is None, if_version=version
                )
            except PreconditionFailedError:
                continue  # lost a race: see who won
            return
        raise StorageUnavailableError(f"{self.location}: keeps changing: stop the other jobs that write here")

    def superseded(self, owner: Identity) -> KuboothError:
        """Why this writer stops, which a start anew would mend only by stopping the owner."""
        if (owner.namespace, owner.name) != (self.identity.namespace, self.identity.name):
            return OutputExistsError(
                f"output.uri: job {owner.name!r} of namespace {owner.namespace!r} is at work at {self.uri} too, and "
                "came later: give each of the two jobs an output.uri of its own, or delete one of them"
            )
        return StoppedError(
            f"superseded: attempt {owner.attempt} of this job has taken over {self.uri}; this one is attempt "
            f"{self.identity.attempt} and stops"
        )
