"""Taking a directory from its owner: moved where that takes all of it, else copied; never linked.

A hard link would share what ``torch.save`` to the same path writes next.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Collection

from ray_anystorage.checkpoint.manifest import FOLDER
from ray_anystorage.checkpoint.tree import Tree
from ray_anystorage.errors import SourceChangedError
from ray_anystorage.transfer.disk import copy_content

_CANNOT_MOVE = (errno.EXDEV, errno.EBUSY, errno.EACCES, errno.EPERM, errno.EROFS)


def can_move(directory: str, tree: Tree, folder: str, *, stored: Collection[str] = ()) -> bool:
    """True where a directory lies on the device of ``folder`` and moving it takes all that it holds.

    It does not where a link leads out of it or into it, or where the process works in it. A checkpoint that is stored
    is nobody's to take, though its readers are given its own directory.

    Parameters
    ----------
    stored
        Folders with stored checkpoints: the run home, the node's cache.
    """
    if os.path.islink(directory) or os.stat(directory).st_dev != os.stat(folder).st_dev:
        return False
    if os.path.lexists(os.path.join(directory, FOLDER)) or any(is_below(directory, place) for place in stored):
        return False
    real = os.path.realpath(directory)
    below = {os.path.dirname(file.path) for file in tree.files} | set(tree.empty)
    if any(os.path.realpath(os.path.join(real, path)) != os.path.normpath(os.path.join(real, path)) for path in below):
        return False
    return not _works_in(directory) and all(_only_name(file.source) for file in tree.files)


def move(directory: str, target: str) -> bool:
    """Move a directory and leave an empty one of the same mode; false, with nothing changed, where it cannot be."""
    fresh = f"{target}-fresh"
    os.mkdir(fresh)
    os.chmod(fresh, stat.S_IMODE(os.stat(directory).st_mode))
    try:
        os.rename(directory, target)
    except OSError as error:
        os.rmdir(fresh)
        if error.errno in _CANNOT_MOVE:  # a mount point, or a parent that may not be written
            return False
        raise
    try:
        os.rename(fresh, directory)
    except OSError as error:
        os.rmdir(fresh)
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):  # the caller made it anew
            with contextlib.suppress(OSError):
                os.rename(target, directory)
            raise
    return True


def copy_tree(tree: Tree, target: str) -> None:
    """Copy files and empty folders to a new directory."""
    os.mkdir(target)
    for path in tree.empty:
        os.makedirs(os.path.join(target, path), exist_ok=True)
    for file in tree.files:
        path = os.path.join(target, file.path)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        _copy(file.source, path)


def is_below(path: str, directory: str) -> bool:
    """True where a path is a directory or lies in it, whatever links lead there."""
    real = os.path.realpath(directory)
    return os.path.commonpath([os.path.realpath(path), real]) == real


def _copy(source: str, target: str) -> None:
    with open(source, "rb", buffering=0) as reader, open(target, "xb", buffering=0) as writer:
        try:
            copy_content(reader.fileno(), writer.fileno(), os.fstat(reader.fileno()).st_size)
        except OSError as error:
            if error.errno != errno.ENODATA:
                raise
            raise SourceChangedError(
                str(error.strerror),
                tier="local",
                place=source,
                tried=f"copy it to {target}",
                remedy="write checkpoint files before they are reported, and leave them alone until then",
            ) from error


def _works_in(directory: str) -> bool:
    try:
        return is_below(os.getcwd(), directory)
    except FileNotFoundError:  # the working directory is gone
        return False


def _only_name(file: str) -> bool:
    status = os.lstat(file)
    return stat.S_ISREG(status.st_mode) and status.st_nlink == 1
