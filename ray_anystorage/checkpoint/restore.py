"""Getting a checkpoint back: fetched and verified, or verified where it lies."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from ray_anystorage.checkpoint.contents import Contents, StoredFile
from ray_anystorage.checkpoint.planted import planted_links
from ray_anystorage.checkpoint.small_files import names_below
from ray_anystorage.checkpoint.unreadable import is_of_one_file
from ray_anystorage.errors import (
    CheckpointCorruptedError,
    CheckpointIncompleteError,
    CheckpointMissingError,
    CheckpointUnreadableError,
    DigestMismatchError,
    ObjectMissingError,
    RequestError,
    ShortReadError,
)
from ray_anystorage.events import operation
from ray_anystorage.home.store import watched
from ray_anystorage.transfer.budget import Cancel
from ray_anystorage.transfer.digest import CHUNK_BYTES, chunks_of_file, file_digest
from ray_anystorage.transfer.engine import download
from ray_anystorage.transfer.files import Incoming
from ray_anystorage.transfer.store import Store
from ray_anystorage.transfer.verify import verify
from ray_anystorage.transfer.workers import run_tasks

Moved = Callable[[int], None]

# Not ManifestTooNewError: what a later version wrote is no damage, and to go on without it would lose it.
NOT_GOOD = (CheckpointCorruptedError, CheckpointIncompleteError, CheckpointMissingError)

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
    RequestError
        A folder of the checkpoint is a link in the target: what it leads to is not written to.
    StorageError, OSError
        A store or the disk fails.
    """
    _refuse_links(contents, target)
    os.makedirs(target, exist_ok=True)
    for path in contents.directories:
        os.makedirs(os.path.join(target, path), exist_ok=True)

    def act(store: Store, files: Sequence[Incoming]) -> None:
        what = f"fetch checkpoint {contents.checkpoint}"
        watched(store, lambda cancel, moved: download(store, files, cancel=cancel, on_progress=moved), what)

    _each_location(sources, contents, target, act)


def _refuse_links(contents: Contents, target: str) -> None:
    paths = [file.path for file in contents.files] + [f"{folder}/" for folder in contents.directories]
    for link in planted_links(target, paths):
        raise RequestError(f"{link} is a link, and checkpoint {contents.checkpoint} has a folder of that name")


def verify_stored(sources: Sources, contents: Contents) -> None:
    """Read a checkpoint from wherever it lies and compare every byte with the manifests; nothing is kept.

    Raises
    ------
    CheckpointCorruptedError
        A file is damaged, cut short or gone; names it.
    StorageError, OSError
        A store fails.
    """

    def act(store: Store, files: Sequence[Incoming]) -> None:
        what = f"verify checkpoint {contents.checkpoint}"
        watched(store, lambda cancel, moved: verify(store, files, cancel=cancel, on_progress=moved), what)

    _each_location(sources, contents, "", act)


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


def verify_in_place(contents: Contents, directory: str, *, content: bool = True, home: Store | None = None) -> None:
    """Compare a checkpoint's files where they lie with its manifests.

    Parameters
    ----------
    directory
        The checkpoint's folder on a mount.
    content
        False compares sizes alone: that finds what is missing or cut short, and no flipped bit.
    home
        The run home; a :class:`ray_anystorage.home.store.HomeStore` bounds the reading in time.

    Raises
    ------
    CheckpointCorruptedError
        Naming every file that is not as it was saved; a ``CheckpointUnreadableError`` where some cannot be read, and
        nothing else is wrong.
    MountTimeoutError
        Nothing came for as long as the home's limit says.
    OSError
        The mount fails.
    """
    faults: dict[str, str] = {}
    unread: dict[str, str] = {}

    def check(file: StoredFile, cancel: Cancel, moved: Moved) -> None:
        try:
            fault = _fault(directory, file, content, cancel, moved)
        except OSError as error:
            if not is_of_one_file(error, directory):
                raise
            unread[file.path] = f"cannot be read: {error.strerror}"
            return
        if fault is not None:
            faults[file.path] = fault

    def check_all(cancel: Cancel, moved: Moved) -> None:
        def read(size: int) -> None:
            moved(size)
            under_way.moved(size)

        run_tasks((partial(check, file, cancel, read) for file in contents.files), _READERS, cancel)

    with operation("verify", checkpoint=contents.checkpoint, size=contents.size) as under_way:
        watched(home, check_all, f"verify checkpoint {contents.checkpoint}")
    if faults or unread:
        named = ", ".join(f"{path} ({fault})" for path, fault in sorted({**unread, **faults}.items()))
        kind = CheckpointCorruptedError if faults else CheckpointUnreadableError
        raise kind(f"checkpoint {contents.checkpoint} is damaged: {named}")


def _fault(directory: str, file: StoredFile, content: bool, cancel: Cancel, moved: Moved) -> str | None:
    path = os.path.join(directory, file.path)
    try:
        size = os.stat(path).st_size
        moved(0)
        if size != file.size:
            return f"{size} bytes, {file.size} were saved"
        if content and file.digest is not None and _digest(path, size, cancel, moved) != file.digest:
            return "other content"
    except (FileNotFoundError, NotADirectoryError):
        return "gone"
    return None


def _digest(path: str, size: int, cancel: Cancel, moved: Moved) -> str:
    chunks = []
    for chunk in chunks_of_file(path):
        cancel.check()
        moved(CHUNK_BYTES)
        chunks.append(chunk)
    return file_digest(size, chunks)


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
