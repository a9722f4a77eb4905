"""Fetching many files at once: ranges in parallel, verified, written in place under a temporary name."""

from __future__ import annotations

import contextlib
import os
import secrets
import threading
from collections.abc import Iterator, Sequence
from functools import partial
from typing import NoReturn

from ray_anystorage.errors import DigestMismatchError
from ray_anystorage.transfer.digest import CHUNK_BYTES, PIECE_BYTES, ChunkHasher, file_digest
from ray_anystorage.transfer.disk import preallocate, sync_directory
from ray_anystorage.transfer.files import Incoming, Part, split
from ray_anystorage.transfer.retry import Transient
from ray_anystorage.transfer.session import Session
from ray_anystorage.transfer.store import check_key
from ray_anystorage.transfer.workers import Task, run_tasks

_FETCHES = 3  # of a chunk whose digest is wrong: a bit may have flipped on the way
_MOST_CHUNKS = 4  # of one request: each costs CPU and a round trip, and what is under way at the end is not parallel
_RANGES = 16


class Fetching:
    """One call of :func:`ray_anystorage.transfer.engine.download`."""

    def __init__(self, session: Session, files: Sequence[Incoming], *, durable: bool) -> None:
        self._session = session
        chunks = max(1, min(_MOST_CHUNKS, sum(file.size for file in files) // (_RANGES * CHUNK_BYTES)))
        self._files = sorted((_File(session, f, chunks, durable) for f in files), key=lambda file: -file.file.size)

    def run(self) -> None:
        """Fetch all; every target is there, whole and verified, when this returns."""
        session = self._session
        try:
            threads = session.threads(sum(len(file.parts) for file in self._files))
            run_tasks(self._tasks(), threads, session.cancel, session.budget.wanted)
        finally:
            for file in self._files:
                file.clean()

    def _tasks(self) -> Iterator[Task]:
        for file in self._files:
            yield from (partial(file.fetch, part) for part in file.parts)


class _File:
    """One file under way."""

    def __init__(self, session: Session, file: Incoming, chunks: int, durable: bool) -> None:
        check_key(file.key)
        self.file = file
        self.parts = split(file.size, chunks=chunks)
        self._session = session
        self._durable = durable
        self._temporary = os.path.join(os.path.dirname(file.target), f".anystorage-{secrets.token_hex(8)}.part")
        self._descriptor = -1
        self._chunks: dict[int, list[str]] = {}
        self._lock = threading.Lock()

    def fetch(self, part: Part) -> None:
        """Fetch, verify and write one range; the one that ends last gives the file its name."""
        descriptor, chunks = self._opened(), []
        if part.size:
            with self._session.buffer(PIECE_BYTES) as scratch:
                transfer = _Range(self._session, self.file, part, descriptor, memoryview(scratch))
                self._session.persist(transfer.fetch)
            chunks = transfer.chunks
        with self._lock:
            self._chunks[part.index] = chunks
            complete = len(self._chunks) == len(self.parts)
        if complete:
            self._finish()

    def clean(self) -> None:
        """Close the file, and remove it if it has no name yet."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self._temporary)

    def _opened(self) -> int:
        with self._lock:
            if self._descriptor < 0:
                os.makedirs(os.path.dirname(self._temporary) or ".", exist_ok=True)
                self._descriptor = os.open(self._temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
                if len(self.parts) > 1:
                    preallocate(self._descriptor, self.file.size)
            return self._descriptor

    def _finish(self) -> None:
        file = self.file
        chunks = (chunk for index in range(len(self.parts)) for chunk in self._chunks[index])
        if file.digest is not None and file_digest(file.size, chunks) != file.digest:
            raise mismatch(self._session, file, "the digest of the whole file")
        if self._durable:
            os.fsync(self._descriptor)
        os.replace(self._temporary, file.target)
        if self._durable:
            sync_directory(os.path.dirname(file.target) or ".")
        os.close(self._descriptor)
        self._descriptor = -1


class _Range:
    """One range, written as it comes; what breaks off, or is not what was stored, goes on from the last good chunk.

    Attributes
    ----------
    chunks
        The digests of the chunks that are there.
    """

    def __init__(self, session: Session, file: Incoming, part: Part, descriptor: int, scratch: memoryview) -> None:
        self._session, self._file, self._part = session, file, part
        self._descriptor, self._scratch = descriptor, scratch
        self.chunks: list[str] = []
        self._hasher, self._at = ChunkHasher(), part.offset
        self._wrong = 0

    def fetch(self) -> None:
        """Fetch what is not there yet."""
        end = self._part.offset + self._part.size
        self._hasher, self._at = ChunkHasher(), self._part.offset + len(self.chunks) * CHUNK_BYTES
        self._session.store.read_pieces(self._file.key, self._at, end - self._at, self._scratch, self._take)
        self._compare(self._hasher.rest())

    def _take(self, piece: memoryview) -> None:
        self._session.cancel.check()
        digests = self._hasher.update(piece)
        _write(self._descriptor, piece, self._at)
        self._at += len(piece)
        self._compare(digests)

    def _compare(self, digests: list[str]) -> None:
        for digest in digests:
            index = self._part.offset // CHUNK_BYTES + len(self.chunks)
            if self._file.chunks is not None and digest != self._file.chunks[index]:
                self._fail(index)
            self._wrong = 0
            self.chunks.append(digest)
            self._session.advance(min(CHUNK_BYTES, self._file.size - index * CHUNK_BYTES))

    def _fail(self, index: int) -> NoReturn:
        self._wrong += 1
        error = mismatch(self._session, self._file, f"chunk {index}, which begins at byte {index * CHUNK_BYTES}")
        raise error if self._wrong == _FETCHES else Transient(error)


def mismatch(session: Session, file: Incoming, what: str) -> DigestMismatchError:
    """The error for a file that is not what was stored."""
    return DigestMismatchError(
        f"{file.key} is not what was stored there: {what} is wrong",
        tier="artifact",
        place=f"{session.store.uri}/{file.key}",
        tried=f"fetch it to {file.target} and compare digests",
        remedy="restore an older checkpoint, or store this one again from a good copy",
    )


def _write(descriptor: int, view: memoryview, offset: int) -> None:
    written = 0
    while written < len(view):
        written += os.pwrite(descriptor, view[written:], offset + written)
