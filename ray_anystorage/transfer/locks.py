"""Locks between the processes of one node: ``flock`` on a folder, which ends with the process that holds it."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
from collections.abc import Iterator

_LAPS = 100  # each is one more time that the folder was removed between opening and locking it


@contextlib.contextmanager
def locked(folder: str, *, shared: bool = False, wait: bool = True) -> Iterator[None]:
    """Hold a lock on a folder, which is made where it does not exist (mode 0700).

    Whoever removes or renames the folder must hold the lock alone; those who waited for it then make a new one. Two
    locks of one process exclude each other as those of two do. The folder must be on a disk of this node: over a
    network ``flock`` may do nothing.

    Parameters
    ----------
    folder
        Absolute.
    shared
        Together with others that share it, rather than alone.
    wait
        Until the lock is free, rather than raise.

    Raises
    ------
    BlockingIOError
        The lock is taken and ``wait`` is false.
    OSError
        The folder cannot be made or opened.
    """
    descriptor = _lock(folder, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | (0 if wait else fcntl.LOCK_NB))
    holder = os.getpid()
    try:
        yield
    finally:
        try:
            if os.getpid() == holder:  # a fork shares the lock: it must not end it, and closing alone would not
                fcntl.flock(descriptor, fcntl.LOCK_UN)
        finally:
            os.close(descriptor)


def _lock(folder: str, operation: int) -> int:
    lost: OSError = FileNotFoundError(errno.ENOENT, "the folder was removed each time that it was locked", folder)
    for _ in range(_LAPS):
        try:
            os.makedirs(folder, mode=0o700, exist_ok=True)
            descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except (FileNotFoundError, FileExistsError) as error:  # the second too: removed while it was found to be there
            lost = error
            continue
        if _locks_in_place(descriptor, folder, operation):
            return descriptor
    raise lost


def _locks_in_place(descriptor: int, folder: str, operation: int) -> bool:
    """Lock an open folder; false, and closed again, where it is no longer the one of that name."""
    in_place = False
    try:
        fcntl.flock(descriptor, operation)
        with contextlib.suppress(FileNotFoundError):
            in_place = os.path.samestat(os.fstat(descriptor), os.stat(folder))
    finally:
        if not in_place:
            os.close(descriptor)
    return in_place
