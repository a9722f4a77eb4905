"""One file on its way to a store: read, hashed and sent in one pass."""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial

from ray_anystorage.errors import SourceChangedError, StorageError, StoreUnavailableError
from ray_anystorage.transfer.digest import ChunkHasher, chunks_of, chunks_of_file, file_digest
from ray_anystorage.transfer.files import Outgoing, Part, Stored, split
from ray_anystorage.transfer.leaving_out import LeavingOut
from ray_anystorage.transfer.partial import Done, Partial
from ray_anystorage.transfer.retry import gave_back
from ray_anystorage.transfer.reuse import Known, same_content
from ray_anystorage.transfer.session import Session
from ray_anystorage.transfer.store import ResumableUpload, Upload, check_key

logger = logging.getLogger(__name__)

_TICK = 0.1  # seconds between looks at the cancel flag
_GONE = (errno.ENOENT, errno.ENOTDIR, errno.ESTALE)  # the last is NFS's for one that was removed while it is open


class OutgoingFile:
    """One file under way; ``stored`` is set when the store has it."""

    def __init__(self, session: Session, file: Outgoing, on_stored: Callable[[Stored], None] | None) -> None:
        check_key(file.key)
        self.file = file
        self.parts = split(file.size, session.store.limits.max_parts)
        self.stored: Stored | None = None
        self.leaving_out = LeavingOut(self.abort)
        self._session = session
        self._on_stored = on_stored
        self._upload: Upload | None = None
        self._before: dict[int, Done] = {}  # parts that an earlier call sent
        self._chunks: dict[int, tuple[str, ...]] = {}
        self._missing = 0  # the first part that is
        self._lock = threading.Condition()

    def reuse(self, known: Known) -> None:
        """Take what the store holds already, under this key or another, if it is what this file holds now."""
        key, copies = self.file.key, self._session.store.copies
        same = [held for held in same_content(self._hashed(), known) if held.key == key or copies(held.size)]
        for stored in sorted(same, key=lambda stored: stored.key != self.file.key):
            try:
                etag = self._taken(stored)
            except StoreUnavailableError:
                raise
            except StorageError as error:  # it is gone, or this store does not copy for us: it may take the bytes
                logger.debug("%s is sent: %s", self.file.key, error)
            else:
                if etag is not None:
                    digest = file_digest(stored.size, stored.chunks)  # the chunks were compared, and nothing else
                    self._is_stored(replace(stored, key=self.file.key, digest=digest, sent=False, etag=etag))
                    self._session.advance(self.file.size)
                    return

    def _hashed(self) -> Iterator[str]:
        """The chunks of what the file holds now, each of them a sign of life."""
        try:
            for chunk in chunks_of_file(self.file.path):
                self._session.cancel.check()
                self._session.advance(0)
                yield chunk
        except OSError as error:
            raise self._gone(error) from error

    def _taken(self, stored: Stored) -> str | None:
        """The etag of the object where the store still holds what it held then, which an equal size would not say."""
        store = self._session.store
        if stored.key != self.file.key:
            return self._session.persist(partial(store.copy, stored.key, self.file.key, stored.etag, stored.size))
        etag = self._session.persist(partial(store.etag, stored.key))
        return etag if etag == stored.etag else None

    def send_whole(self, block: int) -> None:
        """Send a small file with one request."""
        with self._session.buffer(block) as buffer:
            data = self._read(self.parts[0], buffer)
            chunks = chunks_of(data)
            etag = self._session.persist(partial(self._session.store.write_small, self.file.key, data))
        self._done(chunks, etag)
        self._session.advance(self.file.size)

    def send_part(self, part: Part, block: int) -> None:
        """Send one part; the one that ends last commits."""
        self._await_turn(part)  # without a buffer, which the part that all wait for needs
        if self.leaving_out.done():
            return
        upload = self._begun()
        with self._session.buffer(block) as buffer:
            if self._session.store.limits.in_pieces:
                chunks = self._session.persist(partial(self._send_in_pieces, upload, part, memoryview(buffer)))
            else:
                chunks = self._send_at_once(upload, part, buffer)
        self._session.advance(part.size)
        with self._lock:
            self._chunks[part.index] = chunks
            while self._missing in self._chunks:
                self._missing += 1
            complete = len(self._chunks) == len(self.parts)
            self._lock.notify_all()
        if complete:
            etag = self._session.persist(upload.commit)
            self._done(tuple(chunk for index in range(len(self.parts)) for chunk in self._chunks[index]), etag)

    def _await_turn(self, part: Part) -> None:
        """Wait while the part is too far ahead. Earlier parts were taken before, so some thread has each of them."""
        most = self._session.store.limits.early_bytes
        with self._lock:
            while most is not None and part.offset - self.parts[self._missing].offset > most:
                if self.leaving_out.done():
                    return
                self._session.cancel.check()
                self._lock.wait(_TICK)

    def _send_at_once(self, upload: Upload, part: Part, buffer: bytearray) -> tuple[str, ...]:
        data = self._read(part, buffer)
        chunks = chunks_of(data)
        before = self._before.get(part.index)
        if before is not None and before.chunks == chunks:
            return chunks
        self._session.persist(partial(upload.part, part.index, part.offset, data))
        if (resumable := self._resumable()) is not None:
            resumable[0].note(self.file.key, part.index, Done(chunks, resumable[1].tag(part.index)))
        return chunks

    def _send_in_pieces(self, upload: Upload, part: Part, scratch: memoryview) -> tuple[str, ...]:
        hasher, at, end = ChunkHasher(), part.offset, part.offset + part.size
        chunks: list[str] = []
        with self._opened() as descriptor:
            while at < end:
                self._session.cancel.check()
                piece = scratch[: end - at]
                self._fill(descriptor, at, piece)
                chunks += hasher.update(piece)
                upload.part(part.index, at, piece)
                at += len(piece)
        return (*chunks, *hasher.rest())

    def abort(self) -> None:
        """Take back what was begun and not committed. A store that fails here keeps it, for ``unfinished`` to find."""
        if self._upload is None or self.stored is not None:
            return
        resumable = self._resumable()
        if resumable is not None and not self.leaving_out.done():  # for the next call to go on with
            return
        if gave_back(self._upload.abort, self._session.budget):
            self._upload = None
            if resumable is not None:
                resumable[0].end(self.file.key)

    def _begun(self) -> Upload:
        with self._lock:
            if self._upload is None:
                self._upload = self._session.store.begin(self.file.key, self.file.size)
                if (resumable := self._resumable()) is not None:
                    self._before = self._resumed(*resumable)
            return self._upload

    def _resumable(self) -> tuple[Partial, ResumableUpload] | None:
        partial = self._session.partial
        if partial is not None and partial.covers(self.file.key) and isinstance(self._upload, ResumableUpload):
            return partial, self._upload
        return None

    def _resumed(self, partial: Partial, upload: ResumableUpload) -> dict[int, Done]:
        """The parts that the store still has of an earlier call's upload, which this one goes on with."""
        known = partial.known(self.file.key)
        if known is not None:
            there = self._session.persist(lambda: upload.resume(known.token))
            if there is not None:
                return {index: done for index, done in known.parts.items() if there.get(index) == done.tag}
        self._discard_useless(partial)
        partial.begin(self.file.key, self._session.persist(upload.open))
        return {}

    def _discard_useless(self, partial: Partial) -> None:
        """Take back the upload of what the file was before. A store that fails here keeps it."""
        token = partial.useless(self.file.key)
        if token is not None:
            with contextlib.suppress(StorageError):
                self._session.store.discard(self.file.key, token)

    def _done(self, chunks: tuple[str, ...], etag: str | None) -> None:
        file = self.file
        self._is_stored(Stored(file.key, file.size, file_digest(file.size, chunks), chunks, etag=etag))

    def _is_stored(self, stored: Stored) -> None:
        self.stored = stored
        if self._session.partial is not None:
            self._discard_useless(self._session.partial)  # of a file that has become a small one
            self._session.partial.end(self.file.key)
        if self._on_stored is not None:
            self._on_stored(stored)

    def _read(self, part: Part, buffer: bytearray) -> bytearray | memoryview:
        view = memoryview(buffer)[: part.size]
        with self._opened() as descriptor:
            self._fill(descriptor, part.offset, view)
        return buffer if part.size == len(buffer) else view

    @contextlib.contextmanager
    def _opened(self) -> Iterator[int]:
        try:
            descriptor = os.open(self.file.path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            raise self._gone(error) from error
        try:
            yield descriptor
        finally:
            os.close(descriptor)

    def _fill(self, descriptor: int, offset: int, view: memoryview) -> None:
        filled = 0
        while filled < len(view):
            try:
                count = os.preadv(descriptor, [view[filled:]], offset + filled)
            except OSError as error:
                raise self._gone(error) from error
            if count == 0:
                raise self._changed(
                    f"{self.file.path} ends at byte {offset + filled}, it had {self.file.size} bytes before"
                )
            filled += count

    def _gone(self, error: OSError) -> OSError:
        """What to raise for a file that cannot be read."""
        return self._changed(f"{self.file.path} is gone") if error.errno in _GONE else error

    def _changed(self, reason: str) -> SourceChangedError:
        return SourceChangedError(
            reason,
            tier="local",
            place=self.file.path,
            tried=f"read it to store it as {self.file.key}",
            remedy="leave the files of a checkpoint alone until it is saved",
        )
