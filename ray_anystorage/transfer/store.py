"""A place of bytes: the whole surface that the engine and its callers use of a bucket, a mount or a memory.

A new kind of store implements :class:`Store` and :class:`Upload` and passes
:class:`ray_anystorage.testing.store_conformance.StoreConformance`.

What an operation raises decides what the engine does: :class:`ray_anystorage.transfer.retry.Transient` is tried again,
any :class:`ray_anystorage.errors.StorageError` ends the transfer at once.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from ray_anystorage.errors import RequestError
from ray_anystorage.transfer.digest import CHUNK_BYTES, PIECE_BYTES, BytesLike

TINY_BYTES = 64 << 10  # of a file, at most, for which a request does little but wait
CHANGED = "it was written over since it was listed"
Take = Callable[[memoryview], None]  # what it is given is good until it returns


@dataclass(frozen=True, slots=True)
class Limits:
    """What a store allows.

    Attributes
    ----------
    single_bytes
        The largest object that goes by ``write_small``; larger ones go by ``begin``.
    max_parts
        Parts of one upload, at most.
    requests, tiny_requests
        Requests at once that still help; and where each is for a file of at most ``TINY_BYTES``, and so mostly waits.
    in_pieces
        Whether the bytes of a part may come by several calls of ``Upload.part``, so that nobody holds all of them.
    piece_bytes
        How much is read, hashed and written at a time.
    early_bytes
        How far a part may be ahead of the first that is missing, where an upload has to keep what comes early; ``None``
        where every order is as good.
    """

    single_bytes: int = CHUNK_BYTES
    max_parts: int = 10_000
    requests: int = 64
    tiny_requests: int = 64
    in_pieces: bool = False
    piece_bytes: int = PIECE_BYTES
    early_bytes: int | None = None

    def at_once(self, largest: int) -> int:
        """Requests at once that still help for files of at most so many bytes."""
        return self.tiny_requests if largest <= TINY_BYTES else self.requests


class Upload(Protocol):
    """One object under way, invisible until ``commit``. Parts may come from several threads, in any order."""

    def part(self, index: int, offset: int, data: BytesLike) -> None:
        """Store part ``index`` (from 0), which begins at byte ``offset``; sending it again replaces it."""

    def cut(self, size: int) -> None:
        """Say before ``commit``, where ``begin`` was not told how many bytes there are, that these are all."""

    def commit(self) -> str | None:
        """Make the object visible, whole, in place of what was there; gives its etag."""

    def abort(self) -> None:
        """Leave nothing behind; safe to call at any time, more than once."""


@runtime_checkable
class ResumableUpload(Upload, Protocol):
    """An upload that another process can go on with."""

    def open(self) -> str:
        """Open it, if it is not open; its token."""

    def resume(self, token: str) -> Mapping[int, str] | None:
        """Go on with an earlier one: the tags of the parts that it has, by index; ``None`` where it is gone."""

    def tag(self, index: int) -> str:
        """The store's tag of a part that was sent."""


class Store(Protocol):
    """The operations, all synchronous and thread-safe. Keys are relative to the store's root, with ``/`` between."""

    limits: Limits
    counters: Counters

    @property
    def uri(self) -> str:
        """The root, for messages."""

    def write_small(self, key: str, data: BytesLike) -> str | None:
        """Replace an object atomically, with one request; gives its etag."""

    def begin(self, key: str, size: int) -> Upload:
        """Prepare an object of ``size`` bytes; the first part may make the first request.

        ``Upload.cut`` corrects the size. Until then it is a bound, by which a store may choose the size of its parts.
        """

    def read_range(self, key: str, offset: int, into: memoryview) -> None:
        """Fill the buffer from an object; ``ShortReadError`` where it ends before."""

    def read_pieces(
        self, key: str, offset: int, size: int, scratch: memoryview, take: Take, etag: str | None = None
    ) -> None:
        """Hand on ``size`` bytes of an object in order, as they come; ``ShortReadError`` where it ends before.

        ``scratch`` may be used to receive them. What ``take`` raises goes through unchanged. With ``etag``,
        ``SourceChangedError`` where the object does not have it, or no longer; then ``take`` hears of nothing.
        """

    def size(self, key: str) -> int:
        """Bytes; ``ObjectMissingError`` where there is none."""

    def etag(self, key: str) -> str | None:
        """The store's mark of what the key holds now: it differs after a write of other content, though of equal size.

        ``None`` where the store has no such mark, ``ObjectMissingError`` where there is no object.
        """

    def list(self, prefix: str) -> Iterator[tuple[str, int]]:
        """Key and bytes of every object below a folder (or all, for ``""``), in no order."""

    def tagged(self, prefix: str) -> Iterator[tuple[str, int, str | None]]:
        """As ``list``, with what ``etag`` would give of each; ``None`` where the store does not say that in a list."""

    def delete(self, keys: Iterable[str]) -> None:
        """Remove objects; those that are not there are no error."""

    def copies(self, size: int) -> bool:
        """Whether ``copy`` moves no bytes of an object of this size through here, and so spares sending it."""

    def copy(self, source: str, key: str, etag: str | None = None, size: int | None = None) -> str | None:
        """Copy on the store's own side, atomically; gives the etag of the copy.

        With ``etag``, ``SourceChangedError`` where the source does not have it, or no longer. ``size``, where it is
        known, lets a store copy a large object in parts.
        """

    def settle(self) -> None:
        """Make durable what was written and is not: names, on a mount; nothing, in an object store."""

    def unfinished(self, prefix: str) -> Iterator[tuple[str, str]]:
        """Key and token of each upload below a folder that was neither committed nor aborted."""

    def discard(self, key: str, token: str) -> None:
        """Remove an unfinished upload."""

    def close(self) -> None:
        """Let go of connections."""


class Counters:
    """Requests made and bytes of payload moved, as one store saw them; failed requests count too."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.requests = 0
        self.bytes_sent = 0
        self.bytes_fetched = 0

    def add(self, *, sent: int = 0, fetched: int = 0, requests: int = 1) -> None:
        """Count a request and what went with it, in bytes."""
        with self._lock:
            self.requests += requests
            self.bytes_sent += sent
            self.bytes_fetched += fetched


def check_key(key: str) -> str:
    """The key, if it names something below a root.

    Raises
    ------
    RequestError
        It is empty or absolute, or holds ``.``, ``..``, an empty segment or NUL.
    """
    if "\0" in key or any(segment in ("", ".", "..") for segment in key.split("/")):
        raise RequestError(f"{key!r} is not a key: expected a relative path without empty, '.' or '..' segments")
    return key


def below(prefix: str, key: str) -> bool:
    """True when the key lies in the folder, whole segments compared."""
    return not prefix or key == prefix or key.startswith(prefix.rstrip("/") + "/")
