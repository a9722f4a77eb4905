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
from ray_anystorage.files.entries import Entry
from ray_anystorage.files.plan import Copy
from ray_anystorage.files.record import Copied, Record
from ray_anystorage.files.spot import Spot
from ray_anystorage.files.unchanged import changed, refuse_changed
from ray_anystorage.transfer.budget import Cancel
from ray_anystorage.transfer.disk import sync_directory
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
        Files changed while they were copied: what of them is in the target may be of both contents, and is not noted.
    """
    job = _Job(source.open(), target.open(), record, on_progress)
    if isinstance(source.recipe, MountRecipe):
        job.send(copies)
    elif isinstance(target.recipe, MountRecipe):
        job.fetch(copies)
    elif _on_one_side(source, target):
        job.copy_there(copies)
    else:
        for batch in _batches(copies):
            job.relay(batch)
    job.look_again(source, copies)


class _Job:
    """One copy of many files."""

    def __init__(self, source: Store, target: Store, record: Record, on_progress: Progress) -> None:
        self._source, self._target, self._record, self._on_progress = source, target, record, on_progress

    def send(self, copies: Sequence[Copy]) -> None:
        """From a disk to wherever."""
        files = [Outgoing(self._path(self._source, copy.entry.key), copy.key, copy.entry.size) for copy in copies]
        by_key = {copy.key: copy.entry for copy in copies}
        upload(
            self._target,
            files,
            on_progress=self._on_progress,
            on_stored=lambda stored: self._note(by_key[stored.key], stored.etag),
            partial=self._partial({copy.key: copy.entry.etag for copy in copies}),
        )
        self._target.settle()

    def fetch(self, copies: Sequence[Copy]) -> None:
        """From a bucket to a disk."""
        files = [Incoming(copy.entry.key, self._path(self._target, copy.key), copy.entry.size) for copy in copies]
        by_target = {file.target: copy for file, copy in zip(files, copies, strict=True)}

        def fetched(file: Incoming) -> None:
            copy = by_target[file.target]
            self._note(copy.entry, self._target.etag(copy.key))

        download(
            self._source,
            files,
            on_progress=self._on_progress,
            partial=self._partial({copy.entry.key: copy.entry.etag for copy in copies}),
            on_fetched=fetched,
            durable=True,
        )
        self._sync_names(by_target)

    def copy_there(self, copies: Sequence[Copy]) -> None:
        """Within a bucket, where no byte comes by here."""

        def one(copy: Copy) -> None:
            entry = copy.entry
            etag = patiently(lambda: self._target.copy(entry.key, copy.key, entry.etag, entry.size))
            self._note(entry, etag)
            self._on_progress(entry.size)

        run_tasks((partial(one, copy) for copy in copies), _COPIES, Cancel())

    def relay(self, copies: Sequence[Copy]) -> None:
        """From one bucket to another, over the local disk."""
        above = os.path.join(current().folder, "relay")
        os.makedirs(above, mode=0o700, exist_ok=True)
        between = tempfile.mkdtemp(dir=above)
        try:
            files = [Incoming(c.entry.key, os.path.join(between, c.key), c.entry.size) for c in copies]
            download(self._source, files)
            sending = [Outgoing(os.path.join(between, c.key), c.key, c.entry.size) for c in copies]
            by_key = {copy.key: copy.entry for copy in copies}

            def stored(found: Stored) -> None:
                self._note(by_key[found.key], found.etag)

            upload(self._target, sending, on_progress=self._on_progress, on_stored=stored)
        finally:
            shutil.rmtree(between, ignore_errors=True)

    def look_again(self, source: Spot, copies: Sequence[Copy]) -> None:
        """Raise where files are not what was to be copied, and forget that they were."""
        wrong = changed(source, [copy.entry for copy in copies])
        for entry in wrong:
            self._record.forget(entry.path)
        refuse_changed(source, wrong)

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

    def _note(self, entry: Entry, etag: str | None) -> None:
        if entry.etag is not None and etag is not None:
            self._record.note(entry.path, Copied(entry.etag, etag))

    def _path(self, store: Store, key: str) -> str:
        if not isinstance(store, PosixStore):
            raise TypeError(f"{store.uri} is no directory")
        return store.path(key)


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
