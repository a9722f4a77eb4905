"""Saving the checkpoints of one rank in turn: where each goes, what need not be sent, what a failure does."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import Literal

from ray_anystorage.checkpoint.cache import CachedFile, NodeCache
from ray_anystorage.checkpoint.cache_entry import Entry
from ray_anystorage.checkpoint.course import Handed
from ray_anystorage.checkpoint.job import Job, Placed
from ray_anystorage.checkpoint.journal import Journal
from ray_anystorage.checkpoint.manifest import Manifest
from ray_anystorage.checkpoint.read import record_of
from ray_anystorage.checkpoint.record import Record
from ray_anystorage.checkpoint.routing import Route, another_place_may_do, fits, route
from ray_anystorage.checkpoint.save import Part, begin, data_of, store_data, write_manifest
from ray_anystorage.checkpoint.tree import Tree, scan
from ray_anystorage.errors import ManifestError, ObjectMissingError, StorageError
from ray_anystorage.events import Saved, operation
from ray_anystorage.home.atomic import is_full
from ray_anystorage.home.filesystem import full_error
from ray_anystorage.home.store import HomeStore
from ray_anystorage.transfer.budget import Cancel
from ray_anystorage.transfer.files import Stored
from ray_anystorage.transfer.posix_store import PosixStore
from ray_anystorage.transfer.retry import Patience
from ray_anystorage.transfer.slots import mount_slots
from ray_anystorage.transfer.store import Store
from ray_anystorage.units import format_size

logger = logging.getLogger("ray.train.anystorage")

_WRITERS = 4  # of one rank to a mount, where the node's share of them is free


@dataclass(frozen=True, slots=True)
class Writers:
    """The bound on writers to a mount: at most so many by all processes of a node, which meet in a local folder."""

    folder: str
    most: int


@dataclass(slots=True)
class Saver:
    """Saves one rank's parts.

    Attributes
    ----------
    home
        The run home.
    threshold
        Bytes, as :func:`ray_anystorage.checkpoint.routing.route` takes it.
    spill
        Opens the folder of the bucket that data may be spilled to; ``None`` where there is none or the home is in a
        bucket itself.
    writers
        For a home on a mount.
    cache, run
        Where what was saved is kept on this node, and under which name of the run.
    patience
        How long a store that fails is tried before the other place is; the engine's own where ``None``.
    journal
        Of what was stored, so that a save that is tried again, in this process or the next, does not send it again.
    """

    home: Store
    threshold: int
    spill: Callable[[], Store] | None = None
    writers: Writers | None = None
    cache: NodeCache | None = None
    run: str = ""
    patience: Patience | None = None
    journal: Journal = field(default_factory=Journal)
    _last: str | None = None

    def save(
        self,
        directory: str,
        part: Part,
        allowed: Callable[[], object] | None = None,
        handed: Handed | None = None,
    ) -> Manifest:
        """Save a directory as this rank's part of a checkpoint; all of it is durable when this returns.

        Tried again after a failure or a crash, it does not send again what was stored before. What did not change
        since the last one is copied where the store can.

        Parameters
        ----------
        allowed
            As :func:`ray_anystorage.checkpoint.save.begin` takes it.
        handed
            When it was handed over by a training that goes on; ``None`` where that waits for the save.

        Raises
        ------
        UnsavableFileError
            Something in the directory cannot be saved as it is; names it.
        StorageError, OSError
            No place took it.
        """
        with operation("save", checkpoint=part.checkpoint) as under_way:
            manifest = self._save(directory, part, allowed, handed)
            on_mount = isinstance(self.home, PosixStore) and not manifest.location
            store: Literal["mount", "bucket"] = "mount" if on_mount else "bucket"
            under_way.outcome = Saved(store, manifest.size, manifest.detour is not None, handed is not None)
            return manifest

    def _save(
        self, directory: str, part: Part, allowed: Callable[[], object] | None, handed: Handed | None
    ) -> Manifest:
        start = time.monotonic()
        handed = handed or Handed.at(start)
        tree = scan(directory)
        begun = begin(self.home, part, tree.size, allowed)
        job = Job(tree, part, begun.former, handed, start)
        chosen = self._route(tree, begun.others)
        with ThreadPoolExecutor(1) as beside, self.journal.writing():
            placed = self._place(job, chosen)
            # Beside the manifest's way to the store: an entry of the cache is read for a checkpoint that is committed.
            kept = beside.submit(self._keep, job, placed.files)
            try:
                manifest = self._tell(job, chosen, placed)
            except BaseException:
                kept.result()
                self._let_go(part)
                raise
            self.journal.saved(part.checkpoint)
        kept.result()
        self._last = part.checkpoint
        return manifest

    def _route(self, tree: Tree, others: int) -> Route:
        if self.spill is None or tree.size == 0:  # folders without a file exist on a mount alone
            return Route(spill=False)
        before = self._record_before()
        free = self.home.free_bytes() if isinstance(self.home, HomeStore) else None
        known = max(tree.size + others, before.size if before else 0)
        chosen = route(tree.size, known, threshold=self.threshold, free=free, can_spill=True)
        if chosen.spill:
            level = logging.WARNING if chosen.lacks_room else logging.DEBUG
            logger.log(level, "%s go to the bucket: %s", format_size(tree.size), chosen.reason)
        return chosen

    def _record_before(self) -> Record | None:
        """The record of the last checkpoint, for its size; a hint, so that its damage is no reason not to save."""
        try:
            return record_of(self.home, self._last) if self._last else None
        except (ManifestError, ObjectMissingError) as error:
            logger.warning("the record of checkpoint %s cannot be read: %s", self._last, error)
            return None

    def _place(self, job: Job, chosen: Route) -> Placed:
        try:
            return self._store(job, spilled=chosen.spill, detour=chosen.reason if chosen.lacks_room else None)
        except Exception as error:
            if self.spill is None or not another_place_may_do(error):
                raise
            return self._detour(job, chosen, error)

    def _tell(self, job: Job, chosen: Route, placed: Placed) -> Manifest:
        """Write the manifest. A failure here is the home's, and says nothing of the place of the data."""
        try:
            return self._write_manifest(job, placed)
        except OSError as error:
            if chosen.spill or placed.location is not None or self.spill is None or not is_full(error):
                raise
            return self._write_manifest(job, self._detour(job, chosen, error))  # the data takes the room that it needs

    def _write_manifest(self, job: Job, placed: Placed) -> Manifest:
        return write_manifest(
            self.home,
            job.tree,
            job.part,
            placed.files,
            location=placed.location,
            detour=placed.detour,
            seconds=placed.seconds,
            course=job.handed.course(job.begun, placed.sent),
        )

    def _detour(self, job: Job, chosen: Route, error: Exception) -> Placed:
        """Store the data in the other place, loudly, or raise what the first place said."""
        failed, other = ("bucket", "run home") if chosen.spill else ("run home", "bucket")
        if chosen.spill and isinstance(self.home, HomeStore) and not fits(job.tree.size, self.home.free_bytes()):
            raise error
        reason = " ".join(f"the {failed} failed: {error}".split())
        size = format_size(job.tree.size)
        logger.warning("checkpoint %s: %s go to the %s, since %s", job.part.checkpoint, size, other, reason)
        if not chosen.spill:
            self._take_back(job.part)
        try:
            return self._store(job, spilled=not chosen.spill, detour=reason)
        except Exception as second:
            raise second from error

    def _take_back(self, part: Part) -> None:
        """Free what this rank stored of a part on the mount."""
        try:
            self.home.delete(self.journal.take_sent(self.home.uri, part.checkpoint))
        except OSError as error:
            logger.warning("what was stored of checkpoint %s stays in the run home: %s", part.checkpoint, error)

    def _store(self, job: Job, *, spilled: bool, detour: str | None = None) -> Placed:
        began, location = time.monotonic(), None
        if spilled and self.spill is not None:
            data = self.spill()
            location = f"{data.uri}/{job.part.checkpoint}"
            stored = self._upload(data, job, spilled=True)
        elif isinstance(self.home, HomeStore):
            stored = self._upload_to_mount(self.home, job)
        else:
            stored = self._upload(self.home, job, spilled=False)
        sent = time.monotonic()
        return Placed(stored, location, detour, sent - began, sent)

    def _upload(
        self,
        data: Store,
        job: Job,
        *,
        spilled: bool,
        cancel: Cancel | None = None,
        on_progress: Callable[[int], None] | None = None,
    ) -> tuple[Stored, ...]:
        return store_data(
            data,
            job.tree,
            job.part,
            already=[*self.journal.known(data.uri), *job.known_in(data, spilled=spilled)],
            on_stored=lambda stored: self.journal.note(data.uri, job.part.checkpoint, stored),
            on_progress=on_progress,
            cancel=cancel,
            patience=self.patience,
        )

    def _upload_to_mount(self, home: HomeStore, job: Job) -> tuple[Stored, ...]:
        what = f"save checkpoint {job.part.checkpoint}"
        with self._slots(home) as writers:

            def upload(cancel: Cancel, moved: Callable[[int], None]) -> tuple[Stored, ...]:
                data = PosixStore(home.root, requests=writers, alive=partial(moved, 0), cancel=cancel)
                return self._upload(data, job, spilled=False, cancel=cancel, on_progress=moved)

            try:
                return home.watched(upload, what)
            except OSError as error:
                if not is_full(error) or isinstance(error, StorageError):
                    raise
                self._take_back(job.part)  # the space is needed for the run's state
                raise full_error(home.home.recipe, what) from error

    @contextlib.contextmanager
    def _slots(self, home: HomeStore) -> Iterator[int]:
        if self.writers is None:
            yield _WRITERS
            return
        with mount_slots(self.writers.folder, home.root, most=self.writers.most, wanted=_WRITERS) as taken:
            yield taken

    def _let_go(self, part: Part) -> None:
        """What is not saved must not take the place of what is, on a disk that is short of room."""
        if self.cache is not None:
            with contextlib.suppress(OSError):  # it is a cache: the oldest goes first
                self._entry(self.cache, part).remove()

    def _entry(self, cache: NodeCache, part: Part) -> Entry:
        return cache.entry(self.run, part.checkpoint, part.attempt, part.report)

    def _keep(self, job: Job, stored: Collection[Stored]) -> None:
        """Hard-link what was saved into the node's cache; a cache that fails is no reason to fail a save."""
        if self.cache is None:
            return
        name = job.part.checkpoint
        sources = {f"{name}/{file.path}": file for file in data_of(job.tree)}
        files = [(sources[s.key].source, CachedFile(sources[s.key].path, s.size, s.digest, s.chunks)) for s in stored]
        try:
            entry = self._entry(self.cache, job.part)
            with self.cache.room(entry, sum(s.size for s in stored)) as has_room:
                if has_room:
                    entry.link(files)
        except OSError as error:
            logger.warning("checkpoint %s is not kept on this node: %s", name, error)
