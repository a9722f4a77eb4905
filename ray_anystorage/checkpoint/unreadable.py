"""Telling a file that cannot be read from a mount that cannot."""

from __future__ import annotations

import errno
import os

from ray_anystorage.errors import AnyStorageError

# A bad sector, a checksum of the file system's that does not match, rights, a folder or a circle in a file's place.
_OF_ONE_FILE = frozenset(
    {errno.EIO, errno.EBADMSG, errno.EUCLEAN, errno.EACCES, errno.EPERM, errno.EISDIR, errno.ELOOP}
)


def is_of_one_file(error: OSError, folder: str) -> bool:
    """Whether an error of reading speaks of the file alone: it may, and ``folder``, on the same mount, answers."""
    if isinstance(error, AnyStorageError) or error.errno not in _OF_ONE_FILE:
        return False
    try:
        os.listdir(folder)
    except OSError:
        return False
    return True
