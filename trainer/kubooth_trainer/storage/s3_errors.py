"""What S3 answered, in one sentence a person can act on: the only place where S3 failures become ours.

No message quotes what a server said beyond its error code, nor an endpoint's user part: either may hold secrets.
"""

from __future__ import annotations

from typing import Any

from botocore import exceptions as boto
from s3transfer.exceptions import RetriesExceededError, S3DownloadFailedError

from kubooth_trainer.errors import ConfigError, KuboothError, StorageDeniedError, StorageUnavailableError
from kubooth_trainer.storage.location import PreconditionFailedError

_MISSING_BUCKET = {"NoSuchBucket"}
_MISSING_KEY = {"NoSuchKey", "404", "NotFound"}
_DENIED = {"AccessDenied", "403", "AllAccessDisabled", "AccountProblem", "Forbidden"}
_BAD_CREDENTIALS = {
    "InvalidAccessKeyId", "SignatureDoesNotMatch", "XAdminUserNotFound", "InvalidToken",
    "UnrecognizedClientException", "401", "InvalidSecurity",
}  # fmt: skip
_EXPIRED = {"ExpiredToken", "ExpiredTokenException", "TokenRefreshRequired"}
_WRONG_REGION = {
    "PermanentRedirect", "301", "TemporaryRedirect", "AuthorizationHeaderMalformed",
    "IllegalLocationConstraintException",
}  # fmt: skip
_CONFLICT = {"PreconditionFailed", "412", "ConditionalRequestConflict"}
_BUSY = {
    "SlowDown", "SlowDownRead", "SlowDownWrite", "RequestTimeout", "RequestTimeoutException",
    "PriorRequestNotComplete", "Throttling",
    "ThrottlingException", "ThrottledException", "RequestThrottled", "RequestThrottledException",
    "TooManyRequestsException", "BandwidthLimitExceeded", "RequestLimitExceeded", "InternalError",
    "ServiceUnavailable", "OperationAborted", "NoSuchUpload", "429",
}  # fmt: skip
_PASSING = {429, 500, 502, 503, 504}
_NO_CREDENTIALS = (
    boto.NoCredentialsError, boto.PartialCredentialsError, boto.ProfileNotFound, boto.TokenRetrievalError,
    boto.NoAuthTokenError, boto.SSOError, boto.ConfigParseError,
)  # fmt: skip
_UNREACHABLE = (
    boto.ConnectionError, boto.HTTPClientError, boto.IncompleteReadError, boto.FlexibleChecksumError,
    RetriesExceededError, S3DownloadFailedError,
)  # fmt: skip

BROKEN_OFF = (
    boto.IncompleteReadError, boto.ReadTimeoutError, boto.ResponseStreamingError, boto.FlexibleChecksumError,
)  # fmt: skip
CAUGHT = (boto.BotoCoreError, boto.ClientError, RetriesExceededError, S3DownloadFailedError)


def may_pass(response: tuple[Any, dict[str, Any]] | None, exception: Exception | None) -> bool:
    """Whether the same request may succeed in a moment: as the transient and throttling errors of botocore's
    standard mode. `response` is the raw answer and the parsed one."""
    if response is None:
        passing = isinstance(exception, boto.ConnectionError | boto.HTTPClientError)
        return passing and not (_is_untrusted(exception) or _cannot_be_sent(exception))
    told = response[1]
    status = told.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
    code = told.get("Error", {}).get("Code")
    return status in _PASSING or (code in _BUSY and code != "NoSuchUpload")  # which only another upload mends


def shown(endpoint: str) -> str:
    """An endpoint's URL without a user part. It need not be a valid one."""
    scheme, mark, rest = endpoint.rpartition("://")
    host, slash, path = rest.partition("/")
    return f"{scheme}{mark}{host.rpartition('@')[2]}{slash}{path}"


