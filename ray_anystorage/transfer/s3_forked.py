"""S3's requests for small objects by botocore, in a process that was forked from one that had used obstore."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, TypeVar

from ray_anystorage.environment import BucketAddress
from ray_anystorage.transfer.digest import BytesLike
from ray_anystorage.transfer.forks import obstore_is_lost
from ray_anystorage.transfer.object_store import ObjectStore, plain_etag
from ray_anystorage.transfer.s3_checks import crc32_of
from ray_anystorage.transfer.store import below

Result = TypeVar("Result")


class ForkedS3(ObjectStore):
    """An object store with a botocore client beside obstore's, which is enough where a fork left that alone."""

    _address: BucketAddress
    secure: bool

    @property
    @abstractmethod
    def boto(self) -> Any:
        """A client of this process."""

    @abstractmethod
    def request(self, operation: str, key: str, call: Callable[[], Result]) -> Result:
        """Call botocore once, and raise what this package means by its failure."""

    def write_small(self, key: str, data: BytesLike) -> str | None:
        """Replace an object with one request."""
        if not obstore_is_lost():
            return super().write_small(key, data)
        body = bytes(data)
        answer = self.put_by_boto(key, body, {} if self.secure else crc32_of(body))
        return plain_etag(answer["ETag"])

    def put_by_boto(self, key: str, body: bytes, checksum: Mapping[str, str]) -> Any:
        """Replace an object; botocore's answer. ``checksum`` as its argument."""
        self.counters.add(sent=len(body), requests=0)
        return self.request("put", key, lambda: self.boto.put_object(**self._object(key), **checksum, Body=body))

    def size(self, key: str) -> int:
        """Bytes of an object."""
        return int(self._head(key)["ContentLength"]) if obstore_is_lost() else super().size(key)

    def etag(self, key: str) -> str | None:
        """The ETag of an object."""
        return plain_etag(self._head(key)["ETag"]) if obstore_is_lost() else super().etag(key)

    def list(self, prefix: str) -> Iterator[tuple[str, int]]:
        """Objects below a folder, a page at a time."""
        if not obstore_is_lost():
            yield from super().list(prefix)
            return
        folder = "/".join(part for part in (self._prefix, prefix.strip("/")) if part)
        paginator = self.boto.get_paginator("list_objects_v2")
        pages = iter(paginator.paginate(Bucket=self._address.bucket, Prefix=f"{folder}/" if folder else ""))
        while page := self.request("list", prefix, lambda: next(pages, None)):
            for entry in page.get("Contents", ()):
                key = entry["Key"][len(self._prefix) + 1 if self._prefix else 0 :]
                if below(prefix, key):
                    yield key, int(entry["Size"])

    def delete(self, keys: Iterable[str]) -> None:
        """Remove objects, one by one: S3 wants a checksum of a list, and not every store takes it."""
        if not obstore_is_lost():
            super().delete(keys)
            return
        for key in keys:
            self.request("delete", key, lambda key=key: self.boto.delete_object(**self._object(key)))  # type: ignore[misc]

    def _head(self, key: str) -> Any:
        return self.request("head", key, lambda: self.boto.head_object(**self._object(key)))

    def _object(self, key: str) -> dict[str, Any]:
        return {"Bucket": self._address.bucket, "Key": self._path(key)}
