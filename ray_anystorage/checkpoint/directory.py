"""A directory with a checkpoint's files and perhaps those of another save of its name: showing the former alone."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial

from ray_anystorage.checkpoint.contents import Contents
from ray_anystorage.checkpoint.manifest import FOLDER, METADATA, POINTER
from ray_anystorage.home.store import watched
from ray_anystorage.transfer.budget import Cancel
from ray_anystorage.transfer.store import Store


def has_others(contents: Contents, directory: str, home: Store | None = None) -> bool:
    """Whether a directory holds files that are not the checkpoint's; this package's own and Ray's note do not count.

    Parameters
    ----------
    home
        The run home that the directory lies in, if any.

    Raises
    ------
    MountTimeoutError
        The home is on a mount that does not answer.
    """
    return watched(home, partial(_has_others, contents, directory), f"list {directory}")


def _has_others(contents: Contents, directory: str, cancel: Cancel, moved: Callable[[int], None]) -> bool:
    known = {file.path for file in contents.files} | {METADATA, POINTER}
    for folder, folders, names in os.walk(directory):
        cancel.check()
        moved(0)
        below = "" if folder == directory else f"{os.path.relpath(folder, directory)}/"
        if not below and FOLDER in folders:
            folders.remove(FOLDER)
        if any(f"{below}{name}" not in known for name in names):
            return True
    return False


def view(contents: Contents, directory: str, target: str) -> str:
    """Fill an empty directory with links to the checkpoint's files as far as another one holds them; returns it."""
    for path in contents.directories:
        os.makedirs(os.path.join(target, path), exist_ok=True)
    for path in (METADATA, *(file.path for file in contents.files)):
        source, link = os.path.join(directory, path), os.path.join(target, path)
        if os.path.exists(source):
            os.makedirs(os.path.dirname(link), exist_ok=True)
            os.symlink(source, link)
    return target
