"""The steps of trying an S3 bucket, through botocore for its structured error codes."""

from __future__ import annotations

import contextlib
import statistics
import time
from collections.abc import Callable
from datetime import datetime, timezone
from email.utils import parsedate_to_datetime
from typing import Any

from botocore.exceptions import ClientError

from ray_anystorage.credentials.grant import Grant
from ray_anystorage.diagnosis.check import Finding
from ray_anystorage.environment import BucketAddress, Problem
from ray_anystorage.errors import BucketError
from ray_anystorage.transfer.failures import S3_FAILURES, Attempt, explain_s3, shorten
from ray_anystorage.transfer.s3_client import client_of, s3_session, signer

_LATENCY_CALLS = 5
_MAX_SKEW = 300.0  # seconds; S3 refuses signatures that are 900 s old
_PART_BYTES = 5 * 2**20  # the smallest part that S3 takes before the last


class S3Probe:
    """One bucket, its client and whom it signs as."""

    failures = S3_FAILURES

    def __init__(self, address: BucketAddress, grant: Grant, timeout: float) -> None:
        self._address = address
        self._grant = grant
        self._socket_timeout = timeout / 3  # two attempts and the wait between them fit into the whole
        self._client: Any = None
        self._key, self._session = "", False

    def open(self) -> Finding:
        """Get the credentials and build the client."""
        session = s3_session(
            self._address, self._grant, connect_timeout=self._socket_timeout, read_timeout=self._socket_timeout
        )
        access_key, self._session = signer(session)
        self._key = shorten(access_key)
        self._client = client_of(session, self._address)
        return Finding(f"key {self._key}{' with a session token' if self._session else ''} ({self._grant.source})")

    def list(self) -> Finding:
        """List one key of the folder."""
        self._list()
        return Finding(f"{self._address.uri} can be listed")

    def put(self, key: str, data: bytes) -> Finding:
        """Write an object."""
        self._client.put_object(Bucket=self._address.bucket, Key=key, Body=data)
        return Finding(f"{len(data)} bytes written")

    def get(self, key: str, data: bytes) -> Finding:
        """Read it and compare."""
        back = self._client.get_object(Bucket=self._address.bucket, Key=key)["Body"].read()
        if back == data:
            return Finding("the same bytes came back")
        reason = f"{len(data)} bytes were written and {len(back)} others came back"
        return self._bad("get", key, reason, "Do not use this store: ask its owner.")

    def delete(self, key: str) -> Finding:
        """Delete it."""
        self._client.delete_object(Bucket=self._address.bucket, Key=key)
        return Finding("deleted")

    def extras(self, key: str) -> tuple[tuple[str, Callable[[], Finding]], ...]:
        """Latency, conditional put, multipart upload and the clocks."""
        return (
            ("latency", self._latency),
            ("conditional put", lambda: self._conditional_put(key)),
            ("multipart upload", lambda: self._multipart(key)),
            ("clock", self._clock),
        )

    def explain(self, error: Exception, operation: str, key: str) -> Problem:
        """The problem behind an error of the client."""
        return explain_s3(error, self._attempt(operation, key))

    def _attempt(self, operation: str, key: str) -> Attempt:
        on_folder = operation in ("credentials", "list", "latency", "clock")
        target = self._address.uri if on_folder else f"s3://{self._address.bucket}/{key}"
        return Attempt(self._address, self._grant, operation, target, self._key, self._session)

    def _bad(self, operation: str, key: str, reason: str, remedy: str) -> Finding:
        return Finding(reason, problem=self._attempt(operation, key).problem(BucketError, reason, remedy))

    def _list(self) -> dict[str, Any]:
        prefix = f"{self._address.prefix}/" if self._address.prefix else ""
        answer: dict[str, Any] = self._client.list_objects_v2(Bucket=self._address.bucket, Prefix=prefix, MaxKeys=1)
        return answer

    def _latency(self) -> Finding:
        seconds = []
        for _ in range(_LATENCY_CALLS):
            start = time.perf_counter()
            self._list()
            seconds.append(time.perf_counter() - start)
        milliseconds = statistics.median(seconds) * 1000
        return Finding(f"{milliseconds:.1f} ms (median of {_LATENCY_CALLS} lists)", round(milliseconds, 3), "ms")

    def _conditional_put(self, key: str) -> Finding:
        bucket, second_won = self._address.bucket, True
        try:
            self._client.put_object(Bucket=bucket, Key=key, Body=b"first", IfNoneMatch="*")
            try:
                self._client.put_object(Bucket=bucket, Key=key, Body=b"second", IfNoneMatch="*")
            except ClientError as error:
                if error.response["ResponseMetadata"]["HTTPStatusCode"] not in (409, 412):
                    raise
                second_won = False
        finally:
            self._client.delete_object(Bucket=bucket, Key=key)
        if not second_won:
            return Finding("a second put with If-None-Match is refused, as it should be")
        reason = "the store takes a second put with If-None-Match: * over an existing object"
        remedy = (
            "Update the store to a version with conditional writes; until then two writers may overwrite each other."
        )
        return self._bad("conditional put", key, reason, remedy)

    def _multipart(self, key: str) -> Finding:
        target = {"Bucket": self._address.bucket, "Key": key}
        upload = self._client.create_multipart_upload(**target)["UploadId"]
        try:
            bodies = enumerate((bytes(_PART_BYTES), b"end"), start=1)
            parts = [
                {"PartNumber": number, "ETag": self._part(target, upload, number, body)} for number, body in bodies
            ]
            self._client.complete_multipart_upload(**target, UploadId=upload, MultipartUpload={"Parts": parts})
        except BaseException:
            with contextlib.suppress(*S3_FAILURES):  # the first error says what is wrong
                self._client.abort_multipart_upload(**target, UploadId=upload)
            raise
        try:
            size = self._client.head_object(**target)["ContentLength"]
        finally:
            self._client.delete_object(**target)
        if size == _PART_BYTES + 3:
            return Finding(f"2 parts, {size} bytes")
        reason = f"two parts of {_PART_BYTES + 3} bytes together became an object of {size}"
        return self._bad("multipart upload", key, reason, "Do not use this store: ask its owner.")

    def _part(self, target: dict[str, str], upload: str, number: int, body: bytes) -> str:
        answer = self._client.upload_part(**target, UploadId=upload, PartNumber=number, Body=body)
        return str(answer["ETag"])

    def _clock(self) -> Finding:
        said = self._list()["ResponseMetadata"]["HTTPHeaders"].get("date")
        if said is None:
            return Finding("the store does not say its time")
        skew = (parsedate_to_datetime(said) - datetime.now(timezone.utc)).total_seconds()
        if abs(skew) <= _MAX_SKEW:
            return Finding(f"this node's clock and the store's differ by {abs(skew):.0f} s", round(skew, 1), "s")
        reason = f"the store's clock is {abs(skew):.0f} s {'ahead of' if skew > 0 else 'behind'} this node's"
        return self._bad("clock", "", reason, "Synchronise this node's clock (chrony, NTP): signatures depend on it.")
