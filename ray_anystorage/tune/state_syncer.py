"""Bringing the files of an experiment home: those that changed since the last time, side by side, its state last.

Ray's own syncer sends every file of every trial each time.
"""

from __future__ import annotations

import fnmatch
import logging
import os
import threading
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ray_anystorage.checkpoint.small_files import side_by_side, write
from ray_anystorage.errors import AnyStorageError, SourceChangedError
from ray_anystorage.home.store import watched
from ray_anystorage.transfer.engine import upload
from ray_anystorage.transfer.files import Outgoing
from ray_anystorage.transfer.store import Store
from ray_anystorage.tune.experiment_home import ExperimentHome, carried_home
from ray_anystorage.tune.hooks import BackgroundSyncer, download

logger = logging.getLogger("ray.tune.anystorage")

# Seconds that a file is left alone before its time tells whether it changed: over a tick of the kernel's clock, or,
# where a time on a whole second may be all that the file system keeps, over the two seconds of the coarsest.
_SETTLED_AFTER, _COARSELY_SETTLED_AFTER = 0.05, 2.1
_TRIES = 5  # of files that change while they are sent


@dataclass(frozen=True, slots=True)
class _Seen:
    """A file when it was looked at; one that was not settled then may change and look the same."""

    inode: int
    size: int
    written: int  # nanoseconds
    settled: bool = field(compare=False)

    @classmethod
    def of(cls, path: str) -> _Seen:
        now, status = time.time_ns(), os.stat(path)
        return cls(status.st_ino, status.st_size, status.st_mtime_ns, _is_settled(status.st_mtime_ns, now))


@dataclass(frozen=True, slots=True)
class _Load:
    """What one way home takes along.

    Attributes
    ----------
    number
        Of the way: one that a later one was begun beside does nothing more.
    state
        The experiment's own files as they were when it began, by key: the driver writes them anew meanwhile.
    seen
        How they looked then, by path.
    dropped
        Checkpoints that this state does not name.
    named
        Those that it names.
    """

    number: int
    state: dict[str, bytes]
    seen: dict[str, _Seen]
    dropped: tuple[str, ...]
    named: frozenset[str]


