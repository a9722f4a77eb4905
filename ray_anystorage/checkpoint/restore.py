"""Getting a checkpoint back: fetched and verified, or verified where it lies."""

from __future__ import annotations

import os
from collections.abc import Callable

from ray_anystorage.checkpoint.contents import Contents
from ray_anystorage.errors import CheckpointCorruptedError, DigestMismatchError, ObjectMissingError, ShortReadError
from ray_anystorage.transfer.digest import digest_file
from ray_anystorage.transfer.engine import download
from ray_anystorage.transfer.files import Incoming
from ray_anystorage.transfer.store import Store


def fetch(data: Store, contents: Contents, target: str) -> None:
    """Fetch a checkpoint into a local directory; every byte is compared with the manifests on its way.

    Parameters
    ----------
    data
        The store that holds the data, rooted where the checkpoint's folder lies.
    target
        A directory, made where it does not exist. Each file appears whole or not at all.

    Raises
    ------
    CheckpointCorruptedError
        A file is damaged, cut short or gone; names it.
    StorageError, OSError
        The store or the disk fails.
    """
    files = [
        Incoming(
            f"{contents.checkpoint}/{file.path}", os.path.join(target, file.path), file.size, file.digest, file.chunks
        )
        for file in contents.files
    ]
    os.makedirs(target, exist_ok=True)
    for path in contents.directories:
        os.makedirs(os.path.join(target, path), exist_ok=True)
    try:
        download(data, files)
    except (DigestMismatchError, ShortReadError, ObjectMissingError) as error:
        raise CheckpointCorruptedError(f"checkpoint {contents.checkpoint} is damaged: {error}") from error


def verify_in_place(contents: Contents, directory: str, *, content: bool = True) -> None:
    """Compare a checkpoint's files where they lie with its manifests.

    Parameters
    ----------
    directory
        The checkpoint's folder on a mount.
    content
        False compares sizes alone: that finds what is missing or cut short, and no flipped bit.

    Raises
    ------
    CheckpointCorruptedError
        Naming every file that is not as it was saved.
    """
    check: Callable[[str], tuple[int, str | None]] = _by_content if content else _by_size
    damaged = []
    for file in contents.files:
        try:
            size, digest = check(os.path.join(directory, file.path))
        except FileNotFoundError:
            damaged.append(f"{file.path} (gone)")
            continue
        if size != file.size:
            damaged.append(f"{file.path} ({size} bytes, {file.size} were saved)")
        elif digest is not None and digest != file.digest:
            damaged.append(f"{file.path} (other content)")
    if damaged:
        raise CheckpointCorruptedError(f"checkpoint {contents.checkpoint} is damaged: {', '.join(damaged)}")


def _by_content(path: str) -> tuple[int, str | None]:
    size, digest, _ = digest_file(path)
    return size, digest


def _by_size(path: str) -> tuple[int, str | None]:
    return os.stat(path).st_size, None
