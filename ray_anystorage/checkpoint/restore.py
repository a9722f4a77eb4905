"""Getting a checkpoint back: fetched and verified, or verified where it lies."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from ray_anystorage.checkpoint.contents import Contents, StoredFile
from ray_anystorage.checkpoint.small_files import names_below
from ray_anystorage.errors import CheckpointCorruptedError, DigestMismatchError, ObjectMissingError, ShortReadError
from ray_anystorage.transfer.digest import digest_file
from ray_anystorage.transfer.engine import download
from ray_anystorage.transfer.files import Incoming
from ray_anystorage.transfer.store import Store
from ray_anystorage.transfer.verify import verify

_READERS = 4
_NAMED = 10  # files, in an error


@dataclass(frozen=True, slots=True)
class Sources:
    """Where the data of a run's checkpoints can be read.

    Attributes
    ----------
    home
        The run home; data lies there below the checkpoint's name.
    locate
        Opens the folder of a checkpoint elsewhere, by its URI.
    """

    home: Store
    locate: Callable[[str], Store]

    def of(self, checkpoint: str, location: str | None) -> tuple[Store, str]:
        """The store, and the folder in it, that hold a checkpoint's files of one location."""
        return (self.home, checkpoint) if location is None else (self.locate(location), "")


def fetch(sources: Sources, contents: Contents, target: str) -> None:
    """Fetch a checkpoint into a local directory; every byte is compared with the manifests on its way.

    Parameters
    ----------
    target
        A directory, made where it does not exist. Each file appears whole or not at all.

    Raises
    ------
    CheckpointCorruptedError
        A file is damaged, cut short or gone; names it.
    StorageError, OSError
        A store or the disk fails.
    """
    os.makedirs(target, exist_ok=True)
    for path in contents.directories:
        os.makedirs(os.path.join(target, path), exist_ok=True)
    _each_location(sources, contents, target, lambda store, files: download(store, files))


def verify_stored(sources: Sources, contents: Contents) -> None:
    """Read a checkpoint from wherever it lies and compare every byte with the manifests; nothing is kept.

    Raises
    ------
    CheckpointCorruptedError
        A file is damaged, cut short or gone; names it.
    StorageError, OSError
        A store fails.
    """
    _each_location(sources, contents, "", verify)


def _each_location(
    sources: Sources, contents: Contents, target: str, act: Callable[[Store, Sequence[Incoming]], None]
) -> None:
    for location in contents.locations:
        store, folder = sources.of(contents.checkpoint, location)
        files = [_incoming(file, folder, target) for file in contents.files if file.location == location]
        try:
            act(store, files)
        except (DigestMismatchError, ShortReadError, ObjectMissingError) as error:
            raise CheckpointCorruptedError(f"checkpoint {contents.checkpoint} is damaged: {error}") from error


def _incoming(file: StoredFile, folder: str, target: str) -> Incoming:
    key = f"{folder}/{file.path}" if folder else file.path
    return Incoming(key, os.path.join(target, file.path), file.size, file.digest, file.chunks)


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

    def fault(file: StoredFile) -> str | None:
        return _fault(os.path.join(directory, file.path), file, content=content)

    with ThreadPoolExecutor(_READERS) as pool:
        damaged = [fault for fault in pool.map(fault, contents.files) if fault is not None]
    if damaged:
        raise CheckpointCorruptedError(f"checkpoint {contents.checkpoint} is damaged: {', '.join(damaged)}")


def _fault(path: str, file: StoredFile, *, content: bool) -> str | None:
    try:
        size = os.stat(path).st_size
        if size != file.size:
            return f"{file.path} ({size} bytes, {file.size} were saved)"
        if content and file.digest is not None and digest_file(path)[1] != file.digest:
            return f"{file.path} (other content)"
    except (FileNotFoundError, NotADirectoryError):
        return f"{file.path} (gone)"
    return None


def verify_listed(sources: Sources, contents: Contents) -> None:
    """See that all of a checkpoint is there, by the sizes that its stores list; nothing is read.

    Raises
    ------
    CheckpointCorruptedError
        Naming files that are gone or have another size.
    StorageError
        A store fails.
    """
    for location in contents.locations:
        store, folder = sources.of(contents.checkpoint, location)
        there = names_below(store, folder)
        lacking = [f.path for f in contents.files if f.location == location and there.get(f.path) != f.size]
        if lacking:
            named = ", ".join(lacking[:_NAMED])
            raise CheckpointCorruptedError(
                f"checkpoint {contents.checkpoint} is damaged: gone or of another size: {named}"
            )
