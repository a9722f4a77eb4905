"""Moving files between places: over the transfer layer, with a record, so that what was cut off goes on."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial

from ray_anystorage.checkpoint.node import current
from ray_anystorage.checkpoint.small_files import patiently
from ray_anystorage.errors import MountMissingError, ObjectMissingError, SourceChangedError
from ray_anystorage.files.entries import Entry
from ray_anystorage.files.plan import Copy
from ray_anystorage.files.record import Copied, Record
from ray_anystorage.files.spot import Spot
from ray_anystorage.files.unchanged import changed, refuse_changed
from ray_anystorage.transfer.budget import Cancel
from ray_anystorage.transfer.disk import sync_directory
from ray_anystorage.transfer.download import Fetched
from ray_anystorage.transfer.engine import download, upload
from ray_anystorage.transfer.files import Incoming, Outgoing, Stored
from ray_anystorage.transfer.open_store import BucketRecipe, MountRecipe
from ray_anystorage.transfer.partial import Partial
from ray_anystorage.transfer.posix_store import PosixStore
from ray_anystorage.transfer.store import Store
from ray_anystorage.transfer.workers import run_tasks

Progress = Callable[[int], None]
_BATCH_BYTES = 4 << 30  # that lie on the local disk at once, on the way from one bucket to another
_COPIES = 32  # at once, on the store's own side


def copy(source: Spot, target: Spot, copies: Sequence[Copy], record: Record, on_progress: Progress) -> None:
    """Copy files; each appears whole in the target, or not at all, and is noted in the record.

    Parameters
    ----------
    on_progress
        Is told of bytes that were moved since it was last called; by one thread at a time.

    Raises
    ------
    StorageError, OSError
        A place fails. What was copied until then is noted, large files under way too.
    SourceChangedError
        Files changed since they were listed, or went away; the others are copied. What of a file on a disk is in the
        target may be of both contents, and is not noted; an object that changed is not copied.
    """
    job, from_mount = _Job(source, target, record, on_progress), isinstance(source.recipe, MountRecipe)
    if isinstance(target.recipe, MountRecipe):
        wrong = job.fetch(copies)
    elif from_mount:
        wrong = job.send(copies)
    elif _on_one_side(source, target):
        wrong = job.copy_there(copies)
    else:
        wrong = [entry for batch in _batches(copies) for entry in job.relay(batch)]
    if from_mount:
        wrong += job.look_again(copies)
    refuse_changed(source, sorted(set(wrong), key=lambda entry: entry.path))


class _Job:
    """One copy of many files."""

    def __init__(self, source: Spot, target: Spot, record: Record, on_progress: Progress) -> None:
        self._place, self._source, self._target = source, source.open(), target.open()
        self._record, self._on_progress = record, on_progress
        self._root = _identity(source)

    def send(self, copies: Sequence[Copy]) -> list[Entry]:
        """From a disk to a bucket; the entries of files that went away, or became shorter, since they were listed."""
        files = [Outgoing(self._path(self._source, copy.entry.key), copy.key, copy.entry.size) for copy in copies]
        by_key, wrong = {copy.key: copy.entry for copy in copies}, list[Entry]()

        def leave_out(file: Outgoing) -> None:
            self._check_root()
            wrong.append(by_key[file.key])

        upload(
            self._target,
            files,
            on_progress=self._on_progress,
            on_stored=lambda stored: self._note(by_key[stored.key], stored.etag),
            on_changed=leave_out,
            partial=self._partial({copy.key: copy.entry.etag for copy in copies}),
        )
        return wrong

    def fetch(self, copies: Sequence[Copy]) -> list[Entry]:
        """From wherever to a disk; the entries of what was written over, or went away, since it was listed."""
        by_target = {self._path(self._target, copy.key): copy for copy in copies}

        def fetched(file: Incoming, etag: str) -> None:
            self._note(by_target[file.target].entry, etag)

        marks = self._partial({copy.entry.key: copy.entry.etag for copy in copies})
        files = [self._incoming(copy.entry, path) for path, copy in by_target.items()]
        wrong = self._download(files, self._on_progress, marks, fetched, durable=True)
        self._sync_names(by_target)
        return [by_target[file.target].entry for file in wrong]

    def copy_there(self, copies: Sequence[Copy]) -> list[Entry]:
        """Within a bucket, where no byte comes by here; the entries of what was written over, or went away."""
        wrong: list[Entry] = []

        def one(copy: Copy) -> None:
            entry = copy.entry
            try:
                etag = patiently(lambda: self._target.copy(entry.key, copy.key, entry.etag, entry.size))
            except (SourceChangedError, ObjectMissingError):
                wrong.append(entry)
                return
            self._note(entry, etag)
            self._on_progress(entry.size)

        run_tasks((partial(one, copy) for copy in copies), _COPIES, Cancel())
        return wrong

    def relay(self, copies: Sequence[Copy]) -> list[Entry]:
        """From one bucket to another, over the local disk; the entries of what was written over, or went away."""
        above = os.path.join(current().folder, "relay")
        os.makedirs(above, mode=0o700, exist_ok=True)
        between = tempfile.mkdtemp(dir=above)
        try:
            by_path = {os.path.join(between, copy.key): copy for copy in copies}
            wrong = self._download([self._incoming(copy.entry, path) for path, copy in by_path.items()])
            left_out = [by_path.pop(file.target).entry for file in wrong]
            sending = [Outgoing(path, copy.key, copy.entry.size) for path, copy in by_path.items()]
            by_key = {copy.key: copy.entry for copy in by_path.values()}

            def stored(found: Stored) -> None:
                self._note(by_key[found.key], found.etag)

            upload(self._target, sending, on_progress=self._on_progress, on_stored=stored)
            return left_out
        finally:
            shutil.rmtree(between, ignore_errors=True)

    def _download(
        self,
        files: Sequence[Incoming],
        on_progress: Progress | None = None,
        marks: Partial | None = None,
        on_fetched: Fetched | None = None,
        *,
        durable: bool = False,
    ) -> list[Incoming]:
        """Fetch files; those that are not what they were when they were listed are left out, and returned."""
        wrong: list[Incoming] = []

        def leave_out(file: Incoming) -> None:
            self._check_root()
            wrong.append(file)

        download(
            self._source,
            files,
            on_progress=on_progress,
            partial=marks,
            on_fetched=on_fetched,
            on_changed=leave_out,
            durable=durable,
        )
        return wrong

    def look_again(self, copies: Sequence[Copy]) -> list[Entry]:
        """Files that are not what was to be copied any more: a disk's are written into while they are read.

        That they were copied is forgotten.
        """
        altered, gone = changed(self._place, [copy.entry for copy in copies])
        self._check_root()
        for entry in (*altered, *gone):  # what is gone may have been written into before
            self._record.forget(entry.path)
        return altered + gone

    def _check_root(self) -> None:
        """Raise where not a file went away, but the mount that it is on: what was begun of it is for the next copy."""
        if _identity(self._place) != self._root:
            raise MountMissingError(
                "it was unmounted, or replaced, while files of it were copied",
                tier=self._place.tier or "local",
                place=self._place.recipe.uri,
                tried="compare its device and inode with those of before the copy",
                remedy="mount it and copy again, which goes on where this ended",
            )

    def _partial(self, source: dict[str, str | None]) -> Partial:
        """The record of large files under way; of those whose etag tells whether they are the ones of before."""
        marks = {key: etag for key, etag in source.items() if etag is not None}
        return Partial(os.path.join(self._record.folder, "parts"), marks)

    def _sync_names(self, paths: Iterable[str]) -> None:
        """Make names durable, those of the folders above too, which may be new."""
        folders: set[str] = set()
        for path in paths:
            folder = os.path.dirname(path)
            while folder not in folders:
                folders.add(folder)
                folder = os.path.dirname(folder)
        for folder in folders:
            with contextlib.suppress(PermissionError, FileNotFoundError):  # not made here, or removed meanwhile
                sync_directory(folder)

    def _incoming(self, entry: Entry, path: str) -> Incoming:
        """A disk's file is not held to its etag: one that grows is copied as it was listed, and named at the end."""
        etag = None if isinstance(self._source, PosixStore) else entry.etag
        return Incoming(entry.key, path, entry.size, etag=etag)

    def _note(self, entry: Entry, etag: str | None) -> None:
        if entry.etag is not None and etag is not None:
            self._record.note(entry.path, Copied(entry.etag, etag))

    def _path(self, store: Store, key: str) -> str:
        if not isinstance(store, PosixStore):
            raise TypeError(f"{store.uri} is no directory")
        return store.path(key)


def _identity(place: Spot) -> tuple[int, int] | None:
    """What tells a mount from another that is mounted in its place, or from what lies below it."""
    if not isinstance(place.recipe, MountRecipe):
        return None
    try:
        status = os.stat(place.recipe.root)
    except FileNotFoundError:
        return None
    return status.st_dev, status.st_ino


def _on_one_side(source: Spot, target: Spot) -> bool:
    first, second = source.recipe, target.recipe
    if not (isinstance(first, BucketRecipe) and isinstance(second, BucketRecipe)):
        return False
    return first == second and target.open().copies(1 << 30)


def _batches(copies: Sequence[Copy]) -> Iterator[list[Copy]]:
    batch: list[Copy] = []
    for copy_ in copies:
        if batch and sum(one.entry.size for one in batch) + copy_.entry.size > _BATCH_BYTES:
            yield batch
            batch = []
        batch.append(copy_)
    if batch:
        yield batch
