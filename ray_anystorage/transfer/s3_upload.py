"""One multipart upload to S3, by the engine's own parts."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import threading
import zlib
from typing import TYPE_CHECKING, Any

from ray_anystorage.errors import BucketError, ObjectMissingError, StorageError
from ray_anystorage.transfer.digest import BytesLike

if TYPE_CHECKING:
    from ray_anystorage.transfer.s3_store import S3Store

_OPERATION = "multipart upload"


class S3Upload:
    """See :class:`ray_anystorage.transfer.store.Upload`. The first part opens the upload.

    Where the answer to that is lost, an empty upload stays behind, which ``unfinished`` lists.
    """

    def __init__(self, store: S3Store, bucket: str, path: str, key: str, size: int) -> None:
        self._store, self._key, self._size = store, key, size
        self._object = {"Bucket": bucket, "Key": path}
        self._lock = threading.Lock()
        self._id: str | None = None
        self._tags: dict[int, str] = {}
        self._commits = 0
        self._refused: StorageError | None = None

    def part(self, index: int, offset: int, data: BytesLike) -> None:
        """Send a part; again, it replaces the one before."""
        upload = self._opened()
        body = data if isinstance(data, (bytes, bytearray)) else bytes(data)  # botocore takes no memoryview
        self._store.counters.add(sent=len(body), requests=0)
        client = self._store.boto
        arguments: dict[str, Any] = {**self._object, "UploadId": upload, "PartNumber": index + 1, "Body": body}
        if not self._store.secure:
            arguments["ChecksumCRC32"] = base64.b64encode(zlib.crc32(body).to_bytes(4, "big")).decode()
        answer = self._store.request(_OPERATION, self._key, lambda: client.upload_part(**arguments))
        with self._lock:
            self._tags[index] = answer["ETag"]

    def commit(self) -> None:
        """Complete the upload; where the answer to an earlier try was lost, find out whether it did."""
        self._commits += 1
        parts = [{"PartNumber": index + 1, "ETag": tag} for index, tag in sorted(self._tags.items())]
        arguments = {**self._object, "UploadId": self._opened(), "MultipartUpload": {"Parts": parts}}
        client = self._store.boto
        try:
            self._store.request(_OPERATION, self._key, lambda: client.complete_multipart_upload(**arguments))
        except (ObjectMissingError, BucketError):  # the store does not know the upload
            if self._commits == 1 or not self._is_there():
                raise
        self._id = None

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
        client = self._store.boto
        try:
            answer = self._store.request(_OPERATION, self._key, lambda: client.create_multipart_upload(**self._object))
        except StorageError as error:
            self._refused = error
            raise
        return str(answer["UploadId"])

    def _is_there(self) -> bool:
        head = self._store.request("get", self._key, lambda: self._store.boto.head_object(**self._object))
        return bool(head["ContentLength"] == self._size and head["ETag"].strip('"') == self._expected_tag())

    def _expected_tag(self) -> str:
        # https://docs.aws.amazon.com/AmazonS3/latest/userguide/checking-object-integrity-upload.html
        tags = [tag.strip('"') for _, tag in sorted(self._tags.items())]
        whole = hashlib.md5(bytes.fromhex("".join(tags)), usedforsecurity=False)
        return f"{whole.hexdigest()}-{len(tags)}"
