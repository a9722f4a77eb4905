"""Files that appear whole or not at all: written beside their place, made durable, then renamed."""

from __future__ import annotations

import contextlib
import errno
import functools
import io
import os
import secrets
from collections.abc import Callable

from ray_anystorage.transfer.disk import sync_directory

TEMPORARY_SUFFIX = ".anystorage-tmp"
_STALE_AFTER = 600.0  # seconds; a younger one may belong to a controller that is alive
_REPLAY_BYTES = 16 << 20  # kept in memory so that a write-back that found no space can be done once more


class AtomicFile(io.RawIOBase):
    """A writable file whose content takes its place at :meth:`close`, after an fsync of file and directory.

    A write that failed, or :meth:`abort`, leaves what was there before.

    Parameters
    ----------
    path
        Where the content should be in the end; the directory exists.
    on_full
        Called once when a write finds no space; returns true when it made room, and the write is tried again.
    """

    def __init__(self, path: str, on_full: Callable[[], bool] | None = None) -> None:
        super().__init__()
        self._path = path
        self._on_full = on_full
        directory, name = os.path.split(path)
        self._temporary = os.path.join(directory, f".{name}.{secrets.token_hex(6)}{TEMPORARY_SUFFIX}")
        self._replay: bytearray | None = bytearray()
        self._failed = False
        self._fd = -1
        self._fd = self._with_room(self._open)

    def writable(self) -> bool:
        return True

    @property
    def failed(self) -> bool:
        """True when the old content stays."""
        return self._failed

    def write(self, data: bytes) -> int:  # type: ignore[override]
        """Write all of ``data``; an ``OSError`` here makes the later close keep the old content."""
        view = memoryview(data).cast("B")
        if self._replay is not None:
            if len(self._replay) + len(view) <= _REPLAY_BYTES:
                self._replay.extend(view)
            else:
                self._replay = None
        try:
            self._write_all(view)
        except OSError:
            self._failed = True
            raise
        return len(view)

    def close(self) -> None:
        """Make the content durable and put it in its place; drop it where a write had failed."""
        if self.closed:
            return
        try:
            if not self._failed:
                self._commit()
        finally:
            self._drop()
            super().close()

    def abort(self) -> None:
        """Drop what was written."""
        self._failed = True
        self.close()

    def abandon(self) -> None:
        """Keep the old content, whatever is still written or woken up; touches nothing on disk."""
        self._failed = True

    def __del__(self) -> None:
        # io's own would close, and so commit what nobody said was complete.
        self._failed = True
        super().__del__()

    def _commit(self) -> None:
        try:
            os.fsync(self._fd)
        except OSError as error:
            # After a failed fsync the kernel may have dropped the pages: only writing again helps.
            if not is_full(error) or self._replay is None or self._on_full is None or not self._on_full():
                raise
            self._drop()
            self._fd = self._open()
            self._write_all(memoryview(self._replay))
            os.fsync(self._fd)
        if self._failed:  # given up on while the fsync hung
            return
        os.replace(self._temporary, self._path)
        sync_directory(os.path.dirname(self._path))

    def _open(self) -> int:
        return os.open(self._temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)

    def _write_all(self, view: memoryview) -> None:
        done = 0
        while done < len(view):
            done += self._with_room(functools.partial(self._write_some, view[done:]))

    def _write_some(self, data: memoryview) -> int:
        return os.write(self._fd, data)

    def _drop(self) -> None:
        fd, self._fd = self._fd, -1  # before a close that may hang
        if fd >= 0:
            os.close(fd)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self._temporary)

    def _with_room(self, action: Callable[[], int]) -> int:
        try:
            return action()
        except OSError as error:
            if not is_full(error) or self._on_full is None or not self._on_full():
                raise
        return action()


def is_full(error: OSError) -> bool:
    """True for "no space left" and "quota exceeded"."""
    return error.errno in (errno.ENOSPC, errno.EDQUOT)


def write_atomically(path: str, content: bytes, on_full: Callable[[], bool] | None = None) -> None:
    """Replace the file's content as a whole; an ``OSError`` leaves the old content."""
    file = AtomicFile(path, on_full)
    try:
        file.write(content)
    except OSError:
        file.abort()
        raise
    file.close()


def sweep_temporaries(directory: str) -> list[str]:
    """Remove what crashed writers left over ten minutes ago, by the clock of the mount; returns the names."""
    removed = []
    os.utime(directory)
    now = os.stat(directory).st_mtime
    for entry in os.scandir(directory):
        if entry.name.startswith(".") and entry.name.endswith(TEMPORARY_SUFFIX):
            with contextlib.suppress(FileNotFoundError):
                if now - entry.stat(follow_symlinks=False).st_mtime > _STALE_AFTER:
                    os.unlink(entry.path)
                    removed.append(entry.name)
    return removed
