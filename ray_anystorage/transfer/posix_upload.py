"""One file under way on a mount: written beside its place, synced, renamed."""

from __future__ import annotations

import contextlib
import os
import threading
from typing import TYPE_CHECKING

from ray_anystorage.transfer.budget import Cancel
from ray_anystorage.transfer.digest import CHUNK_BYTES, BytesLike
from ray_anystorage.transfer.disk import copy_content, preallocate, start_writing_back, write_back
from ray_anystorage.transfer.temporary import temporary_beside

if TYPE_CHECKING:
    from ray_anystorage.transfer.posix_store import PosixStore


class PosixUpload:
    """See :class:`ray_anystorage.transfer.store.Upload`."""

    def __init__(self, store: PosixStore, path: str, size: int, cancel: Cancel) -> None:
        self._store, self._path, self._size, self._cancel = store, path, size, cancel
        self._temporary = temporary_beside(path)
        self._descriptor = -1
        self._lock = threading.Lock()

    def part(self, index: int, offset: int, data: BytesLike) -> None:
        """Write in place."""
        descriptor, view, written = self._opened(), memoryview(data), 0
        self._store.counters.add(sent=len(view))
        while written < len(view):
            written += os.pwrite(descriptor, view[written:], offset + written)
        if (end := offset + written) // CHUNK_BYTES > offset // CHUNK_BYTES:
            start_writing_back(descriptor, end // CHUNK_BYTES * CHUNK_BYTES - CHUNK_BYTES, CHUNK_BYTES)

    def copy_from(self, source: int) -> None:
        """Take all of an open file."""
        copy_content(source, self._opened(allocate=False), self._size)

    def cut(self, size: int) -> None:
        """Give back what was reserved for more."""
        self._size = size
        os.ftruncate(self._opened(allocate=False), size)

    def commit(self) -> str | None:
        """Sync the bytes, then give them their name."""
        descriptor = self._opened()
        write_back(descriptor, self._size, self._store.alive)
        os.fsync(descriptor)
        etag = etag_of(os.fstat(descriptor))
        self._cancel.check()  # given up on while the mount hung
        os.replace(self._temporary, self._path)
        os.close(descriptor)
        self._descriptor = -1
        return etag

    def abort(self) -> None:
        """Remove the temporary file."""
        with self._lock:
            if self._descriptor >= 0:
                os.close(self._descriptor)
                self._descriptor = -1
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(self._temporary)

    def _opened(self, *, allocate: bool = True) -> int:
        with self._lock:
            if self._descriptor < 0:
                self._descriptor = self._store.create(self._temporary)
                if allocate and self._size > CHUNK_BYTES:
                    preallocate(self._descriptor, self._size)
            return self._descriptor


def etag_of(status: os.stat_result) -> str:
    """Which file it is and when it was written."""
    return f"{status.st_ino:x}-{status.st_mtime_ns:x}-{status.st_size:x}"
