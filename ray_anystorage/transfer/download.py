"""Fetching many files at once: ranges in parallel, verified, written in place under a temporary name."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial

from ray_anystorage.errors import DigestMismatchError, ObjectMissingError, ShortReadError, SourceChangedError
from ray_anystorage.transfer.damage import Suspicion
from ray_anystorage.transfer.digest import CHUNK_BYTES, ChunkHasher, chunk_count, chunk_digest, file_digest
from ray_anystorage.transfer.disk import preallocate, start_writing_back
from ray_anystorage.transfer.files import Incoming, Part
from ray_anystorage.transfer.leaving_out import LeavingOut
from ray_anystorage.transfer.pace import Stride
from ray_anystorage.transfer.partial import Done, Partial
from ray_anystorage.transfer.posix_upload import etag_of
from ray_anystorage.transfer.session import Session
from ray_anystorage.transfer.store import check_key
from ray_anystorage.transfer.temporary import remove_temporary, temporary_beside
from ray_anystorage.transfer.workers import Task, run_tasks

Fetched = Callable[[Incoming, str], None]
Changed = Callable[[Incoming], None]
_CHANGED = (SourceChangedError, ObjectMissingError, ShortReadError)


class Fetching:
    """One call of :func:`ray_anystorage.transfer.engine.download`."""

    def __init__(
        self,
        session: Session,
        files: Sequence[Incoming],
        on_fetched: Fetched | None = None,
        on_changed: Changed | None = None,
        *,
        durable: bool = False,
    ) -> None:
        self._session = session
        made = (_File(session, file, on_fetched, on_changed, durable=durable) for file in files)
        self._files = sorted(made, key=lambda file: -file.file.size)
        self._largest = self._files[0].file.size if self._files else 0

    def run(self) -> None:
        """Fetch all; every target is there, whole and verified, when this returns."""
        session = self._session
        try:
            threads = session.threads(sum(file.missing for file in self._files), self._largest)
            run_tasks(self._tasks(), threads, session.cancel, session.budget.wanted)
        finally:
            for file in self._files:
                file.clean()

    def _tasks(self) -> Iterator[Task]:
        # Only one buffer size per call: whatever one file lets go of, the next can take.
        stride, block = Stride(), min(self._session.store.limits.piece_bytes, self._largest)
        for file in self._files:
            for part in file.cut(stride):
                yield partial(file.fetch, part, stride, block)


class _File:
    """One file under way; ``missing`` counts its chunks that are not there, or the file itself where it has none."""

    def __init__(
        self,
        session: Session,
        file: Incoming,
        on_fetched: Fetched | None,
        on_changed: Changed | None,
        *,
        durable: bool,
    ) -> None:
        check_key(file.key)
        self.file = file
        self._durable = durable
        self.missing = max(1, chunk_count(file.size))
        self._session = session
        self._on_fetched, self._on_changed = on_fetched, on_changed
        partial = session.partial
        self._partial = (
            partial if partial is not None and file.size > CHUNK_BYTES and partial.covers(file.key) else None
        )
        self._temporary = temporary_beside(file.target) if partial is None else partial.temporary(file.target)
        self._descriptor = -1
        self._lock = threading.Lock()
        self._chunks: dict[int, str] = {}
        self._noted = 0  # chunks from the first to the last that the record has
        self._leaving_out = LeavingOut(self._take_back)
        if self._partial is not None:
            self._resume(self._partial)
        elif partial is not None:  # it was large before, or could be told from others
            remove_temporary(partial.useless(file.key))
            partial.end(file.key)

    def cut(self, stride: Stride) -> Iterator[Part]:
        """The ranges to fetch, each as large as is right when it is asked for."""
        at, size = 0, self.file.size
        while at < size and not self._leaving_out.done():
            if at // CHUNK_BYTES in self._chunks:
                at += CHUNK_BYTES
                continue
            chunks = stride.chunks(chunk_count(size - at), self._session.budget.limit)
            chunks = next((n for n in range(1, chunks) if at // CHUNK_BYTES + n in self._chunks), chunks)
            part = Part(at // CHUNK_BYTES, at, min(chunks * CHUNK_BYTES, size - at))
            yield part
            at += part.size
        if size == 0:
            yield Part(0, 0, 0)

    def fetch(self, part: Part, stride: Stride, block: int) -> None:
        """Fetch, verify and write one range; the one that ends last gives the file its name, unless it is left out."""
        if self._on_changed is None:
            self._fetch(part, stride, block)
        else:
            tell = partial(self._on_changed, self.file)
            self._leaving_out.unless(_CHANGED, partial(self._fetch, part, stride, block), tell)

    def _fetch(self, part: Part, stride: Stride, block: int) -> None:
        descriptor = self._opened()
        with self._session.buffer(block) as scratch:
            transfer = _Range(self._session, self.file, part, descriptor, memoryview(scratch), self._note)
            if part.size:
                stride.took(part.size, self._session.persist(transfer.fetch))
        with self._lock:
            self._chunks.update(enumerate(transfer.chunks, part.index))
            self.missing -= max(1, len(transfer.chunks))
            complete = self.missing == 0
        if complete:
            self._finish()

    def clean(self) -> None:
        """Close the file; one without a name is removed, or cut to what the next call goes on with."""
        if self._descriptor >= 0:
            if self._noted:  # what was reserved for the rest may be what others lack
                os.ftruncate(self._descriptor, min(self.file.size, self._noted * CHUNK_BYTES))
            os.close(self._descriptor)
            self._descriptor = -1
            if not self._noted:
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(self._temporary)

    def _take_back(self) -> None:
        """The object is not what it was when it was listed: nothing of it stays."""
        self._noted = 0
        if self._partial is not None:
            self._partial.drop(self.file.key)
        self.clean()

    def _note(self, index: int, digest: str) -> None:
        """A chunk is there; its digest was compared, where there is one to compare it with."""
        if self._durable:
            start_writing_back(self._descriptor, index * CHUNK_BYTES, CHUNK_BYTES)
        if self._partial is not None:
            self._partial.note(self.file.key, index, Done((digest,)))
            with self._lock:
                self._noted = max(self._noted, index + 1)

    def _resume(self, partial: Partial) -> None:
        """Take up the temporary file of an earlier call, as far as it holds what its record says."""
        known = partial.known(self.file.key)
        if known is None or os.path.dirname(known.token) != os.path.dirname(self._temporary):
            remove_temporary(known.token if known else partial.useless(self.file.key))
            partial.begin(self.file.key, self._temporary)
            return
        self._temporary = known.token
        noted = {index: done.chunks[0] for index, done in known.parts.items() if done.chunks}
        try:
            with open(self._temporary, "rb", buffering=0) as file:
                for index, chunk in sorted(noted.items()):
                    held = os.pread(file.fileno(), CHUNK_BYTES, index * CHUNK_BYTES)
                    if chunk_digest(held) == chunk:
                        self._chunks[index] = chunk
                        self._noted = index + 1
                        self._session.advance(len(held))
        except FileNotFoundError:
            self._chunks.clear()
        if len(self._chunks) == self.missing:  # it was cut off before it had its name: something has to be fetched
            self._chunks.popitem()
        self.missing -= len(self._chunks)

    def _opened(self) -> int:
        with self._lock:
            if self._descriptor < 0:
                # Where a call goes on with what another did, its name is known, and may be there.
                new = os.O_EXCL if self._session.partial is None else os.O_TRUNC
                self._descriptor = _create(self._temporary, 0 if self._partial is not None else new)
                if self._partial is not None:  # what is there may be of a longer one
                    os.ftruncate(self._descriptor, self.file.size)
                if self.file.size > CHUNK_BYTES:
                    preallocate(self._descriptor, self.file.size)
            return self._descriptor

    def _finish(self) -> None:
        file = self.file
        chunks = (chunk for _, chunk in sorted(self._chunks.items()))
        if file.digest is not None and file_digest(file.size, chunks) != file.digest:
            raise mismatch(self._session, file, "the digest of the whole file")
        if self._durable:
            os.fsync(self._descriptor)
        # Before the name, which may soon be another file's.
        etag = etag_of(os.fstat(self._descriptor)) if self._on_fetched is not None else ""
        os.replace(self._temporary, file.target)
        os.close(self._descriptor)
        self._descriptor = -1
        if self._partial is not None:
            self._partial.end(file.key)
        if self._on_fetched is not None:
            self._on_fetched(file, etag)


class _Range:
    """One range, written as it comes; what breaks off, or is not what was stored, goes on from the last good chunk.

    Attributes
    ----------
    chunks
        The digests of the chunks that are there.
    """

    def __init__(
        self,
        session: Session,
        file: Incoming,
        part: Part,
        descriptor: int,
        scratch: memoryview,
        note: Callable[[int, str], None],
    ) -> None:
        self._note = note
        self._session, self._file, self._part = session, file, part
        self._descriptor, self._scratch = descriptor, scratch
        self.chunks: list[str] = []
        self._hasher, self._at = ChunkHasher(), part.offset
        self._suspicion = Suspicion()

    def fetch(self) -> float:
        """Fetch what is not there yet; how many seconds that took."""
        began = time.monotonic()
        end = self._part.offset + self._part.size
        self._hasher, self._at = ChunkHasher(), self._part.offset + len(self.chunks) * CHUNK_BYTES
        size, etag = end - self._at, self._file.etag
        self._session.store.read_pieces(self._file.key, self._at, size, self._scratch, self._take, etag)
        self._compare(self._hasher.rest())
        return time.monotonic() - began

    def _take(self, piece: memoryview) -> None:
        self._session.cancel.check()
        digests = self._hasher.update(piece)
        _write(self._descriptor, piece, self._at)
        self._at += len(piece)
        if self._part.size > len(self._scratch):
            self._session.budget.moved(len(piece) / CHUNK_BYTES)
        self._compare(digests)

    def _compare(self, digests: list[str]) -> None:
        for digest in digests:
            index = self._part.offset // CHUNK_BYTES + len(self.chunks)
            if self._file.chunks is not None and self._file.chunks[index : index + 1] != (digest,):
                what = f"chunk {index}, which begins at byte {index * CHUNK_BYTES}"
                self._suspicion.of(digest, mismatch(self._session, self._file, what))
            self._suspicion = Suspicion()
            self.chunks.append(digest)
            self._note(index, digest)
            self._session.advance(min(CHUNK_BYTES, self._file.size - index * CHUNK_BYTES))


def mismatch(session: Session, file: Incoming, what: str) -> DigestMismatchError:
    """The error for a file that is not what was stored."""
    return DigestMismatchError(
        f"{file.key} is not what was stored there: {what} is wrong",
        tier="artifact",
        place=f"{session.store.uri}/{file.key}",
        tried=f"fetch it to {file.target} and compare digests",
        remedy="restore an older checkpoint, or store this one again from a good copy",
    )


def _create(path: str, new: int) -> int:
    """Open a file; ``new`` says what there may be of it, ``O_EXCL`` or ``O_TRUNC`` if nothing."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | new
    try:
        return os.open(path, flags, 0o666)
    except FileNotFoundError:
        os.makedirs(os.path.dirname(path), exist_ok=True)
        return os.open(path, flags, 0o666)


def _write(descriptor: int, view: memoryview, offset: int) -> None:
    written = 0
    while written < len(view):
        written += os.pwrite(descriptor, view[written:], offset + written)
