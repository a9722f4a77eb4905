"""One multipart upload to S3, by the engine's own parts."""

from __future__ import annotations

import contextlib
import secrets
import threading
from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from ray_anystorage.errors import BucketError, ObjectMissingError, StorageError, StoreUnavailableError
from ray_anystorage.transfer.budget import Budget, Cancel
from ray_anystorage.transfer.digest import BytesLike
from ray_anystorage.transfer.files import Part
from ray_anystorage.transfer.retry import Patience, Transient, gave_back, persist
from ray_anystorage.transfer.s3_checks import crc32_of
from ray_anystorage.transfer.workers import run_tasks

if TYPE_CHECKING:
    from ray_anystorage.transfer.s3_store import S3Store

_OPERATION = "multipart upload"
COPY_PART_BYTES = 1 << 30  # copied by one request within the read timeout: stores copy 100 MB/s and more
_COPIES_AT_ONCE = 8
_PART_PATIENCE = Patience(give_up_after=120.0)  # seconds: more than one attempt takes that gets no answer
_MOST_PARTS = 10_000
_MARK = "anystorage"  # of the metadata that says which upload made an object
_REFUSALS = 10  # to complete an upload, before they are believed


class S3Upload:
    """See :class:`ray_anystorage.transfer.store.Upload`. The first part opens the upload.

    Where the answer to that is lost, an empty upload stays behind, which ``unfinished`` lists.
    """

    def __init__(self, store: S3Store, bucket: str, path: str, key: str, size: int) -> None:
        self._store, self._key, self._size = store, key, size
        self._object = {"Bucket": bucket, "Key": path}
        self._mark = secrets.token_hex(8)
        self._lock = threading.Lock()
        self._id: str | None = None
        self._tags: dict[int, str] = {}
        self._commits = 0
        self._refused: StorageError | None = None
        self._refusal: StorageError | None = None  # to complete, until it is known whether that was done before
        self._refusals = 0

    def open(self) -> str:
        """Open the upload, if it is not open; its id."""
        return self._opened()

    def resume(self, token: str) -> dict[int, str] | None:
        """Go on with an upload that another process opened; the ETags of its parts, ``None`` where it is gone."""
        arguments = {**self._object, "UploadId": token}
        pages = self._store.boto.get_paginator("list_parts").paginate(**arguments)
        try:
            found = self._store.request("list", self._key, lambda: list(pages))
        except ObjectMissingError:
            return None
        tags = {part["PartNumber"] - 1: part["ETag"] for page in found for part in page.get("Parts", ())}
        with self._lock:
            self._id, self._tags = token, dict(tags)
        return tags

    def tag(self, index: int) -> str:
        """The ETag of a part that was sent."""
        with self._lock:
            return self._tags[index]

    def part(self, index: int, offset: int, data: BytesLike) -> None:
        """Send a part; again, it replaces the one before."""
        upload = self._opened()
        body = data if isinstance(data, (bytes, bytearray)) else bytes(data)  # botocore takes no memoryview
        self._store.counters.add(sent=len(body), requests=0)
        client = self._store.boto
        arguments: dict[str, Any] = {**self._object, "UploadId": upload, "PartNumber": index + 1, "Body": body}
        if not self._store.secure:
            arguments |= crc32_of(body)
        answer = self._store.request(_OPERATION, self._key, lambda: client.upload_part(**arguments))
        self._store.checks.answered_part(answer)
        with self._lock:
            self._tags[index] = answer["ETag"]

    def copy_part(self, part: Part, source: Mapping[str, Any]) -> None:
        """Have the store take a part from another object; ``source`` as botocore's ``CopySource…`` arguments."""
        arguments: dict[str, Any] = {**self._object, **source, "UploadId": self._opened(), "PartNumber": part.index + 1}
        arguments["CopySourceRange"] = f"bytes={part.offset}-{part.offset + part.size - 1}"
        client = self._store.boto
        answer = self._store.request("copy", self._key, lambda: client.upload_part_copy(**arguments))
        with self._lock:
            self._tags[part.index] = answer["CopyPartResult"]["ETag"]

    def copy_all(self, source: Mapping[str, Any]) -> str | None:
        """Copy all of an object of this upload's size, several parts at once, and commit.

        A part that fails is tried again by itself: of a hundred, some would fail each time. A store that is out of
        order for longer ends all of it, and how long that is outlasted is the caller's to say.
        """
        step = max(COPY_PART_BYTES, -(-self._size // _MOST_PARTS))
        parts = [Part(index, at, min(step, self._size - at)) for index, at in enumerate(range(0, self._size, step))]
        budget, cancel = Budget(requests=_COPIES_AT_ONCE, first_requests=_COPIES_AT_ONCE), Cancel()

        def copied(part: Part) -> None:
            persist(partial(self.copy_part, part, source), budget, cancel, _PART_PATIENCE)

        try:
            run_tasks((partial(copied, part) for part in parts), _COPIES_AT_ONCE, cancel)
            return persist(self.commit, budget, cancel, _PART_PATIENCE)
        except BaseException as error:
            gave_back(self.abort, budget)
            if isinstance(error, StoreUnavailableError):
                raise Transient(error, throttled=getattr(error.__cause__, "throttled", False)) from error
            raise

    def cut(self, size: int) -> None:
        """Know the size that the object is to have."""
        self._size = size

    def commit(self) -> str | None:
        """Complete the upload; where it is refused, find out whether an earlier try did, whose answer was lost."""
        if self._refusal is None:
            try:
                return self._complete()
            except (ObjectMissingError, BucketError) as error:
                self._refusal = error
        found = self._find_object() if self._commits > 1 else None
        refusal, self._refusal = self._refusal, None
        if found is not None:
            self._id = None
            return found
        self._refusals += 1
        if isinstance(refusal, ObjectMissingError) or self._refusals == _REFUSALS:
            raise refusal
        raise Transient(refusal)  # the list of parts may have been altered on its way

    def _complete(self) -> str:
        self._commits += 1
        parts = [{"PartNumber": index + 1, "ETag": tag} for index, tag in sorted(self._tags.items())]
        arguments = {**self._object, "UploadId": self._opened(), "MultipartUpload": {"Parts": parts}}
        client = self._store.boto
        answer = self._store.request(_OPERATION, self._key, lambda: client.complete_multipart_upload(**arguments))
        self._id = None
        return str(answer["ETag"].strip('"'))

    def abort(self) -> None:
        """Abort the upload if it was opened."""
        if self._id is not None:
            with contextlib.suppress(ObjectMissingError):  # it was completed or aborted, and the answer lost
                self._store.discard(self._key, self._id)
            self._id = None

    def _opened(self) -> str:
        with self._lock:
            if self._refused is not None:  # once is enough, however many parts wait here
                raise self._refused
            if self._id is None:
                self._id = self._open()
            return self._id

    def _open(self) -> str:
        client, arguments = self._store.boto, {**self._object, "Metadata": {_MARK: self._mark}}
        try:
            answer = self._store.request(_OPERATION, self._key, lambda: client.create_multipart_upload(**arguments))
        except StorageError as error:
            self._refused = error
            raise
        return str(answer["UploadId"])

    def _find_object(self) -> str | None:
        """The ETag of the object where this upload made it. Its mark says so: no ETag tells of encrypted parts."""
        try:
            head = self._store.request("get", self._key, lambda: self._store.boto.head_object(**self._object))
        except ObjectMissingError:
            return None
        marks = {name.lower(): value for name, value in head["Metadata"].items()}
        ours = head["ContentLength"] == self._size and marks.get(_MARK) == self._mark
        return str(head["ETag"].strip('"')) if ours else None
