"""Sending many files at once: read, hash and send in one pass, large files in parallel parts."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Collection, Iterator, Sequence
from functools import partial

from ray_anystorage.errors import ObjectMissingError, SourceChangedError, StorageError
from ray_anystorage.transfer.budget import Cancel
from ray_anystorage.transfer.digest import chunks_of, digest_file, file_digest
from ray_anystorage.transfer.files import Outgoing, Part, Stored, split
from ray_anystorage.transfer.retry import Patience, persist
from ray_anystorage.transfer.session import Session
from ray_anystorage.transfer.store import Upload, check_key
from ray_anystorage.transfer.workers import Task, run_tasks

_ABORT_PATIENCE = Patience(attempts=5, longest_delay=0.5)


class Sending:
    """One call of :func:`ray_anystorage.transfer.engine.upload`."""

    def __init__(self, session: Session, files: Sequence[Outgoing]) -> None:
        self._session = session
        self._files = [_File(session, file) for file in files]

    def run(self, already: Collection[Stored]) -> tuple[Stored, ...]:
        """Send what is not there yet, and tell what the store then holds, in the order of the files."""
        session = self._session
        try:
            self._reuse(already)
            to_send = sorted((f for f in self._files if f.stored is None), key=lambda f: -f.file.size)
            threads = session.threads(sum(len(file.parts) for file in to_send))
            run_tasks(self._tasks(to_send), threads, session.cancel)
            session.store.settle()
        except BaseException:
            self._abort()
            raise
        return tuple(file.stored for file in self._files if file.stored is not None)

    def _reuse(self, already: Collection[Stored]) -> None:
        known: dict[int, list[Stored]] = {}
        for stored in already:
            known.setdefault(stored.size, []).append(stored)
        tasks = [partial(file.reuse, known[file.file.size]) for file in self._files if file.file.size in known]
        run_tasks(tasks, self._session.threads(len(tasks)), self._session.cancel)

    def _tasks(self, files: list[_File]) -> Iterator[Task]:
        # Only one buffer size per call: whatever one file lets go of, the next can take.
        block = max((part.size for file in files for part in file.parts), default=0)
        for file in files:
            if file.file.size <= self._session.store.limits.single_bytes:
                yield partial(file.send_whole, block)
            else:
                yield from (partial(file.send_part, part, block) for part in file.parts)

    def _abort(self) -> None:
        for file in self._files:
            file.abort()


class _File:
    """One file under way; ``stored`` is set when the store has it."""

    def __init__(self, session: Session, file: Outgoing) -> None:
        check_key(file.key)
        self.file = file
        self.parts = split(file.size, session.store.limits.max_parts)
        self.stored: Stored | None = None
        self._session = session
        self._upload: Upload | None = None
        self._chunks: dict[int, tuple[str, ...]] = {}
        self._lock = threading.Lock()

    def reuse(self, known: Collection[Stored]) -> None:
        """Take what the store holds already, under this key or another, if it is what this file holds now."""
        size, digest, chunks = digest_file(self.file.path)
        same = {stored.key for stored in known if stored.digest == digest and stored.size == size}
        store = self._session.store
        for key in sorted(same, key=lambda key: key != self.file.key):
            with contextlib.suppress(ObjectMissingError):
                if self._session.persist(partial(store.size, key)) != size:
                    continue
                if key != self.file.key:
                    self._session.persist(partial(store.copy, key, self.file.key))
                self.stored = Stored(self.file.key, size, digest, chunks, sent=False)
                self._session.advance(size)
                return

    def send_whole(self, block: int) -> None:
        """Send a small file with one request."""
        with self._session.buffer(block) as buffer:
            data = self._read(self.parts[0], buffer)
            chunks = chunks_of(data)
            self._session.persist(partial(self._session.store.write_small, self.file.key, data))
        self._done(chunks)

    def send_part(self, part: Part, block: int) -> None:
        """Send one part; the one that ends last commits."""
        upload = self._begun()
        with self._session.buffer(block) as buffer:
            data = self._read(part, buffer)
            chunks = chunks_of(data)
            self._session.persist(partial(upload.part, part.index, part.offset, data))
        self._session.advance(part.size)
        with self._lock:
            self._chunks[part.index] = chunks
            complete = len(self._chunks) == len(self.parts)
        if complete:
            self._session.persist(upload.commit)
            self._done(tuple(chunk for index in range(len(self.parts)) for chunk in self._chunks[index]), advance=False)

    def abort(self) -> None:
        """Take back what was begun and not committed. A store that fails here keeps it, for ``unfinished`` to find."""
        if self._upload is not None and self.stored is None:
            with contextlib.suppress(StorageError):
                persist(self._upload.abort, self._session.budget, Cancel(), _ABORT_PATIENCE)

    def _begun(self) -> Upload:
        with self._lock:
            if self._upload is None:
                self._upload = self._session.store.begin(self.file.key, self.file.size)
            return self._upload

    def _done(self, chunks: tuple[str, ...], *, advance: bool = True) -> None:
        file = self.file
        self.stored = Stored(file.key, file.size, file_digest(file.size, chunks), chunks)
        if advance:
            self._session.advance(file.size)

    def _read(self, part: Part, buffer: bytearray) -> bytearray | memoryview:
        view = memoryview(buffer)[: part.size]
        descriptor = os.open(self.file.path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            filled = 0
            while filled < part.size:
                count = os.preadv(descriptor, [view[filled:]], part.offset + filled)
                if count == 0:
                    raise self._shrunk(part.offset + filled)
                filled += count
        finally:
            os.close(descriptor)
        return buffer if part.size == len(buffer) else view

    def _shrunk(self, end: int) -> SourceChangedError:
        return SourceChangedError(
            f"{self.file.path} ends at byte {end}, it had {self.file.size} bytes before",
            tier="local",
            place=self.file.path,
            tried=f"read it to store it as {self.file.key}",
            remedy="leave the files of a checkpoint alone until it is saved",
        )
