"""Every way a training can fail, as one tree, and the process exit codes that go with it.

Raised anywhere in the trainer; turned into an exit code, a `failed` event and a termination message in one place
(`main`), and read back by the launcher, the command line and the operator. Imports nothing heavy.

| exit code | meaning | does a retry mend it? |
|---|---|---|
| 0 | the output and its manifest are written | |
| 2 | the job or its inputs are wrong: fix and resubmit | no |
| 70 | the trainer crashed (a bug, a kill) | it may: training resumes from the last checkpoint |
| 75 | something outside was not available (storage, peers, disk, memory) | yes, later: training resumes |
| 130, 143 | stopped by Ctrl-C or SIGTERM, state saved | yes: the same command goes on |
"""

from __future__ import annotations

from enum import IntEnum
from typing import ClassVar


class ExitCode(IntEnum):
    """Documented exit codes of the launcher, of each training process and of `kubooth run`."""

    OK = 0
    FIX_AND_RESUBMIT = 2
    CRASHED = 70
    RETRY = 75
    INTERRUPTED = 130
    TERMINATED = 143


class KuboothError(Exception):
    """A failure a person can act on. The message is one sentence that names the field or file and says what to do."""

    reason: ClassVar[str] = "TrainerCrashed"
    exit_code: ClassVar[ExitCode] = ExitCode.CRASHED


class FixAndResubmitError(KuboothError):
    """A retry cannot mend it."""

    exit_code = ExitCode.FIX_AND_RESUBMIT


class ConfigError(FixAndResubmitError):
    """A field of the job or runtime is wrong; the message starts with the field's path."""

    reason = "ConfigError"


class BadSubjectError(FixAndResubmitError):
    """The photos are missing, unreadable or unsuitable; the message names the file."""

    reason = "BadSubject"


class BadModelError(FixAndResubmitError):
    """The base model is incomplete, of an unsupported family or not in safetensors."""

    reason = "BadModel"


class StorageDeniedError(FixAndResubmitError):
    """Access denied, bucket or key missing: the storage answered, and the answer is no."""

    reason = "StorageDenied"


class OutputExistsError(FixAndResubmitError):
    """The output location holds another job's result."""

    reason = "OutputExists"


class NumericalError(FixAndResubmitError):
    """The loss is not a number; the last good checkpoint is kept."""

    reason = "NumericalError"


class QualityRejectedError(FixAndResubmitError):
    """The result misses a threshold of evaluation.gate, whose action is Fail."""

    reason = "QualityRejected"


class RetryableError(KuboothError):
    """The same job may succeed later."""

    exit_code = ExitCode.RETRY


class StorageUnavailableError(RetryableError):
    """The endpoint did not answer after retries with back-off, or credentials or clock are not right for now."""

    reason = "StorageUnavailable"


class DiskFullError(RetryableError):
    """No room left where the trainer works or writes."""

    reason = "DiskFull"


class DeviceOutOfMemoryError(RetryableError):
    """The accelerator's memory did not suffice."""

    reason = "DeviceOutOfMemory"


class SmallerBatchError(DeviceOutOfMemoryError):
    """The same, and the next start takes a smaller micro-batch: it is noted beside the checkpoints."""


class HostOutOfMemoryError(RetryableError):
    """The memory of the machine, or of the pod, did not suffice."""

    reason = "OutOfMemory"


class RendezvousTimeoutError(RetryableError):
    """The ranks did not find each other in time."""

    reason = "RendezvousTimeout"


class PeerLostError(RetryableError):
    """Another rank, node or the network between them is gone; why, that one's pod says."""

    reason = "PeerLost"


class StalledError(RetryableError):
    """No rank has moved on within the deadline of the rank's own watchdog."""

    reason = "Stalled"


class StoppedError(KuboothError):
    """SIGTERM or Ctrl-C was received; state is saved and the next start goes on from there."""

    reason = "Stopped"
    exit_code = ExitCode.TERMINATED