def s3_failure(error: Exception, uri: str, endpoint: str) -> KuboothError | PreconditionFailedError:
    """The failure that `error` at `uri` means to a person."""
    if isinstance(error, boto.ClientError):
        return _answered(error, uri, endpoint)
    if _is_untrusted(error):
        return StorageDeniedError(
            f"{uri}: the certificate of {endpoint} is not trusted here: set AWS_CA_BUNDLE to its authority's file"
        )
    if _cannot_be_sent(error):
        return StorageDeniedError(
            f"{uri}: the S3 credentials hold a character that cannot be sent, such as a line break at the end: write "
            "AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and AWS_SESSION_TOKEN anew without it"
        )
    if isinstance(error, _UNREACHABLE):
        return unreachable(uri, endpoint)
    if isinstance(error, boto.CredentialRetrievalError):  # the node's or the cluster's agent may start after the pod
        return StorageUnavailableError(
            f"{uri}: the S3 credentials could not be fetched from where they are handed out: check AWS_PROFILE, or "
            "the identity of the pod's ServiceAccount; the same job goes on once they can be had"
        )
    if isinstance(error, _NO_CREDENTIALS):
        return StorageDeniedError(
            f"{uri}: no usable S3 credentials were found: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, "
            "AWS_PROFILE, or the runtime's storage.credentialsSecret"
        )
    if isinstance(error, boto.ParamValidationError):
        return ConfigError(f"{uri}: is not a valid S3 location: check the bucket's name and the key")
    return StorageDeniedError(f"{uri}: cannot be used ({type(error).__name__}): check the URI and storage settings")


def is_gone(error: Exception) -> bool:
    """Whether what was to be replaced or completed is not there: to a conditional write one more unmet condition."""
    if not isinstance(error, boto.ClientError):
        return False
    return error.response.get("Error", {}).get("Code") in {*_MISSING_KEY, "NoSuchUpload"}


def unreachable(uri: str, endpoint: str) -> StorageUnavailableError:
    """The endpoint gave no whole answer, again and again."""
    return StorageUnavailableError(
        f"{uri}: {endpoint} cannot be reached or breaks off, also after retries: check storage.endpoint and the "
        "network; the same job goes on once it answers"
    )


def _cannot_be_sent(error: Exception | None) -> bool:
    """Whether a header is none: it is the key's id, or the token, that is put into one as it is."""
    return type(error) is boto.HTTPClientError and isinstance(error.kwargs.get("error"), ValueError)


def _is_untrusted(error: Exception | None) -> bool:
    return isinstance(error, boto.SSLError) and "CERTIFICATE_VERIFY_FAILED" in str(error)


def _answered(error: boto.ClientError, uri: str, endpoint: str) -> KuboothError | PreconditionFailedError:
    code = str(error.response.get("Error", {}).get("Code", ""))
    status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
    if code in _CONFLICT or status == 412:
        return PreconditionFailedError(uri)
    if code in _MISSING_BUCKET:
        return StorageDeniedError(f"{uri}: there is no such bucket at {endpoint}: create it or correct the URI")
    if code in _BAD_CREDENTIALS:
        return StorageDeniedError(
            f"{uri}: {endpoint} does not accept the S3 credentials ({code}): check AWS_ACCESS_KEY_ID "
            "and AWS_SECRET_ACCESS_KEY"
        )
    if code in _EXPIRED:
        return StorageUnavailableError(
            f"{uri}: {endpoint} does not accept the S3 credentials any longer ({code}): renew them, in "
            "storage.credentialsSecret where they come from there; the same job goes on once they are renewed"
        )
    if code in _MISSING_KEY:
        what = "bucket or object" if code == "404" else "object"  # answers to HEAD do not say which
        return StorageDeniedError(f"{uri}: there is no such {what}: check the URI")
    if code == "RequestTimeTooSkewed":
        return StorageUnavailableError(
            f"{uri}: {endpoint} refuses because this machine's clock is off: set the clock; the same job goes on once "
            "it is right, or on another node"
        )
    if code in _WRONG_REGION:
        return StorageDeniedError(f"{uri}: the bucket is in another region ({code}): set storage.region to it")
    if code in _DENIED:
        return StorageDeniedError(
            f"{uri}: access denied: the S3 credentials have no right to {error.operation_name} here, or are wrong: "
            "ask the bucket's owner or use others"
        )
    if status >= 500 or status == 429 or code in _BUSY:
        return StorageUnavailableError(
            f"{uri}: {endpoint} keeps answering {code or status} to {error.operation_name}, also after retries: "
            "the same job goes on once it serves again"
        )
    return StorageDeniedError(
        f"{uri}: {endpoint} refuses {error.operation_name} ({code or status}): check the URI and storage settings"
    )
