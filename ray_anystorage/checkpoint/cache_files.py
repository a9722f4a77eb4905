"""One file of an entry in the node's cache: linked to the user's, made the cache's own, verified, dropped."""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import shutil
import stat
from collections.abc import Callable
from dataclasses import dataclass

from ray_anystorage.checkpoint.cache_index import Record, stamp_of
from ray_anystorage.transfer.digest import digest_file
from ray_anystorage.transfer.disk import copy_content
from ray_anystorage.transfer.temporary import temporary_beside

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class CachedFile:
    """What the cache needs of a file; the digest is empty where nobody hashed it, and then sizes alone are compared."""

    path: str
    size: int
    digest: str
    chunks: tuple[str, ...]


def link_file(source: str, file: CachedFile, target: str, temporary: str) -> Record | None:
    """Give a user's file a second name in the entry; ``None``, with a line in the log, where that cannot be."""
    try:
        os.link(os.path.realpath(source) if os.path.islink(source) else source, temporary)
        try:
            status = os.lstat(temporary)
            if not stat.S_ISREG(status.st_mode) or status.st_size != file.size:
                raise OSError(errno.EINVAL, f"it is no file of {file.size} bytes any more", source)
            _rename(temporary, target)
        finally:
            with contextlib.suppress(FileNotFoundError):  # a rename to a name of the same file leaves both
                os.unlink(temporary)
        return Record(file.digest, stamp_of(os.lstat(target)), None)
    except OSError as error:
        logger.debug("%s is not linked into the node's cache: %s", source, error)
        return None


def _rename(temporary: str, target: str) -> None:
    """Move a file to its place; the folders above are made where they are missing, which few files meet."""
    try:
        os.replace(temporary, target)
    except FileNotFoundError:
        os.makedirs(os.path.dirname(target), exist_ok=True)
        os.replace(temporary, target)


def make_own(target: str) -> None:
    """Copy a file that is also known by a name outside of the cache, where its owner may write to it at any time.

    Raises
    ------
    OSError
        It is not there, or there is no room for the copy.
    """
    status = os.lstat(target)
    if not stat.S_ISREG(status.st_mode) or status.st_nlink == 1:
        return
    temporary = temporary_beside(target)
    try:
        with open(target, "rb", buffering=0) as source, open(temporary, "xb", buffering=0) as copy:
            copy_content(source.fileno(), copy.fileno(), status.st_size)
        os.replace(temporary, target)
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)


def verify_file(file: CachedFile, target: str, known: Record | None, session: str) -> Record:
    """What is known of a file that is there; it is hashed unless this session vouches for it.

    Raises
    ------
    OSError
        It is not there, no file, or not what was saved.
    """
    before = os.lstat(target)
    if not stat.S_ISREG(before.st_mode):
        raise OSError(errno.EINVAL, "it is not a file", target)
    stamp = stamp_of(before)
    if before.st_size == file.size and known is not None and known.vouches(file.digest, stamp, session):
        return known
    if before.st_size == file.size and not file.digest:
        return Record("", stamp, session)
    size, digest, _ = digest_file(target) if before.st_size == file.size else (before.st_size, "", ())
    if size != file.size:
        raise OSError(errno.EBADMSG, f"it has {size} bytes, and {file.size} were saved", target)
    if digest != file.digest:
        raise OSError(errno.EBADMSG, "its content is not what was saved", target)
    return Record(digest, stamp, session)


def drop_file(target: str, directory: str) -> None:
    """Remove whatever takes a file's place: damaged, a folder, or a file where one of its folders should be."""
    while os.path.dirname(target) != directory and not os.path.isdir(os.path.dirname(target)):
        target = os.path.dirname(target)
    remove: Callable[[str], None] = delete_tree if os.path.isdir(target) and not os.path.islink(target) else os.unlink
    with contextlib.suppress(FileNotFoundError):
        remove(target)


def delete_tree(folder: str) -> None:
    """Delete a folder with all that is in it, also while others do the same.

    Raises
    ------
    OSError
        Something in it cannot be deleted.
    """
    while os.path.lexists(folder):
        with contextlib.suppress(FileNotFoundError):
            shutil.rmtree(folder)
