"""What the file system is asked for beyond reading and writing: space, durable names, and writing back early."""

from __future__ import annotations

import ctypes
import errno
import os

_SYNC_FILE_RANGE_WRITE = 2  # linux/fs.h
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


def sync_directory(path: str) -> None:
    """Make the names in a directory durable."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def start_writing_back(descriptor: int, offset: int, size: int) -> None:
    """Let the kernel write a range of a file now, while the rest is still coming, so that ``fsync`` finds less to do.

    A hint: where the file system takes none, and where a write fails, nothing is said here, and ``fsync`` will.
    """
    _libc.sync_file_range(descriptor, ctypes.c_int64(offset), ctypes.c_int64(size), _SYNC_FILE_RANGE_WRITE)
