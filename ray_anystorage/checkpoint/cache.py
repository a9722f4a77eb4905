"""The node's cache of checkpoints: what was saved or fetched here is not fetched again, within a share of the disk."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass

from ray_anystorage.checkpoint.cache_entry import TRASH, Entry, own_root
from ray_anystorage.checkpoint.cache_files import CachedFile, delete_tree
from ray_anystorage.checkpoint.cache_room import PROMISED, promise, to_come
from ray_anystorage.transfer.digest import chunk_digest
from ray_anystorage.transfer.locks import locked

__all__ = ["CachedFile", "Entry", "NodeCache"]

logger = logging.getLogger(__name__)

_KEPT_OF_A_LIVE_RUN = 2  # the newest may turn out to be damaged, or not to be committed
_LEFT_FREE = 0.05  # of the disk's bytes, for everybody else on the node
_READABLE = 40  # characters of the end of a name that a folder's name repeats


class NodeCache:
    """Files of checkpoints on this node's own disk, shared by all processes of the node and of the user.

    Parameters
    ----------
    root
        A folder of this user's on a disk of this node; made when first needed, with mode 0700.
    share
        How much of the disk's total bytes the entries may take, from 0 to 1.
    """

    def __init__(self, root: str, *, share: float = 0.2) -> None:
        if not 0 <= share <= 1:
            raise ValueError(f"share {share} of the disk: it must be from 0 to 1")
        self._root = os.path.abspath(root)
        self._share = share

    def entry(self, run: str, checkpoint: str, attempt: str, report: int = 0) -> Entry:
        """The place of one checkpoint as one report of an attempt saved it; any strings will do. Creates nothing."""
        folder = _folder_name(checkpoint, attempt, str(report))
        return Entry(self._root, os.path.join(self._run_folder(run), folder))

    @contextlib.contextmanager
    def hold_run(self, run: str) -> Iterator[None]:
        """Say that a run is live: its two newest entries are not evicted.

        Raises
        ------
        OSError
            The cache cannot be written.
        """
        own_root(self._root)
        with locked(self._run_folder(run), shared=True):
            yield

    def drop_run(self, run: str) -> None:
        """Remove the entries of a run, live or not, but for those in use.

        Raises
        ------
        OSError
            They cannot be removed.
        """
        folder = self._run_folder(run)
        for entry in _folders(folder):
            Entry(self._root, entry).remove()
        _remove_empty_run(folder)

    @contextlib.contextmanager
    def room(self, entry: Entry, size: int) -> Iterator[bool]:
        """Evict entries, the least recently used first, until there is room, and keep it for an entry until the end.

        Never evicted are entries in use, and of a live run the two that were saved here last, or fetched where fewer
        were saved.

        Parameters
        ----------
        entry
            That is to be filled.
        size
            Bytes to come, which should fit both in the share and in the disk's free space, with a twentieth of the disk
            to spare, beside what other processes were promised.

        Yields
        ------
        bool
            False where they do not fit after everything that may go has gone; then nothing is kept.

        Raises
        ------
        OSError
            The cache cannot be read or written.
        """
        own_root(self._root)
        with contextlib.ExitStack() as kept:
            with locked(os.path.join(self._root, PROMISED)):
                fits = self._make_room(size)
                if fits:
                    kept.enter_context(promise(self._root, entry.folder, _size(entry.folder) + size))
            yield fits

    def _make_room(self, size: int) -> bool:
        for gone in _folders(os.path.join(self._root, TRASH)):
            delete_tree(gone)
        runs = [folder for folder in _folders(self._root) if os.path.basename(folder) not in (TRASH, PROMISED)]
        fits = self._evict([resident for run in runs for resident in _residents(run)], size)
        for run in runs:
            _remove_empty_run(run)
        return fits

    def _evict(self, residents: list[_Resident], size: int) -> bool:
        taken = sum(resident.size for resident in residents)
        promised = to_come(self._root, {resident.folder: resident.size for resident in residents})
        for resident in sorted(residents, key=lambda resident: resident.used):
            if self._fits(taken, promised + size):
                return True
            if self._evict_one(resident):
                taken -= resident.size
        return self._fits(taken, promised + size)

    def _evict_one(self, resident: _Resident) -> bool:
        with contextlib.ExitStack() as held:
            if resident.newest:
                try:  # held until it is gone, so that the run does not become live in between
                    held.enter_context(locked(os.path.dirname(resident.folder), wait=False))
                except BlockingIOError:
                    return False
            evicted = Entry(self._root, resident.folder).remove()
        if evicted:
            logger.info("evicted %s from the node's cache, %d bytes", resident.folder, resident.size)
        return evicted

    def _fits(self, taken: int, size: int) -> bool:
        disk = os.statvfs(self._root)
        total, free = disk.f_blocks * disk.f_frsize, disk.f_bavail * disk.f_frsize
        return taken + size <= self._share * total and size + _LEFT_FREE * total <= free

    def _run_folder(self, run: str) -> str:
        return os.path.join(self._root, _folder_name(run))


@dataclass(frozen=True, slots=True)
class _Resident:
    """An entry that may have to go; ``newest`` if it is one of those that a live run keeps."""

    folder: str
    size: int
    used: int
    newest: bool


def _residents(run: str) -> list[_Resident]:
    folders = _folders(run)
    newest = sorted(folders, key=_age)[-_KEPT_OF_A_LIVE_RUN:]
    return [
        _Resident(folder, _size(folder), _time(os.path.join(folder, "used")), newest=folder in newest)
        for folder in folders
    ]


def _age(folder: str) -> tuple[int, int]:
    """What was saved on this node is newer than what was only fetched, which may be any older checkpoint."""
    return _time(os.path.join(folder, "saved")), _time(os.path.join(folder, "made"))


def _size(folder: str) -> int:
    """Bytes on the disk. Files that are still linked elsewhere count too: nobody says for how long they are."""
    total = 0
    for parent, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(FileNotFoundError):
                total += os.lstat(os.path.join(parent, name)).st_blocks * 512
    return total


def _time(path: str) -> int:
    try:
        return os.stat(path).st_mtime_ns
    except FileNotFoundError:  # its maker was killed, or somebody removes it right now
        return 0


def _folders(parent: str) -> list[str]:
    try:
        with os.scandir(parent) as items:
            return [item.path for item in items if item.is_dir(follow_symlinks=False)]
    except FileNotFoundError:
        return []


def _remove_empty_run(folder: str) -> None:
    if os.path.isdir(folder) and not _folders(folder):
        with contextlib.suppress(BlockingIOError, FileNotFoundError), locked(folder, wait=False):
            if not os.listdir(folder):
                os.rmdir(folder)


def _folder_name(*names: str) -> str:
    """A name that is safe for any strings and differs for others, with enough of the last to recognise it."""
    readable = re.sub(r"[^A-Za-z0-9_.-]+", "_", "-".join(names))[-_READABLE:]
    return f"{chunk_digest(json.dumps(names).encode())}-{readable}"
