"""Opening a stored checkpoint on this node: the node's cache, else the mount in place, else one download per node."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import BinaryIO, Literal

from ray_anystorage.checkpoint.cache import CachedFile, Entry
from ray_anystorage.checkpoint.cache_use import all_there, temporary_directory, while_read
from ray_anystorage.checkpoint.contents import Contents, StoredFile
from ray_anystorage.checkpoint.directory import has_others, view
from ray_anystorage.checkpoint.manifest import METADATA
from ray_anystorage.checkpoint.node import Node
from ray_anystorage.checkpoint.quarantine import quarantine_read
from ray_anystorage.checkpoint.ranges import RangeReader
from ray_anystorage.checkpoint.read import read_contents
from ray_anystorage.checkpoint.restore import Sources, fetch, verify_in_place, verify_listed
from ray_anystorage.checkpoint.small_files import patiently, read
from ray_anystorage.errors import (
    CheckpointCorruptedError,
    CheckpointIncompleteError,
    CheckpointUnreadableError,
    ObjectMissingError,
    RequestError,
    StorageError,
)
from ray_anystorage.events import Restored, Source, operation
from ray_anystorage.home.atomic import write_atomically
from ray_anystorage.transfer.posix_store import PosixStore
from ray_anystorage.transfer.store import Store

logger = logging.getLogger("ray.train.anystorage")

Verify = Literal["content", "size"]
_COMMIT_WAIT = 120.0  # seconds; a commit follows the last rank's report within a poll of the controller
_LOOK_EVERY = 0.1  # seconds
_PASSING = "passing"  # stands for a run in the node's cache


@dataclass(frozen=True, slots=True)
class Located:
    """A file of a checkpoint where it lies; ``on_damage`` is for whoever reads it to call."""

    store: Store
    key: str
    file: StoredFile
    on_damage: Callable[[CheckpointCorruptedError], None]

    def open(self) -> BinaryIO:
        """For reading at any place; each chunk is verified when it is first read."""
        return io.BufferedReader(RangeReader(self.store, self.key, self.file, on_damage=self.on_damage))


@dataclass(frozen=True, slots=True)
class Opened:
    """One checkpoint of a run, as this process opens it.

    Attributes
    ----------
    sources
        Where its data can be read.
    name, attempt
        Its folder below the run home, and the attempt that saved it where that is known.
    run
        The run's name in the node's cache.
    node
        This process's node.
    folder
        The checkpoint's own folder where it lies on a mount; ``None`` in a bucket.
    """

    sources: Sources
    name: str
    attempt: str | None
    run: str
    node: Node
    folder: str | None

    def contents(self, files: str | Sequence[str] | None = None) -> Contents:
        """What it holds, or the files of it that the patterns name.

        A checkpoint of the attempt that this process belongs to is waited for until it is committed.

        Raises
        ------
        CheckpointMissingError, CheckpointIncompleteError, CheckpointCorruptedError, ManifestTooNewError, StorageError
            As :func:`ray_anystorage.checkpoint.read.read_contents`.
        RequestError
            A pattern names nothing.
        """
        deadline = time.monotonic() + (_COMMIT_WAIT if self.attempt == self.node.session else 0)
        while True:
            try:
                contents = read_contents(self.sources.home, self.name, attempt=self.attempt)
            except CheckpointIncompleteError:
                if time.monotonic() >= deadline:
                    raise
                time.sleep(_LOOK_EVERY)
                continue
            return contents if files is None else contents.matching(files)

    @contextlib.contextmanager
    def directory(self, files: str | Sequence[str] | None = None, *, verify: Verify = "content") -> Iterator[str]:
        """A local directory with the files, verified; it is to be read, not written to.

        Raises
        ------
        CheckpointCorruptedError
            Something is damaged; the checkpoint is quarantined.
        CheckpointIncompleteError
            It was deleted or saved again meanwhile.
        """
        if verify not in ("content", "size"):
            raise RequestError(f"verify={verify!r}: expected 'content', or 'size' to compare sizes alone")
        whole = self.contents()
        self._tell(whole)
        contents = whole if files is None else whole.matching(files)
        with contextlib.ExitStack() as stack:
            with self._quarantining(whole):
                directory = self._told(contents, verify, stack)
            home = self.sources.home if directory == self.folder else None
            if whole.attempt is not None and has_others(whole, directory, home):
                directory = view(whole, directory, stack.enter_context(temporary_directory()))
            yield directory

    def copy_to(self, target: str) -> None:
        """Put everything into a directory of the caller's, verified; what is in a bucket comes through the cache."""
        contents = self.contents()
        if self._entry(contents) is not None and (self.folder is None or set(contents.locations) - {None}):
            with self.directory() as directory:
                files = tuple(replace(file, location=directory) for file in contents.files)
                fetch(Sources(self.sources.home, PosixStore), replace(contents, files=files), target)
        else:
            self._tell(contents)
            with (
                self._quarantining(contents),
                operation("restore", checkpoint=self.name, size=contents.size) as under_way,
            ):
                fetch(self.sources, contents, target)
                under_way.outcome = Restored("store", contents.size)
        self._refresh_metadata(target)

    def open(self, path: str) -> BinaryIO:
        """A file of the checkpoint for reading at any place; each chunk is verified when it is first read.

        Raises
        ------
        RequestError
            There is no such file in it.
        """
        return self.locate(self.contents(), path).open()

    def locate(self, contents: Contents, path: str) -> Located:
        """Where a file of the checkpoint lies; ``RequestError`` where there is no such file."""
        file = contents.find(path)
        if file is None:
            raise RequestError(f"{path!r} names no file of checkpoint {self.name}")
        store, folder = self.sources.of(self.name, file.location)
        key = f"{folder}/{path}" if folder else path
        return Located(store, key, file, partial(self._damaged, contents))

    def verify_here(self, *, content: bool = True) -> None:
        """Verify a checkpoint on a mount in place, once per node and session; in a bucket, that all of it is there.

        Raises
        ------
        CheckpointCorruptedError, CheckpointIncompleteError, CheckpointMissingError, ManifestTooNewError, StorageError
            It is not good on this node.
        """
        contents = self.contents()
        self._tell(contents)
        for location in contents.locations:
            part = replace(contents, files=tuple(file for file in contents.files if file.location == location))
            if location is None and self.folder is not None:
                self._verify_in_place(part, self.folder, content=content)
            else:
                verify_listed(self.sources, part)

    def _tell(self, contents: Contents) -> None:
        """Say once per node and session what cannot be promised."""
        if not contents.verifiable:
            line = "checkpoint %s was not stored by ray_anystorage: only that its files are there can be verified"
            self.node.once(f"{self.run}\0{self.name}\0told", lambda: logger.warning(line, self.name))

    def _told(self, contents: Contents, verify: Verify, stack: contextlib.ExitStack) -> str:
        """Have the files ready, and tell where they came from and how long that took."""
        with operation("restore", checkpoint=self.name, size=contents.size) as under_way:
            directory, source = self._ready(contents, verify, stack)
            under_way.outcome = Restored(source, contents.size)
            return directory

    def _ready(self, contents: Contents, verify: Verify, stack: contextlib.ExitStack) -> tuple[str, Source]:
        kept = self._entry(contents)
        wanted = [CachedFile(f.path, f.size, f.digest or "", f.chunks or ()) for f in contents.files]
        inline = self.folder if set(contents.locations) <= {None} else None
        if inline is not None and (kept is None or not all_there(kept, wanted)):
            self._verify_in_place(contents, inline, content=verify == "content")
            return inline, "place"
        try:  # around the filling, so that nobody evicts it in between
            entry = kept or self._passing(contents)
            stack.enter_context(entry.reading() if kept else while_read(entry))
        except OSError as error:
            logger.warning("checkpoint %s is fetched for this process alone: %s", self.name, error)
        else:
            return self._from_cache(entry, contents, wanted)
        directory = stack.enter_context(temporary_directory())
        fetch(self.sources, contents, directory)
        self._refresh_metadata(directory)
        return directory, "store"

    def _from_cache(self, entry: Entry, contents: Contents, wanted: list[CachedFile]) -> tuple[str, Source]:
        with entry.filling():
            missing = entry.missing(wanted, self.node.session)
            if missing:
                paths = {file.path for file in missing}
                lacking = replace(contents, files=tuple(file for file in contents.files if file.path in paths))
                with self._room(entry, lacking.size):
                    fetch(self.sources, lacking, entry.directory)
                entry.record(missing, self.node.session)
            for path in contents.directories:
                os.makedirs(os.path.join(entry.directory, path), exist_ok=True)
            self._refresh_metadata(entry.directory)
            entry.touch()
        return entry.directory, "store" if missing else "cache"

    @contextlib.contextmanager
    def _room(self, entry: Entry, size: int) -> Iterator[None]:
        """Keep room in the cache for what is fetched; it is fetched all the same where there is none."""
        if self.node.cache is None:
            yield
            return
        with contextlib.ExitStack() as kept:
            try:
                if not kept.enter_context(self.node.cache.room(entry, size)):
                    logger.warning("checkpoint %s passes the share of the disk that the node's cache has", self.name)
            except OSError as error:
                logger.warning("no room is kept for checkpoint %s on this node: %s", self.name, error)
            yield

    def _entry(self, contents: Contents) -> Entry | None:
        cache = self.node.cache
        if cache is None or contents.attempt is None or not contents.verifiable:
            return None
        return cache.entry(self.run, self.name, contents.attempt, contents.report)

    def _passing(self, contents: Contents) -> Entry:
        """A place for what the cache may not keep, or cannot verify, while the processes of this node read it."""
        cache = self.node.passing
        cache.drop_run(_PASSING)  # what killed processes left there
        attempt = contents.attempt or f"session {self.node.session}"
        return cache.entry(_PASSING, f"{self.run}/{self.name}", attempt, contents.report)

    def _verify_in_place(self, contents: Contents, folder: str, *, content: bool) -> None:
        which = (self.run, self.name, str(contents.attempt), str(contents.report), str(content))
        home = self.sources.home
        self.node.once(
            "\0".join((*which, *(file.path for file in contents.files))),
            lambda: verify_in_place(contents, folder, content=content, home=home),
        )

    def _refresh_metadata(self, directory: str) -> None:
        """Ray's own note may have changed since; it lies in the run home, whatever else does."""
        home, key = self.sources.home, f"{self.name}/{METADATA}"
        with contextlib.suppress(ObjectMissingError):
            content = read(home, key, patiently(lambda: home.size(key)))
            write_atomically(os.path.join(directory, METADATA), content)

    @contextlib.contextmanager
    def _quarantining(self, contents: Contents) -> Iterator[None]:
        try:
            yield
        except CheckpointCorruptedError as error:
            self._damaged(contents, error)
            raise

    def _damaged(self, contents: Contents, error: CheckpointCorruptedError) -> None:
        """Quarantine what is damaged; raise where it is no longer there, which is no damage."""
        if isinstance(error, CheckpointUnreadableError):  # elsewhere, or later, it may be good
            return
        try:
            there = quarantine_read(self.sources.home, contents, error.message)
        except (StorageError, OSError) as second:
            logger.warning("checkpoint %s is damaged, and that could not be noted: %s", self.name, second)
            return
        if not there:
            raise CheckpointIncompleteError(
                f"checkpoint {self.name} was deleted or saved again while it was read"
            ) from error
        logger.error("checkpoint %s is damaged and will not be resumed from: %s", self.name, error)
