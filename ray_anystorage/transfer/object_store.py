"""Object stores through obstore: memory, GCS and Azure as they are, and what S3 shares with them.

obstore's own retries are off, so that the engine sees every failure and can slow down; only the streamed upload of a
large object, whose parts obstore alone can see, keeps them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from datetime import timedelta
from typing import Any, TypeVar

import obstore
from obstore.exceptions import BaseError, NotSupportedError, PermissionDeniedError, UnauthenticatedError

from ray_anystorage import errors
from ray_anystorage.environment import BucketAddress
from ray_anystorage.transfer.digest import PIECE_BYTES, BytesLike
from ray_anystorage.transfer.files import part_bytes
from ray_anystorage.transfer.forks import obstore_is_lost
from ray_anystorage.transfer.retry import Transient
from ray_anystorage.transfer.store import CHANGED, Counters, Limits, Take, below, check_key
from ray_anystorage.transfer.streamed import EARLY_BYTES, StreamedUpload

Result = TypeVar("Result")
Self = TypeVar("Self", bound="ObjectStore")

NO_RETRIES = {"max_retries": 0}
OWN_RETRIES = {"max_retries": 20, "retry_timeout": timedelta(seconds=300)}
# On two cores 5,000 objects of 4 KiB came from 25 ms away in 2.8 s with 64, in 2.2 s with 128 and in 2.6 s with 256.
TINY_REQUESTS = 128
LEAST_COPIED = 1 << 20  # bytes; to send fewer takes no longer than a request that copies them, and no more requests
_MOST_COPIED = 5 << 30  # bytes, by one request that should not take minutes
OBSTORE_FAILURES = (BaseError, OSError)  # a missing object is a built-in FileNotFoundError

_STATUS = re.compile(r"status code: (\d{3})")
_CODE = re.compile(r"<Code>(\w+)</Code>")
_PASSING = (408, 429, 500, 502, 503, 504)
_THROTTLING = (429, 503)


class ObjectStore:
    """A folder of an object store.

    Parameters
    ----------
    client
        An obstore store without retries.
    uri
        Of the folder, for messages.
    prefix
        The folder's key prefix, without slashes at its ends; may be empty.
    streaming
        An obstore store with retries, for large objects; ``client`` where ``None``.
    """

    def __init__(self, client: Any, *, uri: str, prefix: str = "", streaming: Any = None) -> None:
        self.limits = Limits(tiny_requests=TINY_REQUESTS, early_bytes=EARLY_BYTES)
        self.counters = Counters()
        self._client, self._streaming = client, streaming or client
        self._uri = uri
        self._prefix = prefix

    @property
    def uri(self) -> str:
        """The folder's URI."""
        return self._uri

    def moved(self: Self, address: BucketAddress) -> Self:
        """A store for another folder of the same bucket on the same connections, with counters of its own."""
        other = object.__new__(type(self))
        other.__dict__.update(self.__dict__)
        other._uri, other._prefix, other.counters = address.uri, address.prefix, Counters()
        return other

    def write_small(self, key: str, data: BytesLike) -> str | None:
        """Replace an object with one request."""
        path = self._path(key)
        self.counters.add(sent=len(data))
        answer = self._call("put", key, lambda: obstore.put(self._for_puts(), path, data, use_multipart=False))
        return plain_etag(answer["e_tag"])

    def begin(self, key: str, size: int) -> Any:
        """An upload whose parts obstore sends; it takes them in order."""
        self._check_fork("put", key)
        return StreamedUpload(
            self._streaming,
            self._path(key),
            self.counters,
            lambda error: self.failed("put", key, error),
            part_bytes=part_bytes(size, self.limits.max_parts),
        )

    def read_range(self, key: str, offset: int, into: memoryview) -> None:
        """Fill the buffer with one request."""
        path = self._path(key)

        def fetch() -> Any:
            return obstore.get_range(self._client, path, start=offset, length=len(into))

        self.counters.add()
        data = memoryview(self._call("get", key, fetch))
        self.counters.add(fetched=len(data), requests=0)
        if len(data) < len(into):
            raise self.short(key, offset, len(data), len(into))
        into[:] = data

    def read_pieces(
        self, key: str, offset: int, size: int, scratch: memoryview, take: Take, etag: str | None = None
    ) -> None:
        """Hand on a range as it comes, with one request."""
        if etag is None and size <= len(scratch):  # no more than its bytes is wanted of the answer
            ObjectStore.read_range(self, key, offset, scratch[:size])
            take(scratch[:size])
            return
        path, options = self._path(key), {"range": (offset, offset + size)}
        self.counters.add()
        answer = self._call("get", key, lambda: obstore.get(self._client, path, options=options))
        if etag is not None and plain_etag(answer.meta["e_tag"]) != etag:
            raise self.written_over(key)
        if size <= PIECE_BYTES:  # in one piece, for the fewest turns of this thread
            whole = memoryview(self._call("get", key, answer.bytes))
            self.counters.add(fetched=len(whole), requests=0)
            if len(whole) < size:
                raise self.short(key, offset, len(whole), size)
            take(whole)
            return
        pieces, filled = iter(answer.stream(min_chunk_size=PIECE_BYTES)), 0
        while filled < size and (piece := self._call("get", key, lambda: next(pieces, None))) is not None:
            self.counters.add(fetched=len(piece), requests=0)
            filled += len(piece)
            take(memoryview(piece))
        if filled < size:
            raise self.short(key, offset, filled, size)

    def size(self, key: str) -> int:
        """Bytes of an object."""
        self.counters.add()
        return int(self._call("head", key, lambda: obstore.head(self._client, self._path(key)))["size"])

    def list(self, prefix: str) -> Iterator[tuple[str, int]]:
        """Objects below a folder, a page at a time."""
        yield from ((key, size) for key, size, _ in self.tagged(prefix))

    def tagged(self, prefix: str) -> Iterator[tuple[str, int, str | None]]:
        """The same, with their etags."""
        folder = "/".join(part for part in (self._prefix, prefix.strip("/")) if part)
        pages = iter(obstore.list(self._client, prefix=folder or None, chunk_size=1000))
        while page := self._call("list", prefix, lambda: next(pages, None)):
            self.counters.add()
            for entry in page:
                key = entry["path"][len(self._prefix) + 1 if self._prefix else 0 :]
                if below(prefix, key):
                    yield key, int(entry["size"]), plain_etag(entry["e_tag"])

    def delete(self, keys: Iterable[str]) -> None:
        """Remove objects, many by one request where the store can."""
        paths = [self._path(key) for key in keys]
        if not paths:
            return
        self.counters.add()
        try:
            self._call("delete", paths[0], lambda: obstore.delete(self._client, paths))
        except errors.ObjectMissingError:  # it stops at the first that is not there
            for path in paths:
                self._delete_one(path)

    def etag(self, key: str) -> str | None:
        """The ETag of an object."""
        self.counters.add()
        return plain_etag(self._call("head", key, lambda: obstore.head(self._client, self._path(key)))["e_tag"])

    def copies(self, size: int) -> bool:
        """True for what one request may copy, unless it is as soon sent."""
        return LEAST_COPIED <= size <= _MOST_COPIED

    def copy(self, source: str, key: str, etag: str | None = None, size: int | None = None) -> str | None:
        """Copy on the store's own side."""
        self.counters.add()
        self._call("copy", source, lambda: obstore.copy(self._client, self._path(source), self._path(key)))
        if etag is not None and self.etag(source) != etag:  # a look before would miss a write in between
            raise self.written_over(source)
        return self.etag(key)

    def settle(self) -> None:
        """Nothing: an object that is there is durable."""

    def unfinished(self, prefix: str) -> Iterator[tuple[str, str]]:
        """None that obstore can see; Azure and GCS drop theirs by themselves, Azure after a week."""
        return iter(())

    def discard(self, key: str, token: str) -> None:
        """Nothing: ``unfinished`` names none."""

    def close(self) -> None:
        """Nothing: obstore's connections end with it."""

    def failed(self, operation: str, key: str, error: Exception) -> Exception:
        """What to raise for a failure of obstore."""
        status, code, said = read_failure(error)
        passing = status in _PASSING or code in self.passing_codes or (status is None and _is_connection(error))
        problem = self.explain(operation, key, None if passing else status, code, said, error)
        return Transient(problem, throttled=status in _THROTTLING) if passing else problem

    passing_codes: frozenset[str] = frozenset()

    def explain(
        self, operation: str, key: str, status: int | None, code: str, said: str, error: Exception
    ) -> errors.StorageError:
        """The error of this package that says the same."""
        if isinstance(error, FileNotFoundError) or status == 404:
            if code in ("NoSuchBucket", "ContainerNotFound"):
                return self.problem(
                    errors.BucketMissingError, said, operation, key, "create the bucket, or correct its name"
                )
            return self.problem(
                errors.ObjectMissingError, "there is no such object", operation, key, "look for it with another name"
            )
        if status == 416:
            return self.problem(errors.ShortReadError, "the object ends before", operation, key, "store it again")
        if isinstance(error, (PermissionDeniedError, UnauthenticatedError)):
            return self.problem(
                errors.BucketPermissionError, said, operation, key, f"allow these credentials to {operation}"
            )
        if status in _PASSING or status is None:
            return self.problem(
                errors.StoreUnavailableError, said, operation, key, "try again later; ask the store's owner"
            )
        return self.problem(errors.BucketError, said, operation, key, "look the answer up in the store's documentation")

    def problem(
        self, kind: type[errors.StorageError], reason: str, operation: str, key: str, remedy: str
    ) -> errors.StorageError:
        """An error about one object."""
        place = f"{self.uri}/{key}"
        return kind(reason, tier="artifact", place=place, tried=f"{operation} {place}", remedy=remedy)

    def written_over(self, key: str) -> errors.StorageError:
        """The error for an object that is not what was to be read."""
        return self.problem(errors.SourceChangedError, CHANGED, "get", key, "read it again when nobody writes there")

    def short(self, key: str, offset: int, got: int, wanted: int) -> errors.StorageError:
        """The error for an object that ends too early."""
        reason = f"the object ends at byte {offset + got}, {wanted} bytes from {offset} were asked for"
        return self.problem(errors.ShortReadError, reason, "get", key, "restore an older checkpoint")

    def _check_fork(self, operation: str, key: str) -> None:
        if obstore_is_lost():
            raise self.problem(
                errors.ForkedProcessError,
                "this process was forked from one that had used a bucket, and its client does not survive that",
                operation,
                key,
                'start processes by "spawn" or "forkserver", as DataLoader(multiprocessing_context="spawn")',
            )

    def _path(self, key: str) -> str:
        return f"{self._prefix}/{check_key(key)}" if self._prefix else check_key(key)

    def _delete_one(self, path: str) -> None:
        self.counters.add()
        try:
            self._call("delete", path, lambda: obstore.delete(self._client, path))
        except errors.ObjectMissingError:
            return

    def _for_puts(self) -> Any:
        """obstore's client for small objects."""
        return self._client

    def _call(self, operation: str, key: str, request: Callable[[], Result]) -> Result:
        self._check_fork(operation, key)
        try:
            return request()
        except OBSTORE_FAILURES as error:
            raise self.failed(operation, key, error) from error


def read_failure(error: Exception) -> tuple[int | None, str, str]:
    """Status and code of the answer behind a failure of obstore, where there was one, and what obstore says of it."""
    said = str(error).partition("\n\nDebug source")[0]
    status, code = _STATUS.search(said), _CODE.search(said)
    return int(status[1]) if status else None, code[1] if code else "", said


def plain_etag(said: str | None) -> str | None:
    """An ETag without its quotes, which stores leave out in some of their answers."""
    return said.strip('"') if said else None


def _is_connection(error: Exception) -> bool:
    # obstore gives connections that are refused, reset, cut or silent no class of their own, only no status.
    return not isinstance(error, (FileNotFoundError, NotSupportedError, PermissionDeniedError, UnauthenticatedError))
