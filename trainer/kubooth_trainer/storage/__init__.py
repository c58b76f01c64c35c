"""Where photos, models, checkpoints and results are kept: `s3://bucket/key` and `file:///path`, one interface.

Used by every stage that reads or writes anything outside the work folder. Free of torch; boto3 is imported when
the first `s3://` URI is used. Every failure leaves here as one of `kubooth_trainer.errors`, in one sentence that
names the URI and says what to do.
"""

from kubooth_trainer.storage.location import (
    Entry,
    PreconditionFailedError,
    Progress,
    Upload,
    join,
    normalized,
)
from kubooth_trainer.storage.s3 import Patience
from kubooth_trainer.storage.storage import Storage

__all__ = [
    "Entry",
    "Patience",
    "PreconditionFailedError",
    "Progress",
    "Storage",
    "Upload",
    "join",
    "normalized",
]
