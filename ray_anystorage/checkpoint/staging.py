"""Directories that were taken over from the training and wait to be saved: staged, bounded, and swept when it is over.

One :class:`Staging` serves a process. Its folder lies in the node's temporary directory and is held by a lock for as
long as the process lives, so that the next process of the node can tell what a dead one left.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import os
import shutil
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass

from ray_anystorage import events
from ray_anystorage.checkpoint.course import Handed
from ray_anystorage.checkpoint.node import current
from ray_anystorage.checkpoint.staging_place import Place, remove
from ray_anystorage.checkpoint.taking import can_move, copy_tree, is_below, move
from ray_anystorage.checkpoint.tree import scan
from ray_anystorage.errors import RequestError
from ray_anystorage.home.atomic import is_full
from ray_anystorage.units import format_size

logger = logging.getLogger("ray.train.anystorage")

_SHARE = 0.5  # of what was free, for what waits to be saved by all ranks of the node
_COPY_SHARE = 0.9  # of what is free, that a copy may take: a full disk would stop the training
_current: dict[int, Staging] = {}  # by process: a fork starts anew


@dataclass(frozen=True, slots=True)
class Staged:
    """A directory that waits to be saved: where it lies now, its bytes, and where it was moved from (not copied)."""

    directory: str
    size: int
    moved_from: str | None


class Staging:
    """What one process took over and has not saved yet.

    Parameters
    ----------
    run
        Name of the run.
    ranks
        Processes of the run on this node, which share the space.
    home
        The run home where it is on a mount: what lies there is copied.
    """

    def __init__(self, run: str, ranks: int, home: str | None = None) -> None:
        self._run, self._ranks, self._home = run, ranks, home
        self._place = Place()
        self.folder = self._place.open_folder(run)
        self._numbers = itertools.count()
        self._changed = threading.Condition()
        self._waiting: dict[str, int] = {}  # bytes by directory
        self._failures: dict[str, BaseException] = {}  # by directory
        self._handed: dict[str, Handed] = {}  # by directory

    def stage(self, directory: str, *, keep: bool) -> Staged | None:
        """Take a directory over, or copy it, so that the caller may write into it again at once.

        Waits while what is staged already leaves no room for it.

        Parameters
        ----------
        directory
            An absolute path. It is moved where it lies on the staging device, nothing else leads to its content and it
            is no stored checkpoint; an empty one of the same mode takes its place.
        keep
            Leave it as it is, and copy.

        Returns
        -------
        Staged or None
            ``None`` where even one such copy does not fit.

        Raises
        ------
        BaseException
            What an earlier save failed with.
        UnsavableFileError
            Something in the directory cannot be saved as it is.
        RequestError
            It holds the staging folder.
        """
        with events.operation("stage") as under_way:
            start = time.monotonic()
            staged = self._stage(directory, keep=keep)
            if staged is not None:
                self._handed[staged.directory] = Handed.at(start)
                under_way.outcome = events.Staged(staged.size, copied=staged.moved_from is None)
            return staged

    def handed(self, directory: str) -> Handed | None:
        """When a staged directory was handed over; ``None`` for one that is not staged."""
        return self._handed.get(directory)

    def _stage(self, directory: str, *, keep: bool) -> Staged | None:
        if is_below(self.folder, directory):
            raise RequestError(f"{directory} cannot be reported: temporary files of the run lie in it")
        tree = scan(directory)
        target = os.path.join(self.folder, str(next(self._numbers)))
        stored = [current().cache_folder, *([self._home] if self._home else [])]
        moves = not keep and can_move(directory, tree, self.folder, stored=stored)
        if not self._reserve(target, tree.size, copies=not moves):
            return None
        try:
            if moves and move(directory, target):
                return Staged(target, tree.size, directory)
            copy_tree(tree, target)
        except BaseException as error:
            self._forget(target)
            if isinstance(error, OSError) and is_full(error):
                return None
            raise
        return Staged(target, tree.size, None)

    def ended(self, directory: str, error: BaseException | None) -> None:
        """A save of a staged directory ended; it is removed where that went well."""
        with self._changed:
            if directory not in self._waiting:
                return
            if error is not None:
                self._failures[directory] = error
                self._changed.notify_all()
                return
        self._forget(directory)

    def give_back(self, staged: Staged) -> None:
        """Undo staging: nothing will save this directory."""
        if staged.moved_from is not None:
            try:
                os.rename(staged.directory, staged.moved_from)
            except OSError as error:
                logger.warning("%s could not be put back and is lost: %s", staged.moved_from, error)
        self._forget(staged.directory)

    def wait(self, staged: Staged) -> None:
        """Return when a directory has been saved; raise where its save or an earlier one failed."""
        with self._changed:
            self._changed.wait_for(lambda: self._failures or staged.directory not in self._waiting)
        self.check()

    def check(self) -> None:
        """Raise what a save failed with."""
        with self._changed:
            failure = next(iter(self._failures.values()), None)
        if failure is not None:
            raise failure

    @contextlib.contextmanager
    def claim(self, directory: str, turn: int, *, shared: bool) -> Iterator[None]:
        """Hold a directory while it is reported.

        Parameters
        ----------
        turn
            Which report of the run it is: no rank gets to the next one before all have claimed theirs for this one.
        shared
            Others may report it too, since nobody moves it.

        Raises
        ------
        RequestError
            Another rank of this node reports the same directory.
        """
        with self._place.claim(f"{self._run}\0{turn}\0{os.path.realpath(directory)}", shared=shared) as ours:
            if not ours:
                raise RequestError(
                    f"two ranks of this node report the same directory {directory}, and one would take it from the "
                    "other: give each rank a directory of its own, or pass keep=True on all of them"
                )
            yield

    def discard(self) -> None:
        """Remove everything that is staged; a save of it that is under way fails. Nothing can be staged afterwards."""
        self._place.close_folder(self.folder)

    def _reserve(self, target: str, size: int, *, copies: bool) -> bool:
        with self._changed:
            if not self._has_room(size, copies=copies) and self._waiting:
                logger.info("a checkpoint of %s waits until an earlier one is saved", format_size(size))
            self._changed.wait_for(
                lambda: self._failures or not self._waiting or self._has_room(size, copies=copies),
            )
            self.check()
            if not self._has_room(size, copies=copies):
                return False
            self._waiting[target] = size
            return True

    def _has_room(self, size: int, *, copies: bool) -> bool:
        free = shutil.disk_usage(self.folder).free
        if copies and size > free * _COPY_SHARE:
            return False
        staged = sum(self._waiting.values())
        return not self._waiting or staged + size <= (free + staged) * _SHARE / self._ranks

    def _forget(self, directory: str) -> None:
        """Remove a directory, then let others have its room."""
        remove(directory)
        with self._changed:
            self._waiting.pop(directory, None)
            self._failures.pop(directory, None)
            self._handed.pop(directory, None)
            self._changed.notify_all()


def of_process(run: str, ranks: int, home: str | None = None) -> Staging:
    """This process's staging, opened when it is first asked for; see :class:`Staging`."""
    known = _current.get(os.getpid())
    if known is None:
        known = _current[os.getpid()] = Staging(run, ranks, home)
    return known


def ended(directory: str, error: BaseException | None) -> None:
    """A save of this directory ended, well where ``error`` is ``None``; nothing for one that was not staged.

    May be called again: a save that is tried anew after an error, and succeeds, takes the error back.
    """
    staging = _current.get(os.getpid())
    if staging is not None:
        staging.ended(directory, error)


def handed(directory: str) -> Handed | None:
    """When this process handed a directory over to be saved; ``None`` for one that it did not stage."""
    staging = _current.get(os.getpid())
    return staging.handed(directory) if staging is not None else None


def discard() -> None:
    """Remove what this process staged; for its end, when nothing can be saved any more."""
    staging = _current.pop(os.getpid(), None)
    if staging is not None:
        staging.discard()
