"""What the file system is asked for beyond reading and writing: space, shared blocks, durable names, early writing."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import tempfile
from collections.abc import Callable

_SYNC_FILE_RANGE_WRITE, _SYNC_FILE_RANGE_WAITING = 2, 1 | 2 | 4  # linux/fs.h
_FICLONE = 0x40049409  # linux/fs.h
_CANNOT = (errno.EOPNOTSUPP, errno.ENOTTY, errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EPERM, errno.EBADF)
_STEP_BYTES = 1 << 20  # where the kernel does not copy
_WRITE_BACK_BYTES = 16 << 20  # between two signs of life
_NO_DIRECTORY_FSYNC = frozenset({errno.EINVAL, errno.ENOTSUP, errno.EBADF})
_libc = ctypes.CDLL(None, use_errno=True)


def preallocate(descriptor: int, size: int) -> None:
    """Reserve the space of a file, so that a full disk fails now and not in the middle; ``size`` in bytes.

    Raises
    ------
    OSError
        There is no space.
    """
    if size == 0:
        return
    # Not posix_fallocate: where NFS or FUSE cannot reserve, the C library would write into every block.
    if _libc.fallocate(descriptor, 0, ctypes.c_int64(0), ctypes.c_int64(size)) == 0:
        return
    if (number := ctypes.get_errno()) not in (errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS):
        raise OSError(number, os.strerror(number))
    os.ftruncate(descriptor, size)


def copy_content(source: int, target: int, size: int) -> None:
    """Give an empty file the first ``size`` bytes of another: reflinked where the file system can, else copied.

    Either way a later write into one does not show in the other.

    Raises
    ------
    OSError
        The one cannot be read, or the other not be written; ``ENODATA`` where it ends before ``size``.
    """
    copied = 0
    if size == os.fstat(source).st_size and reflink(source, target):
        return
    while copied < size:
        count = _copy_range(source, target, size - copied, copied)
        if count == 0:
            raise OSError(errno.ENODATA, f"the file ended at byte {copied} while it was copied, of {size} before")
        copied += count


def reflink(source: int, target: int) -> bool:
    """Make a file share all blocks of another until one of them is written; false where the file system cannot.

    Raises
    ------
    OSError
        It can, and failed.
    """
    try:
        fcntl.ioctl(target, _FICLONE, source)
    except OSError as error:
        if error.errno not in _CANNOT:
            raise
        return False
    return True


def can_reflink(folder: str) -> bool:
    """Whether files in a folder can share blocks; tried with two files that have no name."""
    try:
        with tempfile.TemporaryFile(dir=folder) as one, tempfile.TemporaryFile(dir=folder) as other:
            return reflink(one.fileno(), other.fileno())
    except OSError:  # a folder that takes no file takes no reflink either
        return False


def _copy_range(source: int, target: int, size: int, offset: int) -> int:
    try:
        if count := os.copy_file_range(source, target, size, offset, offset):
            return count
    except OSError as error:
        if error.errno not in _CANNOT:
            raise
    # Some file systems have the kernel copy nothing, and say so without an error.
    return os.pwrite(target, os.pread(source, min(size, _STEP_BYTES), offset), offset)


def sync_directory(path: str) -> None:
    """Make the names in a directory durable; file systems that cannot be asked for it are passed over."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in _NO_DIRECTORY_FSYNC:
            raise
    finally:
        os.close(descriptor)


def start_writing_back(descriptor: int, offset: int, size: int) -> None:
    """Let the kernel write a range of a file now, while the rest is still coming, so that ``fsync`` finds less to do.

    A hint: where the file system takes none, and where a write fails, nothing is said here, and ``fsync`` will.
    """
    _sync_range(descriptor, offset, size, _SYNC_FILE_RANGE_WRITE)


def write_back(descriptor: int, size: int, wrote: Callable[[], None]) -> None:
    """Have the kernel write a large file, one step after the other; ``fsync`` must still follow.

    It may take long to drain to a slow disk or server, and ``fsync`` says nothing meanwhile. A small one is one step.

    Parameters
    ----------
    wrote
        Called after each step.

    Raises
    ------
    OSError
        A write failed. ``fsync`` would not say so again: a file's descriptor hears of each failure once.
    """
    for offset in range(0, size if size > _WRITE_BACK_BYTES else 0, _WRITE_BACK_BYTES):
        if _sync_range(descriptor, offset, min(_WRITE_BACK_BYTES, size - offset), _SYNC_FILE_RANGE_WAITING) != 0:
            code = ctypes.get_errno()
            if code in (*_CANNOT, errno.ESPIPE):
                return
            raise OSError(code, os.strerror(code))
        wrote()


def _sync_range(descriptor: int, offset: int, size: int, flags: int) -> int:
    return int(_libc.sync_file_range(descriptor, ctypes.c_int64(offset), ctypes.c_int64(size), flags))
