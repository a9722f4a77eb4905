"""Fetching many files at once: ranges in parallel, verified, written in place under a temporary name."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import threading
from collections.abc import Iterator, Sequence
from functools import partial

from ray_anystorage.errors import DigestMismatchError
from ray_anystorage.transfer.digest import CHUNK_BYTES, chunks_of, file_digest
from ray_anystorage.transfer.files import Incoming, Part, split
from ray_anystorage.transfer.retry import Transient
from ray_anystorage.transfer.session import Session
from ray_anystorage.transfer.store import check_key
from ray_anystorage.transfer.workers import Task, run_tasks

_FETCHES = 3  # of a chunk whose digest is wrong: a bit may have flipped on the way


class Fetching:
    """One call of :func:`ray_anystorage.transfer.engine.download`."""

    def __init__(self, session: Session, files: Sequence[Incoming], *, durable: bool) -> None:
        self._session = session
        self._files = sorted((_File(session, file, durable) for file in files), key=lambda file: -file.file.size)

    def run(self) -> None:
        """Fetch all; every target is there, whole and verified, when this returns."""
        session = self._session
        try:
            threads = session.threads(sum(len(file.parts) for file in self._files))
            run_tasks(self._tasks(), threads, session.cancel)
        finally:
            for file in self._files:
                file.clean()

    def _tasks(self) -> Iterator[Task]:
        block = max((part.size for file in self._files for part in file.parts), default=0)
        for file in self._files:
            yield from (partial(file.fetch, part, block) for part in file.parts)


class _File:
    """One file under way."""

    def __init__(self, session: Session, file: Incoming, durable: bool) -> None:
        check_key(file.key)
        self.file = file
        self.parts = split(file.size, max_parts=file.size + 1)  # every chunk is a range of its own
        self._session = session
        self._durable = durable
        self._temporary = os.path.join(os.path.dirname(file.target), f".anystorage-{secrets.token_hex(8)}.part")
        self._descriptor = -1
        self._chunks: dict[int, tuple[str, ...]] = {}
        self._lock = threading.Lock()

    def fetch(self, part: Part, block: int) -> None:
        """Fetch, verify and write one range; the one that ends last gives the file its name."""
        descriptor = self._opened()
        with self._session.buffer(block) as buffer:
            view = memoryview(buffer)[: part.size]
            chunks: tuple[str, ...] = ()
            if part.size:
                chunks = self._session.persist(_Range(self._session, self.file, part, view).fetch)
                _write(descriptor, view, part.offset)
        self._session.advance(part.size)
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
        chunks = tuple(chunk for index in range(len(self.parts)) for chunk in self._chunks[index])
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
    """One range, fetched again if it is not what was stored."""

    def __init__(self, session: Session, file: Incoming, part: Part, view: memoryview) -> None:
        self._session, self._file, self._part, self._view = session, file, part, view
        self._wrong = 0

    def fetch(self) -> tuple[str, ...]:
        """Fill the view and give its chunks' digests."""
        file, part = self._file, self._part
        self._session.store.read_range(file.key, part.offset, self._view)
        chunks = chunks_of(self._view)
        first = part.offset // CHUNK_BYTES
        if file.chunks is None or chunks == file.chunks[first : first + len(chunks)]:
            return chunks
        self._wrong += 1
        error = mismatch(self._session, file, f"chunk {first}, which begins at byte {part.offset}")
        if self._wrong == _FETCHES:
            raise error
        raise Transient(error)


def mismatch(session: Session, file: Incoming, what: str) -> DigestMismatchError:
    """The error for a file that is not what was stored."""
    return DigestMismatchError(
        f"{file.key} is not what was stored there: {what} is wrong",
        tier="artifact",
        place=f"{session.store.uri}/{file.key}",
        tried=f"fetch it to {file.target} and compare digests",
        remedy="restore an older checkpoint, or store this one again from a good copy",
    )


def preallocate(descriptor: int, size: int) -> None:
    """Reserve the space of a file, so that a full disk fails now and not in the middle; ``size`` in bytes.

    Raises
    ------
    OSError
        There is no space.
    """
    if size == 0:
        return
    try:
        os.posix_fallocate(descriptor, 0, size)
    except OSError as error:
        if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS):
            raise
        os.ftruncate(descriptor, size)


def sync_directory(path: str) -> None:
    """Make the names in a directory durable."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _write(descriptor: int, view: memoryview, offset: int) -> None:
    written = 0
    while written < len(view):
        written += os.pwrite(descriptor, view[written:], offset + written)
