"""Bringing the files of an experiment home: those that changed since the last time, side by side, its state last.

Ray's own syncer sends every file of every trial each time.
"""

from __future__ import annotations

import fnmatch
import logging
import os
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from ray_anystorage.errors import AnyStorageError, SourceChangedError
from ray_anystorage.home.store import HomeStore
from ray_anystorage.transfer.engine import upload
from ray_anystorage.transfer.files import Outgoing
from ray_anystorage.transfer.store import Store
from ray_anystorage.tune.experiment_home import ExperimentHome, carried_home
from ray_anystorage.tune.hooks import BackgroundSyncer

logger = logging.getLogger("ray.tune.anystorage")

_SETTLED_AFTER = 1.0  # seconds that a file is left alone before its time tells whether it changed
_TRIES = 5  # of files that change while they are sent
_DELETES = 8  # checkpoints at once
_Seen = tuple[int, int, int]  # inode, bytes and time of a file


class StateSyncer(BackgroundSyncer):  # type: ignore[misc]
    """One process's way home.

    Parameters
    ----------
    filesystem
        Carries the experiment's home.
    sync_period, sync_timeout
        Seconds, as Ray's ``SyncConfig`` has them.
    """

    def __init__(self, filesystem: Any, sync_period: float, sync_timeout: float) -> None:
        super().__init__(sync_period=sync_period, sync_timeout=sync_timeout)
        self._filesystem = filesystem
        self._sent: dict[str, _Seen] = {}
        self._dropped: list[str] = []  # checkpoints that Tune keeps no longer, but its state at home may name
        self._lock = threading.Lock()

    def drop(self, name: str) -> None:
        """Delete a checkpoint as soon as the state is home that does not name it."""
        with self._lock:
            self._dropped.append(name)

    def _sync_up_command(
        self, local_path: str, uri: str, exclude: list[str] | None = None
    ) -> tuple[Callable[..., None], dict[str, Any]]:
        with self._lock:
            dropped = list(self._dropped)
        return self._bring, {"local_path": local_path, "fs_path": uri, "exclude": exclude or [], "dropped": dropped}

    def _sync_down_command(self, uri: str, local_path: str) -> tuple[Callable[..., None], dict[str, Any]]:
        from ray.train._internal.storage import _download_from_fs_path

        return _download_from_fs_path, {"fs": self._filesystem, "fs_path": uri, "local_path": local_path}

    def _delete_command(self, uri: str) -> tuple[Callable[..., None], dict[str, Any]]:
        return self._filesystem.delete_dir, {"path": uri}

    def _bring(self, local_path: str, fs_path: str, exclude: list[str], dropped: list[str]) -> None:
        home = carried_home(self._filesystem)
        store = home.open(self._filesystem)
        below = home.name_of(f"{fs_path}/")
        for attempt in range(_TRIES):
            try:
                self._send(store, local_path, below, exclude)
                break
            except (SourceChangedError, FileNotFoundError):  # of a file that is just being replaced
                if attempt + 1 == _TRIES:
                    raise
        self._delete(home, dropped)

    def _send(self, store: Store, root: str, below: str, exclude: list[str]) -> None:
        """Send what changed: first what the state refers to, which lies in the folders of trials, then the state."""
        now = time.time_ns()
        changed = {path: seen for path, seen in _files(root, exclude) if self._sent.get(path) != seen}
        for deep in (True, False):
            paths = [path for path in changed if (os.sep in os.path.relpath(path, root)) == deep]
            files = [Outgoing(path, _key(below, os.path.relpath(path, root)), changed[path][1]) for path in paths]
            if files:
                _upload(store, files)
            for path in paths:
                if now - changed[path][2] > _SETTLED_AFTER * 1e9:
                    self._sent[path] = changed[path]

    def _delete(self, home: ExperimentHome, names: list[str]) -> None:
        if not names:
            return
        with ThreadPoolExecutor(min(_DELETES, len(names))) as pool:
            list(pool.map(lambda name: delete_quietly(home, self._filesystem, name), names))
        with self._lock:
            self._dropped = self._dropped[len(names) :]


def delete_quietly(home: ExperimentHome, filesystem: Any, name: str) -> None:
    """Delete a checkpoint as Ray does: a failure is no reason to end the experiment, and `prune` finds what is left."""
    try:
        home.delete(filesystem, name)
    except (AnyStorageError, OSError) as error:
        logger.warning("checkpoint %s was not deleted, or in part: %s", name, error)


def _upload(store: Store, files: list[Outgoing]) -> None:
    if isinstance(store, HomeStore):
        store.watched(
            lambda cancel, moved: upload(store, files, cancel=cancel, on_progress=moved), "bring the state home"
        )
    else:
        upload(store, files)


def _files(root: str, exclude: list[str]) -> Iterator[tuple[str, _Seen]]:
    for folder, _, names in os.walk(root):
        for name in names:
            path = os.path.join(folder, name)
            inside = os.path.relpath(path, root)
            if not any(fnmatch.fnmatch(inside, pattern) for pattern in exclude) and os.path.isfile(path):
                status = os.stat(path)
                yield path, (status.st_ino, status.st_size, status.st_mtime_ns)


def _key(below: str, inside: str) -> str:
    return f"{below}/{inside}" if below else inside
