"""A file that is written in order and sent while it is written, by parallel parts; it is never on a disk."""

from __future__ import annotations

from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import Any

from ray_anystorage.transfer.digest import CHUNK_BYTES, BytesLike, ChunkHasher
from ray_anystorage.transfer.files import part_bytes
from ray_anystorage.transfer.retry import gave_back
from ray_anystorage.transfer.segments import Segments
from ray_anystorage.transfer.session import Session
from ray_anystorage.transfer.store import Upload, check_key

_WINDOW_BYTES = 128 << 20  # of parts under way


class Sink:
    """One file under way. It is written by one thread, and visible after ``commit``.

    A segment ends where the position is asked for, and after 8 MiB: whoever asks before and after each thing that it
    writes can have that thing alone verified later.

    Parameters
    ----------
    session
        The call that it is part of.
    key
        That the file is to have.
    about
        How many bytes it will have, as far as that is known.

    Attributes
    ----------
    segments
        Of the file, after ``commit``.
    """

    segments: Segments | None = None

    def __init__(self, session: Session, key: str, about: int) -> None:
        limits = session.store.limits
        self._session, self._key = session, check_key(key)
        self._most = about + about // 4 + (1 << 30)
        self._block = part_bytes(self._most, limits.max_parts)
        window = max(1, min(_WINDOW_BYTES, limits.early_bytes or _WINDOW_BYTES) // self._block)
        self._pool = ThreadPoolExecutor(min(window, limits.requests), thread_name_prefix="anystorage-sink")
        self._window, self._sent = window, deque[Future[None]]()
        self._upload: Upload | None = None
        self._part, self._filled, self._index = bytearray(), 0, 0
        self._hasher, self._begun = ChunkHasher(), 0  # bytes of the segment that is not complete
        self._sizes: list[int] = []
        self._digests: list[str] = []

    def write(self, data: BytesLike) -> int:
        """Take bytes, of which nothing is needed any more when this returns; waits while enough is under way.

        Raises
        ------
        StorageError
            An earlier part was refused, or failed for too long.
        TransferCancelledError
            Somebody cancelled.
        """
        view = memoryview(data).cast("B")
        self._hash(view)
        at = 0
        while at < len(view):
            if self._filled == self._block:
                self._send()
            if not self._part:
                self._part = bytearray(self._block)
            count = min(len(view) - at, self._block - self._filled)
            self._part[self._filled : self._filled + count] = view[at : at + count]
            self._filled += count
            at += count
        return len(view)

    def tell(self) -> int:
        """The position, which is a border between segments from now on."""
        if self._begun:
            self._sizes.append(self._begun)
            self._digests += self._hasher.rest()
            self._begun = 0
        return self._index * self._block + self._filled

    def flush(self) -> None:
        """Nothing: bytes are durable after ``commit``."""

    def close(self) -> None:
        """Nothing: a file that was closed because something failed must not become visible."""

    def commit(self) -> None:
        """Send the rest and make the file visible, durable."""
        size, session = self.tell(), self._session
        del self._part[self._filled :]
        if self._upload is None and size <= session.store.limits.single_bytes:
            session.persist(partial(session.store.write_small, self._key, self._part))
            session.advance(size)
        else:
            self._send()
            while self._sent:
                self._sent.popleft().result()
            upload = self._begin()
            upload.cut(size)
            session.persist(upload.commit)
        session.store.settle()
        self._pool.shutdown()
        self.segments = Segments(tuple(self._sizes), tuple(self._digests))

    def abort(self) -> None:
        """Take back what was sent. A store that fails here keeps it, for ``unfinished`` to find."""
        self._session.cancel.set()
        self._pool.shutdown(cancel_futures=True)
        if self._upload is not None:
            gave_back(self._upload.abort, self._session.budget)

    def __enter__(self) -> Sink:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: Any) -> None:
        if kind is not None:
            self.abort()

    def _hash(self, view: memoryview) -> None:
        digests = self._hasher.update(view)
        self._sizes += [CHUNK_BYTES] * len(digests)
        self._digests += digests
        self._begun = (self._begun + len(view)) % CHUNK_BYTES

    def _begin(self) -> Upload:
        if self._upload is None:  # a mount need not reserve more than there will be
            store = self._session.store
            self._upload = store.begin(self._key, 0 if store.limits.in_pieces else self._most)
        return self._upload

    def _send(self) -> None:
        """Send the part that is full, once the one that is a whole window before it has arrived."""
        self._session.cancel.check()
        upload, index, part = self._begin(), self._index, self._part
        while len(self._sent) >= self._window or (self._sent and self._sent[0].done()):
            self._sent.popleft().result()
        self._sent.append(self._pool.submit(self._arrive, upload, index, part))
        self._index, self._part, self._filled = index + 1, bytearray(), 0

    def _arrive(self, upload: Upload, index: int, part: bytearray) -> None:
        self._session.persist(partial(upload.part, index, index * self._block, part))
        self._session.advance(len(part))
