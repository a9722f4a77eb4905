"""S3: small objects through obstore, parts and ranges of large ones through botocore.

obstore takes the least time and CPU for small objects, but shows no parts, and allocates each range anew. botocore
sends and fills the engine's own buffers. Both get their credentials from the same botocore session.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import botocore.exceptions as boto
from botocore.parsers import ResponseParserError
from urllib3.exceptions import HTTPError, ReadTimeoutError

from ray_anystorage import errors
from ray_anystorage.credentials.grant import Grant, Mode, carried
from ray_anystorage.environment import BucketAddress
from ray_anystorage.transfer.digest import PIECE_BYTES, BytesLike
from ray_anystorage.transfer.failures import Attempt, explain_s3
from ray_anystorage.transfer.forks import obstore_is_lost
from ray_anystorage.transfer.object_store import LEAST_COPIED, TINY_REQUESTS, plain_etag
from ray_anystorage.transfer.retry import Transient
from ray_anystorage.transfer.s3_checks import CRC64_OF_NOTHING, PayloadChecks, configure
from ray_anystorage.transfer.s3_client import client_of, give, s3_session
from ray_anystorage.transfer.s3_forked import ForkedS3
from ray_anystorage.transfer.s3_keys import Keys
from ray_anystorage.transfer.s3_small import CONNECT_TIMEOUT, small_client
from ray_anystorage.transfer.s3_upload import COPY_PART_BYTES, S3Upload
from ray_anystorage.transfer.store import Limits, Take, below

Result = TypeVar("Result")

READ_TIMEOUT = 30.0  # seconds between two pieces of an answer
_NOT_IMPLEMENTED = 501
_DIRECT_BYTES = PIECE_BYTES + 1  # smaller ranges fit the engine's buffer at once

_PASSING = frozenset(
    {"SlowDown", "ServiceUnavailable", "InternalError", "RequestTimeout", "Throttling", "ThrottlingException"}
    | {"TooManyRequests", "TooManyRequestsException", "RequestLimitExceeded", "OperationAborted", "IncompleteBody"}
    | {"BadDigest", "XAmzContentSHA256Mismatch"}  # a bit flipped on the way
)
_CONNECTION = (
    boto.HTTPClientError,
    boto.IncompleteReadError,
    boto.ResponseStreamingError,
    ResponseParserError,
    HTTPError,
)
_LATE = (boto.ReadTimeoutError, ReadTimeoutError)
_FAILURES = (boto.BotoCoreError, boto.ClientError, ResponseParserError, HTTPError, OSError)
_REFUSALS = (errors.ExpiredTokenError, errors.UnknownKeyError)


class S3Store(ForkedS3):
    """A folder of an S3 bucket; pickles as its address and the harmless variables of its grant."""

    passing_codes = _PASSING

    def __init__(self, address: BucketAddress, grant: Grant, *, read_timeout: float = READ_TIMEOUT) -> None:
        self._address, self._grant, self._read_timeout = address, grant, read_timeout
        self.secure = secure = not (address.endpoint or "").lower().startswith("http://")
        # By process: a fork must neither talk on its parent's connections nor wait for a lock that a thread held there.
        self._clients: dict[int, Any] = {}
        self._making: dict[int, threading.Lock] = {}
        self.checks = PayloadChecks(
            lambda: small_client(address, self._keys, lambda: self.boto, "CRC64NVME", read_timeout)
        )
        try:
            self._keys = Keys(lambda: self._session().get_credentials())
            client = small_client(address, self._keys, lambda: self.boto, None if secure else "SHA256", read_timeout)
        except _FAILURES as error:
            raise explain_s3(error, Attempt(address, grant, "open", address.uri)).error() from error
        super().__init__(client, uri=address.uri, prefix=address.prefix)
        self.limits = Limits(tiny_requests=TINY_REQUESTS)

    def moved(self, address: BucketAddress) -> S3Store:
        """As for every object store."""
        other = super().moved(address)
        other._address = address
        return other

    @property
    def boto(self) -> Any:
        """botocore's client of this process."""
        known = self._clients.get(os.getpid())
        if known is not None:
            return known
        with self._making.setdefault(os.getpid(), threading.Lock()):
            if os.getpid() not in self._clients:
                self._clients[os.getpid()] = self._new_boto()
            return self._clients[os.getpid()]

    def _new_boto(self) -> Any:
        session = self._session()
        configure(session, secure=self.secure)
        give(session, self._keys)
        client = client_of(session, self._address)
        self.checks.spare(client)
        return client

    def write_small(self, key: str, data: BytesLike) -> str | None:
        """Replace an object with one request; without TLS the first empty one asks what the store compares."""
        if self.secure or len(data) or self.checks.asked or obstore_is_lost():
            return super().write_small(key, data)
        try:
            answer = self.put_by_boto(key, b"", CRC64_OF_NOTHING)
        except errors.StorageError:  # a store that knows no such header may refuse it; what else is wrong shows again
            self.checks.answered_nothing({})
            return super().write_small(key, data)
        self.checks.answered_nothing(answer)
        return plain_etag(answer["ETag"])

    def begin(self, key: str, size: int) -> S3Upload:
        """A multipart upload; its first part opens it."""
        return S3Upload(self, self._address.bucket, self._path(key), key, size)

    def read_range(self, key: str, offset: int, into: memoryview) -> None:
        """Fill the buffer with one request."""
        if len(into) < _DIRECT_BYTES and not obstore_is_lost():
            super().read_range(key, offset, into)
            return
        at = 0

        def place(piece: memoryview) -> None:
            nonlocal at
            into[at : at + len(piece)] = piece
            at += len(piece)

        self.read_pieces(key, offset, len(into), memoryview(bytearray(PIECE_BYTES)), place)

    def read_pieces(
        self, key: str, offset: int, size: int, scratch: memoryview, take: Take, etag: str | None = None
    ) -> None:
        """Hand on a range as it comes, with one request."""
        if size < _DIRECT_BYTES and not obstore_is_lost():
            super().read_pieces(key, offset, size, scratch, take, etag)
            return
        wanted = f"bytes={offset}-{offset + size - 1}"
        arguments = {"Bucket": self._address.bucket, "Key": self._path(key), "Range": wanted}
        answer = self.request("get", key, lambda: self.boto.get_object(**arguments))
        with contextlib.closing(answer["Body"]) as body:
            if etag is not None and plain_etag(answer["ETag"]) != etag:
                raise self.written_over(key)
            if answer["ContentLength"] < size:
                raise self.short(key, offset, answer["ContentLength"], size)
            filled = 0
            while filled < size:
                count = self._receive(key, body, scratch[: size - filled])
                if count == 0:
                    cut = boto.IncompleteReadError(actual_bytes=filled, expected_bytes=size)
                    raise self._boto_failed("get", key, cut)
                self.counters.add(fetched=count, requests=0)
                filled += count
                take(scratch[:count])

    def copies(self, size: int) -> bool:
        """Whatever is not as soon sent: what is large goes in parts."""
        return size >= LEAST_COPIED

    def copy(self, source: str, key: str, etag: str | None = None, size: int | None = None) -> str | None:
        """Copy on the store's own side; it refuses to where the source has another ETag by now."""
        wanted: dict[str, Any] = {"CopySource": {"Bucket": self._address.bucket, "Key": self._path(source)}}
        if etag is not None:
            wanted["CopySourceIfMatch"] = f'"{etag}"'
        if size is not None and size > COPY_PART_BYTES:
            return self.begin(key, size).copy_all(wanted)
        wanted |= {"Bucket": self._address.bucket, "Key": self._path(key)}
        answer = self.request("copy", source, lambda: self.boto.copy_object(**wanted))
        return plain_etag(answer["CopyObjectResult"]["ETag"])

    def unfinished(self, prefix: str) -> Iterator[tuple[str, str]]:
        """Multipart uploads that were opened and neither completed nor aborted."""
        folder = "/".join(part for part in (self._prefix, prefix.strip("/")) if part)
        pages = self.boto.get_paginator("list_multipart_uploads").paginate(Bucket=self._address.bucket, Prefix=folder)
        for page in self.request("list", prefix, lambda: list(pages)):
            for upload in page.get("Uploads", ()):
                key = upload["Key"][len(self._prefix) + 1 if self._prefix else 0 :]
                if below(self._prefix, upload["Key"]) and below(prefix, key):
                    yield key, upload["UploadId"]

    def discard(self, key: str, token: str) -> None:
        """Abort a multipart upload."""
        arguments = {"Bucket": self._address.bucket, "Key": self._path(key), "UploadId": token}
        self.request("multipart upload", key, lambda: self.boto.abort_multipart_upload(**arguments))

    def close(self) -> None:
        """Close botocore's connections."""
        client = self._clients.pop(os.getpid(), None)
        if client is not None:
            client.close()

    def request(self, operation: str, key: str, call: Callable[[], Result]) -> Result:
        """Call botocore once, and raise what this package means by its failure."""
        self.counters.add()
        signed = None
        try:
            signed = self._keys.get_frozen_credentials()
            answer = call()
        except _FAILURES as error:
            raise self._or_renewed(self._boto_failed(operation, key, error), signed) from error
        self._keys.taken(signed)
        return answer

    def explain(
        self, operation: str, key: str, status: int | None, code: str, said: str, error: Exception
    ) -> errors.StorageError:
        """In the words of :mod:`ray_anystorage.transfer.failures` where they know the code."""
        if status in (401, 403) or (code and status == 400):
            answer = {"Error": {"Code": code or str(status), "Message": said}}
            client_error = boto.ClientError(answer, operation)
            return explain_s3(client_error, self._attempt(operation, key)).error()
        return super().explain(operation, key, status, code, self._grant.secrets.redact(said), error)

    def _call(self, operation: str, key: str, request: Callable[[], Result]) -> Result:
        signed = self._keys.handed_to_obstore
        try:
            answer = super()._call(operation, key, request)
        except errors.StorageError as error:
            raise self._or_renewed(error, signed) from error
        self._keys.taken(signed)
        return answer

    def _or_renewed(self, failure: Exception, signed: Any) -> Exception:
        """The failure; one that passes, where it is a refusal of keys in whose place the source has others."""
        if signed is None or not isinstance(failure, _REFUSALS):
            return failure
        try:
            renewed = self._keys.renewed(signed)
        except _FAILURES as error:
            return explain_s3(error, self._attempt("sign a request for", "")).error()
        return Transient(failure) if renewed else failure

    def _receive(self, key: str, body: Any, into: memoryview) -> int:
        try:
            return int(body.readinto(into))
        except _FAILURES as error:
            raise self._boto_failed("get", key, error) from error

    def _boto_failed(self, operation: str, key: str, error: Exception) -> Exception:
        if isinstance(error, errors.StorageError):
            return error
        if isinstance(error, _CONNECTION):
            reason = self._grant.secrets.redact(f"{type(error).__name__}: {error}")
            # A store that has more to do than it can answers late, and more of the same would keep it late.
            return Transient(self._unavailable(operation, key, reason), throttled=isinstance(error, _LATE))
        if not isinstance(error, boto.ClientError):
            return explain_s3(error, self._attempt(operation, key)).error()
        metadata = error.response.get("ResponseMetadata", {})
        status = int(metadata.get("HTTPStatusCode", 0))
        code = str(error.response.get("Error", {}).get("Code", ""))
        if (status >= 500 and status != _NOT_IMPLEMENTED) or status in (408, 429) or code in _PASSING:
            asked = str(metadata.get("HTTPHeaders", {}).get("retry-after", ""))
            return Transient(
                self._unavailable(operation, key, str(error)),
                throttled=status in (429, 503),
                retry_after=float(asked) if asked.isdecimal() else 0.0,
            )
        if status == 412:
            return self.written_over(key)
        if status in (404, 416) and code != "NoSuchBucket":
            return self.explain(operation, key, status, code, str(error), error)
        return explain_s3(error, self._attempt(operation, key)).error()

    def _unavailable(self, operation: str, key: str, reason: str) -> errors.StorageError:
        remedy = "try again later; ask the store's owner"
        return self.problem(errors.StoreUnavailableError, reason, operation, key, remedy)

    def _attempt(self, operation: str, key: str) -> Attempt:
        session = bool(self._keys.handed_to_obstore.token)
        return Attempt(self._address, self._grant, operation, f"{self.uri}/{key}", session=session)

    def _for_puts(self) -> Any:
        return self.checks.small or self._client

    def _session(self) -> Any:
        return s3_session(self._address, self._grant, connect_timeout=CONNECT_TIMEOUT, read_timeout=self._read_timeout)

    def __reduce__(self) -> tuple[Any, ...]:
        grant = self._grant
        return _reopen, (self._address, grant.mode, grant.source, grant.env_vars, self._read_timeout)


def _reopen(
    address: BucketAddress, mode: Mode, source: str, env_vars: tuple[tuple[str, str], ...], read_timeout: float
) -> S3Store:
    return S3Store(address, carried(mode, source, env_vars), read_timeout=read_timeout)
