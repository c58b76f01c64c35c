"""S3 as storage, at any endpoint. boto3 splits and joins large objects; this file says with what patience.

Conditional writes are the server's (`If-None-Match`, `If-Match`), also for multipart uploads, so that a writer that
was cut off and replaced cannot overwrite its successor's files.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import random
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from kubooth_trainer.config import StorageConfig
from kubooth_trainer.errors import ConfigError, StorageDeniedError
from kubooth_trainer.storage.files import os_failure
from kubooth_trainer.storage.location import Entry, Location, PreconditionFailedError, TransferStoppedError, Upload

if TYPE_CHECKING:
    from botocore.exceptions import ClientError
    from mypy_boto3_s3 import S3Client
    from mypy_boto3_s3.type_defs import PutObjectRequestTypeDef
    from s3transfer.futures import TransferFuture

_SHA256 = "kubooth-sha256"  # object metadata, written with the content in one request
_REQUESTS_AT_ONCE = 16  # over all files and their parts
_PART_BYTES = 8 << 20
_DELETES_AT_ONCE = 1000  # the protocol's limit
_ANSWERS = 5  # how often one object is read, as s3transfer does
_FIRST_PAUSE, _LONGEST_PAUSE = 0.1, 5.0  # seconds, at most: pauses are drawn evenly from 0 up

Taken = TypeVar("Taken")


@dataclass(frozen=True, kw_only=True)
class Patience:
    """How long an endpoint may fail before it counts as unavailable.

    Requests are repeated with exponential back-off and full jitter. No attempt starts after `retry_seconds`, and none
    waits longer than `connect_seconds` or `read_seconds` for the network.
    """

    attempts: int = 50
    retry_seconds: float = 20
    connect_seconds: float = 4
    read_seconds: float = 30  # between two bytes, not for a whole object


class S3Backend:
    """`s3://bucket/key` at one endpoint. Threads may share it. Credentials come from boto3's default chain."""

    def __init__(self, config: StorageConfig, patience: Patience, uri: str) -> None:
        """Raises what `s3_errors` makes of credentials that cannot be had; `uri` is what they are wanted for first."""
        import boto3
        from botocore.config import Config
        from s3transfer.manager import TransferConfig, TransferManager

        from kubooth_trainer.storage import s3_errors

        endpoint = config.endpoint or os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
        self._patience = patience
        self._conditions: dict[tuple[str, str], dict[str, str]] = {}
        try:
            self._client: S3Client = boto3.Session().client(
                "s3",
                endpoint_url=endpoint,
                region_name=config.region,
                config=Config(
                    # A client of botocore's has one quota of retries: parts that fail at once use it up in a tenth of
                    # a second. `_pause` repeats requests instead.
                    retries={"mode": "standard", "total_max_attempts": 1},
                    connect_timeout=patience.connect_seconds,
                    read_timeout=patience.read_seconds,
                    max_pool_connections=2 * _REQUESTS_AT_ONCE,
                    # Servers of one's own seldom have a name per bucket.
                    s3={"addressing_style": "path" if endpoint else "auto"},
                ),
            )
        except ValueError as error:
            raise ConfigError(
                f"storage.endpoint: {s3_errors.shown(endpoint or '')!r} is not a URL: write http(s)://HOST:PORT"
            ) from error
        except s3_errors.CAUGHT as error:
            raise s3_errors.s3_failure(error, uri, s3_errors.shown(endpoint or "")) from error
        self._endpoint = s3_errors.shown(self._client.meta.endpoint_url)
        self._transfers = TransferManager(
            self._client,
            TransferConfig(
                multipart_threshold=_PART_BYTES,
                multipart_chunksize=_PART_BYTES,
                max_request_concurrency=_REQUESTS_AT_ONCE,
            ),
        )
        self._submitting = threading.Lock()  # the manager numbers its transfers without one
        self._client.meta.events.register("request-created.s3", self._give_up_in_time)
        self._client.meta.events.register("needs-retry.s3", self._pause)  # type: ignore[arg-type] # it returns seconds
        for operation in ("PutObject", "CompleteMultipartUpload"):
            self._client.meta.events.register(f"before-parameter-build.s3.{operation}", self._add_condition)

    def list(self, location: Location) -> list[Entry]:
        with self._explained(location):
            found = [item for item in self._objects(location) if not item["Key"].endswith("/")]
            skip = len(location.key) + 1 if location.key else 0
            entries = [
                _entry(item["Key"][skip:], Location("s3", location.bucket, item["Key"]), item, size=item["Size"])
                for item in found
            ]
            if not entries and location.key and (head := self._head(location)):
                name = location.key.rpartition("/")[2]
                entries = [_entry(name, location, head, size=head["ContentLength"])]
            return sorted(entries, key=lambda entry: entry.name)

    def exists(self, location: Location) -> bool:
        with self._explained(location):
            return self._head(location) is not None

    def read(self, location: Location) -> tuple[bytes, str]:
        with self._explained(location):
            return self._get(location, lambda answer: (answer["Body"].read(), str(answer["ETag"])))

    def write(self, location: Location, data: bytes, *, if_absent: bool, if_version: str | None) -> None:
        request: PutObjectRequestTypeDef = {"Bucket": location.bucket, "Key": location.key, "Body": data}
        request.update(_condition(if_absent, if_version))  # type: ignore[typeddict-item]
        with self._explained(location, conditional=if_absent or if_version is not None):
            try:
                self._client.put_object(**request)
            except self._client.exceptions.ClientError as error:
                # A retry after a lost answer finds our own first attempt in its way.
                if not (error.response["ResponseMetadata"].get("RetryAttempts") and self._holds(location, data)):
                    raise

    def download(self, location: Location, path: Path, advance: Callable[[int], None]) -> None:
        with self._explained(location, folder=path.parent):
            path.parent.mkdir(parents=True, exist_ok=True)
            with self._submitting:
                transfer = self._transfers.download(
                    location.bucket, location.key, str(path), subscribers=[_advancing(advance)]
                )
            try:
                transfer.result()
            except self._client.exceptions.ClientError as error:
                self._ask_why(error, location)
                raise

    def upload(self, upload: Upload, location: Location, advance: Callable[[int], None]) -> None:
        where = (location.bucket, location.key)
        self._conditions[where] = _condition(upload.only_if_absent, upload.only_if_version)
        conditional = upload.only_if_absent or upload.only_if_version is not None
        with self._explained(location, conditional=conditional):
            try:
                with self._submitting:
                    transfer = self._transfers.upload(
                        str(upload.path),
                        *where,
                        extra_args={"Metadata": {_SHA256: upload.sha256}} if upload.sha256 else None,
                        subscribers=[_advancing(advance)],
                    )
                transfer.result()
            finally:
                del self._conditions[where]

    def recorded_sha256(self, location: Location) -> str | None:
        with self._explained(location):
            head = self._head(location)
            return head["Metadata"].get(_SHA256) if head else None

    def sha256(self, location: Location) -> str:
        def digest(answer: Any) -> str:
            found = hashlib.sha256()
            for chunk in answer["Body"].iter_chunks(1 << 20):
                found.update(chunk)
            return found.hexdigest()

        with self._explained(location):
            return self._get(location, digest)

    def delete(self, locations: Sequence[Location]) -> None:
        by_bucket: dict[str, list[str]] = {}
        for location in locations:
            by_bucket.setdefault(location.bucket, []).append(location.key)
        for bucket, keys in by_bucket.items():
            self._delete_keys(bucket, keys)

    def delete_version(self, location: Location, version: str) -> None:
        try:
            with self._explained(location, conditional=True):
                self._client.delete_object(Bucket=location.bucket, Key=location.key, IfMatch=version)
        except PreconditionFailedError:
            if self.exists(location):
                raise

    def delete_tree(self, location: Location) -> None:
        with self._explained(location):
            keys = [item["Key"] for item in self._objects(location)]
        self._delete_keys(location.bucket, [*keys, location.key] if location.key else keys)

    def clear_unfinished(self, location: Location) -> None:
        from kubooth_trainer.storage import s3_errors

        # Needs rights that a writer may lack (ListBucketMultipartUploads, AbortMultipartUpload): then they stay.
        with contextlib.suppress(StorageDeniedError), self._explained(location):
            pages = self._client.get_paginator("list_multipart_uploads").paginate(
                Bucket=location.bucket, Prefix=f"{location.key}/"
            )
            for upload in [upload for page in pages for upload in page.get("Uploads", [])]:
                try:
                    self._client.abort_multipart_upload(
                        Bucket=location.bucket, Key=upload["Key"], UploadId=upload["UploadId"]
                    )
                except self._client.exceptions.ClientError as error:
                    if not s3_errors.is_gone(error):  # it has ended since it was listed, or is listed all the same
                        raise

    def _objects(self, location: Location) -> Iterator[Any]:
        prefix = f"{location.key}/" if location.key else ""
        for page in self._client.get_paginator("list_objects_v2").paginate(Bucket=location.bucket, Prefix=prefix):
            yield from page.get("Contents", [])

    def _head(self, location: Location) -> Any | None:
        try:
            return self._client.head_object(Bucket=location.bucket, Key=location.key)
        except self._client.exceptions.ClientError as error:
            if error.response["ResponseMetadata"]["HTTPStatusCode"] == 404:
                return None
            self._ask_why(error, location)
            raise

    def _ask_why(self, error: ClientError, location: Location) -> None:
        """Raises what the server says to a request with the same fault, where it said a number only, as to HEAD."""
        if error.response["Error"]["Code"] in {"400", "403"}:
            self._client.get_object(Bucket=location.bucket, Key=location.key)["Body"].close()

    def _holds(self, location: Location, data: bytes) -> bool:
        return self._get(location, lambda answer: bool(answer["Body"].read() == data))

    def _get(self, location: Location, take: Callable[[Any], Taken]) -> Taken:
        """What `take` makes of an object. botocore retries requests, but not an answer that breaks off."""
        from kubooth_trainer.storage import s3_errors

        left = min(_ANSWERS, self._patience.attempts)
        while True:
            answer = self._client.get_object(Bucket=location.bucket, Key=location.key)
            try:
                return take(answer)
            except s3_errors.BROKEN_OFF:
                left -= 1
                if left <= 0:
                    raise

    def _delete_keys(self, bucket: str, keys: Sequence[str]) -> None:
        from botocore.exceptions import ClientError

        for start in range(0, len(keys), _DELETES_AT_ONCE):
            batch = keys[start : start + _DELETES_AT_ONCE]
            with self._explained(Location("s3", bucket, batch[0])):
                answer = self._client.delete_objects(
                    Bucket=bucket, Delete={"Objects": [{"Key": key} for key in batch], "Quiet": True}
                )
                for failed in answer.get("Errors", []):
                    # No status goes with it. What is not known to be a refusal may pass.
                    told: Any = {"Error": failed, "ResponseMetadata": {"HTTPStatusCode": 503}}
                    raise ClientError(told, "DeleteObjects")

    def _add_condition(self, params: dict[str, Any], **_: Any) -> None:
        """s3transfer passes no conditions on; the requests that make an object appear get them here."""
        params.update(self._conditions.get((params["Bucket"], params["Key"]), {}))

    def _pause(
        self, response: tuple[Any, dict[str, Any]] | None, caught_exception: Exception | None, attempts: int, **_: Any
    ) -> float | None:
        """Seconds until a request is sent again; None: it is not."""
        from kubooth_trainer.storage import s3_errors

        if attempts >= self._patience.attempts or not s3_errors.may_pass(response, caught_exception):
            return None
        return random.uniform(0, min(_FIRST_PAUSE * 2 ** (attempts - 1), _LONGEST_PAUSE))

    def _give_up_in_time(self, request: Any, **_: Any) -> None:
        first = request.context.setdefault("kubooth_first_attempt", time.monotonic())
        if time.monotonic() - first > self._patience.retry_seconds:
            raise _OutOfPatienceError

    @contextlib.contextmanager
    def _explained(
        self, location: Location, *, conditional: bool = False, folder: Path | None = None
    ) -> Iterator[None]:
        from kubooth_trainer.storage import s3_errors

        try:
            yield
        except _OutOfPatienceError as error:
            raise s3_errors.unreachable(location.uri, self._endpoint) from error
        except s3_errors.CAUGHT as error:
            if conditional and s3_errors.is_gone(error):
                raise PreconditionFailedError(location.uri) from error
            raise s3_errors.s3_failure(error, location.uri, self._endpoint) from error
        except OSError as error:
            raise os_failure(error, location.uri, folder) from error


class _OutOfPatienceError(Exception):
    """Retries have taken as long as they may."""


def _advancing(advance: Callable[[int], None]) -> Any:
    from s3transfer.subscribers import BaseSubscriber

    class Advancing(BaseSubscriber):
        def on_progress(self, future: TransferFuture, bytes_transferred: int, **_: Any) -> None:
            try:
                advance(bytes_transferred)
            except TransferStoppedError:
                future.cancel()  # raising here would leave the file open

    return Advancing()


def _entry(name: str, location: Location, told: Any, *, size: int) -> Entry:
    version, modified = told["ETag"], told["LastModified"].timestamp()
    return Entry(name=name, uri=location.uri, size=size, version=version, modified=modified)


def _condition(if_absent: bool, if_version: str | None) -> dict[str, str]:
    if if_absent:
        return {"IfNoneMatch": "*"}
    return {"IfMatch": if_version} if if_version is not None else {}