class StateSyncer(BackgroundSyncer):  # type: ignore[misc]
    """One process's way home.

    Parameters
    ----------
    filesystem
        Carries the experiment's home.
    sync_period, sync_timeout
        Seconds, as Ray's ``SyncConfig`` has them.

    Attributes
    ----------
    kept
        Says which checkpoints are of use to somebody: another trial's too, which a population exchanges.
    named
        Says which checkpoints the trials' state names.
    named_at_home
        What the state named that came home last; ``None`` before the first.
    begun, arrived
        Numbers of the way home that was begun last, and of the last one that ended well.
    took
        Seconds of that one.
    """

    def __init__(self, filesystem: Any, sync_period: float, sync_timeout: float) -> None:
        super().__init__(sync_period=sync_period, sync_timeout=sync_timeout)
        self.kept: Callable[[], frozenset[str]] = frozenset
        self.named: Callable[[], frozenset[str]] = frozenset
        self.named_at_home: frozenset[str] | None = None
        self._filesystem = filesystem
        self._sent: dict[str, _Seen] = {}
        self._dropped: list[str] = []  # checkpoints that Tune keeps no longer, but its state at home may name
        self.begun = self.arrived = 0
        self.took = 0.0
        self._lock = threading.Lock()

    def drop(self, name: str) -> None:
        """Delete a checkpoint as soon as the state is home that does not name it."""
        with self._lock:
            self._dropped.append(name)

    @property
    def busy(self) -> bool:
        """Whether a way home is under way, and no other can begin."""
        return bool(self._should_continue_existing_sync())

    def _sync_up_command(
        self, local_path: str, uri: str, exclude: list[str] | None = None
    ) -> tuple[Callable[..., None], dict[str, Any]]:
        """What Ray calls in the thread that writes the state, when it has written it."""
        below = carried_home(self._filesystem).name_of(f"{uri}/")
        with self._lock:
            self.begun += 1
            kept = self.kept() if self._dropped else frozenset()
            dropped = tuple(name for name in self._dropped if name not in kept)
        seen: dict[str, _Seen] = {}
        state: dict[str, bytes] = {}
        if not below:  # else it is a trial's own folder, which has no state
            seen = self._changed(_state_files(local_path), local_path, exclude or [])
            state = {os.path.relpath(path, local_path): Path(path).read_bytes() for path in seen}
        load = _Load(self.begun, state, seen, dropped, self.named())
        return self._bring, {"local_path": local_path, "below": below, "exclude": exclude or [], "load": load}

    def _sync_down_command(self, uri: str, local_path: str) -> tuple[Callable[..., None], dict[str, Any]]:
        return download, {"fs": self._filesystem, "fs_path": uri, "local_path": local_path}

    def _delete_command(self, uri: str) -> tuple[Callable[..., None], dict[str, Any]]:
        return self._filesystem.delete_dir, {"path": uri}

    def _bring(self, local_path: str, below: str, exclude: list[str], load: _Load) -> None:
        """First what the state refers to, which lies in the folders of trials, then the state, then what it drops."""
        started, home = time.monotonic(), carried_home(self._filesystem)
        store = home.open(self._filesystem)
        for attempt in range(_TRIES):
            try:
                self._send(store, local_path, below, exclude)
                break
            except (SourceChangedError, FileNotFoundError):  # of a file that is just being replaced
                if attempt + 1 == _TRIES:
                    raise
        if load.number == self.begun:
            side_by_side(lambda item: write(store, *item), list(load.state.items()))
            self._remember(load.seen)
            if not below:
                self.named_at_home = load.named
            self._delete(home, load.dropped)
        self.arrived, self.took = load.number, time.monotonic() - started

    def _send(self, store: Store, root: str, below: str, exclude: list[str]) -> None:
        """Send what changed; of the experiment's own folder, what lies in those of its trials."""
        changed = self._changed(_files(root) if below else _trials_files(root), root, exclude)
        files = [Outgoing(path, _key(below, os.path.relpath(path, root)), look.size) for path, look in changed.items()]
        if files:
            watched(
                store,
                lambda cancel, moved: upload(store, files, cancel=cancel, on_progress=moved),
                "bring the state home",
            )
        self._remember(changed)

    def _changed(self, paths: Iterable[str], root: str, exclude: list[str]) -> dict[str, _Seen]:
        found = {}
        for path in paths:
            inside = os.path.relpath(path, root)
            if not any(fnmatch.fnmatch(inside, pattern) for pattern in exclude) and os.path.isfile(path):
                look = _Seen.of(path)
                if self._sent.get(path) != look:
                    found[path] = look
        return found

    def _remember(self, seen: Mapping[str, _Seen]) -> None:
        """Not what had just been written: another write within a tick of the file system's clock would look alike."""
        self._sent |= {path: look for path, look in seen.items() if look.settled}

    def _delete(self, home: ExperimentHome, names: Collection[str]) -> None:
        side_by_side(lambda name: delete_quietly(home, self._filesystem, name), list(names))
        with self._lock:
            for name in names:
                self._dropped.remove(name)


def delete_quietly(home: ExperimentHome, filesystem: Any, name: str) -> None:
    """Delete a checkpoint as Ray does: a failure is no reason to end the experiment, and `prune` finds what is left."""
    try:
        home.delete(filesystem, name)
    except (AnyStorageError, OSError) as error:
        logger.warning("checkpoint %s was not deleted, or in part: %s", name, error)


def _is_settled(written: int, now: int) -> bool:
    """Whether a file's time, in nanoseconds, lies so far back that a later write has another."""
    return now - written > (_SETTLED_AFTER if written % 1_000_000_000 else _COARSELY_SETTLED_AFTER) * 1e9


def _files(root: str) -> Iterator[str]:
    for folder, _, names in os.walk(root):
        yield from (os.path.join(folder, name) for name in names)


def _state_files(root: str) -> list[str]:
    """The experiment's own; a driver that has nothing yet has no folder."""
    return [os.path.join(root, name) for name in os.listdir(root)] if os.path.isdir(root) else []


def _trials_files(root: str) -> Iterator[str]:
    return (path for path in _files(root) if os.sep in os.path.relpath(path, root))


def _key(below: str, inside: str) -> str:
    return f"{below}/{inside}" if below else inside
