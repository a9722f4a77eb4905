"""A directory on a mount: temporary file, ``fsync`` and rename, so that a name stands for whole durable bytes only.

The names themselves are durable after ``settle``, which syncs every directory that changed, once.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from ray_anystorage.errors import ObjectMissingError, ShortReadError, SourceChangedError, StorageError
from ray_anystorage.transfer.budget import Cancel
from ray_anystorage.transfer.digest import BytesLike
from ray_anystorage.transfer.disk import can_reflink, sync_directory
from ray_anystorage.transfer.posix_upload import PosixUpload, etag_of
from ray_anystorage.transfer.store import CHANGED, Counters, Limits, Take, check_key
from ray_anystorage.transfer.temporary import is_temporary

_PIECE_BYTES = 1 << 20  # nothing has to be waited for, and each piece is a turn that threads take with each other
_NOT_THERE = (errno.ENOENT, errno.ENOTDIR, errno.ENXIO)  # the last is a socket's
_REQUESTS = 4  # NFS servers limit connections, and more writers gain nothing on a disk


class PosixStore:
    """Files below ``root``, which is made when something is written.

    Parameters
    ----------
    root
        An absolute path.
    requests
        Readers or writers at once.
    alive
        Called at each step of what may take long: another folder or file was looked at, another piece was read, more of
        a large file that is to be committed has got to the disk.
    cancel
        Once it is set a walk ends, and nothing takes its name any more: a write that the mount held until now may be
        older than what others have put there since.
    unreadable
        Is told why a walk cannot look into a folder: it raises that, or the walk passes over the folder.
    """

    def __init__(
        self,
        root: str,
        *,
        requests: int = _REQUESTS,
        alive: Callable[[], None] = lambda: None,
        cancel: Cancel | None = None,
        unreadable: Callable[[OSError], None] | None = None,
    ) -> None:
        self.root = os.path.abspath(root)
        self.limits = Limits(
            single_bytes=0,
            max_parts=1 << 30,
            requests=requests,
            tiny_requests=requests,
            in_pieces=True,
            piece_bytes=_PIECE_BYTES,
        )
        self.counters = Counters()
        self.alive = alive
        self._unreadable = unreadable or _raise
        self._cancel = cancel or Cancel()
        self._unsettled: set[str] = set()
        self._clones: bool | None = None
        self._lock = threading.Lock()

    @property
    def uri(self) -> str:
        """The root."""
        return self.root

    def write_small(self, key: str, data: BytesLike) -> str | None:
        """Replace a file atomically; unlike large ones, its name is durable too."""
        return self.write_unless(self._cancel, key, data)

    def write_unless(self, cancel: Cancel, key: str, data: BytesLike) -> str | None:
        """As ``write_small``; ``TransferCancelledError`` where the flag is set before the file has its name."""
        upload = PosixUpload(self, self.path(key), len(data), cancel)
        try:
            upload.part(0, 0, data)
            etag = upload.commit()
        except BaseException:
            upload.abort()
            raise
        self.settle()
        return etag

    def begin(self, key: str, size: int) -> PosixUpload:
        """A preallocated temporary file beside the target."""
        return PosixUpload(self, self.path(key), size, self._cancel)

    def read_range(self, key: str, offset: int, into: memoryview) -> None:
        """Fill the buffer from a file."""
        with self._reading(key) as descriptor:
            filled = 0
            while filled < len(into):
                count = os.preadv(descriptor, [into[filled : filled + _PIECE_BYTES]], offset + filled)
                if count == 0:
                    raise self._short(key, offset, filled, len(into))
                filled += count
                self._step()
        self.counters.add(fetched=filled, requests=0)

    def read_pieces(
        self, key: str, offset: int, size: int, scratch: memoryview, take: Take, etag: str | None = None
    ) -> None:
        """Hand on a range of a file."""
        filled = 0
        with self._reading(key) as descriptor:
            if etag is not None and etag_of(os.fstat(descriptor)) != etag:
                raise self._problem(SourceChangedError, key, CHANGED)
            while filled < size:
                count = os.preadv(descriptor, [scratch[: size - filled]], offset + filled)
                if count == 0:
                    raise self._short(key, offset, filled, size)
                filled += count
                take(scratch[:count])
        self.counters.add(fetched=filled, requests=0)

    def size(self, key: str) -> int:
        """Bytes of a file."""
        with self._reading(key) as descriptor:
            return self._status(key, descriptor).st_size

    def etag(self, key: str) -> str | None:
        """Which file it is and when it was written: what is stored here is replaced, never written into."""
        with self._reading(key) as descriptor:
            return etag_of(self._status(key, descriptor))

    def list(self, prefix: str) -> Iterator[tuple[str, int]]:
        """Regular files below a folder, temporary ones left out; sockets, pipes and devices are no files."""
        yield from ((key, size) for key, size, _ in self.tagged(prefix))

    def tagged(self, prefix: str) -> Iterator[tuple[str, int, str | None]]:
        """The same, with their etags."""
        for path in self._walk(prefix):
            if not is_temporary(os.path.basename(path)):
                with contextlib.suppress(FileNotFoundError):  # removed meanwhile
                    status = os.stat(path)
                    if stat.S_ISREG(status.st_mode):
                        yield os.path.relpath(path, self.root), status.st_size, etag_of(status)

    def delete(self, keys: Iterable[str]) -> None:
        """Remove files, and the folders that this leaves empty."""
        for key in keys:
            self.counters.add()
            path = self.path(key)
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)
            with contextlib.suppress(OSError):  # not empty, or not there
                while (path := os.path.dirname(path)) != self.root:
                    os.rmdir(path)

    def copies(self, size: int) -> bool:
        """Whether the file system can reflink; any other way of copying may read and write all of it over the wire."""
        if self._clones is None:
            self._clones = can_reflink(self.root)
        return self._clones

    def copy(self, source: str, key: str, etag: str | None = None, size: int | None = None) -> str | None:
        """Reflink where the file system can, else copy inside the kernel; a link would share later writes."""
        with self._reading(source) as descriptor:
            if etag is not None and etag_of(os.fstat(descriptor)) != etag:
                raise self._problem(SourceChangedError, source, CHANGED)
            upload = self.begin(key, os.fstat(descriptor).st_size)
            try:
                upload.copy_from(descriptor)
                return upload.commit()
            except BaseException:
                upload.abort()
                raise

    def remove_empty(self, prefix: str) -> None:
        """Remove a folder that holds nothing but folders."""
        for folder, _, _ in os.walk(self.path(prefix), topdown=False):
            self._step()
            with contextlib.suppress(OSError):  # something is in it
                os.rmdir(folder)

    def settle(self) -> None:
        """Sync the directories that got new names since the last time."""
        with self._lock:
            directories, self._unsettled = self._unsettled, set()
        for directory in sorted(directories):
            with contextlib.suppress(FileNotFoundError):  # deleted meanwhile
                sync_directory(directory)

    def unfinished(self, prefix: str) -> Iterator[tuple[str, str]]:
        """Temporary files: key and token are the same, the path below the root."""
        for path in self._walk(prefix):
            if is_temporary(os.path.basename(path)):
                key = os.path.relpath(path, self.root)
                yield key, key

    def discard(self, key: str, token: str) -> None:
        """Remove a temporary file."""
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self.path(token))

    def close(self) -> None:
        """Nothing is open."""

    def path(self, key: str) -> str:
        """The absolute path of a key."""
        return os.path.join(self.root, check_key(key))

    def make_folder(self, path: str) -> None:
        """Make a directory and those above it, and remember what has to be synced."""
        missing = path
        while not os.path.isdir(missing):
            missing = os.path.dirname(missing)
            self._remember(missing)
        os.makedirs(path, exist_ok=True)
        self._remember(path)

    def create(self, path: str) -> int:
        """Open a new file, in a folder that is made where it is not there."""
        flags, folder = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, os.path.dirname(path)
        try:
            descriptor = os.open(path, flags, 0o666)
        except FileNotFoundError:
            self.make_folder(folder)
            return os.open(path, flags, 0o666)
        self._remember(folder)
        return descriptor

    def _remember(self, directory: str) -> None:
        with self._lock:
            self._unsettled.add(directory)

    def _walk(self, prefix: str) -> Iterator[str]:
        self.counters.add()
        top = self.path(prefix.strip("/")) if prefix.strip("/") else self.root
        if os.path.isfile(top):
            yield top
        for folder, _, names in os.walk(top, onerror=self._not_walked):
            self._step()
            for name in names:
                yield os.path.join(folder, name)
                self._step()

    def _not_walked(self, error: OSError) -> None:
        if not isinstance(error, (FileNotFoundError, NotADirectoryError)):
            self._unreadable(error)

    def _step(self) -> None:
        self._cancel.check()
        self.alive()

    @contextlib.contextmanager
    def _reading(self, key: str) -> Iterator[int]:
        try:
            descriptor = os.open(self.path(key), os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)  # a pipe has nobody there
        except OSError as error:
            if error.errno not in _NOT_THERE:
                raise
            raise self._problem(ObjectMissingError, key, "there is no such file") from error
        self.counters.add()
        try:
            yield descriptor
        finally:
            os.close(descriptor)

    def _status(self, key: str, descriptor: int) -> os.stat_result:
        status = os.fstat(descriptor)
        if not (stat.S_ISREG(status.st_mode) or stat.S_ISDIR(status.st_mode)):
            raise self._problem(ObjectMissingError, key, "it is no file but a socket, a pipe or a device")
        return status

    def _short(self, key: str, offset: int, got: int, wanted: int) -> StorageError:
        reason = f"the file ends at byte {offset + got}, {wanted} bytes from {offset} were asked for"
        return self._problem(ShortReadError, key, reason)

    def _problem(self, kind: type[StorageError], key: str, reason: str) -> StorageError:
        place = f"{self.root}/{key}"
        remedy = "look who removes or shortens files there; of a checkpoint, restore an older one"
        return kind(reason, tier="shared", place=place, tried=f"read {place}", remedy=remedy)

    def __reduce__(self) -> tuple[Any, ...]:
        return PosixStore, (self.root,)


def _raise(error: OSError) -> None:
    raise error
