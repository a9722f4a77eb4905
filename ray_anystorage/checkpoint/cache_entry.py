"""One checkpoint of one report in the node's cache: linked or filled by some processes, read by others, verified.

An entry is a folder. Its own lock is shared by all who use the entry, and held alone by who removes it; the lock of its
``data`` folder is held by the one process that fills it. So a reader does not keep others from filling in more files.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import secrets
import stat
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from ray_anystorage.checkpoint.cache_files import CachedFile, delete_tree, drop_file, link_file, make_own, verify_file
from ray_anystorage.checkpoint.cache_index import Index, Record, is_settled, stamp_of
from ray_anystorage.checkpoint.manifest import check_path
from ray_anystorage.checkpoint.planted import unlink_planted
from ray_anystorage.transfer.locks import locked
from ray_anystorage.transfer.temporary import is_temporary

logger = logging.getLogger(__name__)

TRASH = "trash"  # in the cache's root: what was taken away in one step, to be deleted in many


@dataclass(frozen=True, slots=True)
class Entry:
    """The files of one checkpoint on this node's disk; made by :meth:`ray_anystorage.checkpoint.cache.NodeCache.entry`.

    Attributes
    ----------
    root
        The cache's folder.
    folder
        The entry's; exists only while somebody uses the entry or it holds files.
    """

    root: str
    folder: str

    @property
    def directory(self) -> str:
        """Where the files are."""
        return os.path.join(self.folder, "data")

    @contextlib.contextmanager
    def reading(self) -> Iterator[None]:
        """Keep the entry from being evicted; many may at once. The directory exists then, perhaps empty.

        Raises
        ------
        OSError
            The cache cannot be written.
        """
        own_root(self.root)
        with locked(self.folder, shared=True):
            os.makedirs(self.directory, exist_ok=True)
            for name in ("made", "used"):
                _mark(os.path.join(self.folder, name))
            self.touch()
            yield

    @contextlib.contextmanager
    def filling(self) -> Iterator[None]:
        """Be the only process of the node that fills the entry; the others wait here.

        To go on to read, be :meth:`reading` around this: between one and the other the entry might be evicted.

        Raises
        ------
        OSError
            The cache cannot be written.
        """
        with self.reading(), locked(self.directory):
            yield

    def touch(self) -> None:
        """Note that the entry was used now; nothing where there is none."""
        with contextlib.suppress(FileNotFoundError):
            os.utime(os.path.join(self.folder, "used"))

    def link(self, sources: Iterable[tuple[str, CachedFile]]) -> int:
        """Give files a second name in the entry; what cannot be linked is passed over, with a line in the log.

        Parameters
        ----------
        sources
            Where each file lies, and what it is.

        Returns
        -------
        int
            How many were linked.

        Raises
        ------
        ValueError
            A path is not a plain path below the checkpoint; nothing was linked.
        """
        wanted = [(source, file, check_path(file.path)) for source, file in sources]
        index, linked = Index(self.folder), dict[str, Record]()
        try:
            with self.reading(), index.alone():
                unlink_planted(self.directory, [path for _, _, path in wanted])
                for source, file, path in wanted:
                    record = link_file(source, file, os.path.join(self.directory, path), index.temporary())
                    if record is not None:
                        linked[path] = record
                if linked:
                    _mark(os.path.join(self.folder, "saved"))
                    index.add(linked)
        except OSError as error:
            logger.warning("the node's cache takes no links at %s: %s", self.folder, error)
        return len(linked)

    def missing(self, files: Sequence[CachedFile], session: str) -> tuple[CachedFile, ...]:
        """Verify what is there, drop what is damaged, and say what has to be fetched; call while :meth:`filling`.

        Parameters
        ----------
        session
            In which a file that did not change is hashed once; in another it is hashed again.

        Raises
        ------
        ValueError
            A path is not a plain path below the checkpoint.
        OSError
            The entry cannot be read or written.
        """
        index = Index(self.folder)
        targets = [(file, os.path.join(self.directory, check_path(file.path))) for file in files]
        _sweep(self.directory)
        unlink_planted(self.directory, [file.path for file in files])
        known, verified, absent = index.read(), dict[str, Record](), list[CachedFile]()
        for file, target in targets:
            try:
                make_own(target)
                record = verify_file(file, target, known.get(file.path), session)
            except FileNotFoundError:
                absent.append(file)
            except OSError as error:
                logger.warning("dropped %s from the node's cache: %s", target, error.strerror)
                drop_file(target, self.directory)
                absent.append(file)
            else:
                if is_settled(record.stamp) and record != known.get(file.path):
                    verified[file.path] = record
        with index.alone():
            index.add(verified)
        return tuple(absent)

    def record(self, files: Iterable[CachedFile], session: str) -> None:
        """Note that these files were verified on their way in, so that nobody hashes them in this session again.

        Call while :meth:`filling`, after the transfer that verified them.

        Raises
        ------
        ValueError
            A path is not a plain path below the checkpoint.
        OSError
            A file is not there, or the entry cannot be written.
        """
        records = {
            file.path: Record(
                file.digest, stamp_of(os.lstat(os.path.join(self.directory, check_path(file.path)))), session
            )
            for file in files
        }
        index = Index(self.folder)
        with index.alone():
            index.add({path: record for path, record in records.items() if is_settled(record.stamp)})

    def remove(self) -> bool:
        """Remove the entry unless somebody uses it; true when it is gone.

        Raises
        ------
        OSError
            It cannot be removed.
        """
        if not os.path.isdir(self.folder):
            return True
        gone = os.path.join(self.root, TRASH, secrets.token_hex(8))
        os.makedirs(os.path.dirname(gone), exist_ok=True)
        try:
            with locked(self.folder, wait=False):
                os.rename(self.folder, gone)
        except BlockingIOError:
            logger.debug("%s is in use and stays", self.folder)
            return False
        delete_tree(gone)
        return True


def own_root(root: str) -> None:
    """Make a folder of this node's, or see that it belongs to this user alone.

    Raises
    ------
    PermissionError
        It is a link, no folder, or another user's: what lies there may be theirs, and is not to be restored.
    OSError
        It cannot be made.
    """
    os.makedirs(root, mode=0o700, exist_ok=True)
    status = os.lstat(root)
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.geteuid():
        raise PermissionError(errno.EPERM, "the node's cache is not a folder of this user", root)
    if stat.S_IMODE(status.st_mode) != 0o700:
        os.chmod(root, 0o700)


def _mark(path: str) -> None:
    """Make an empty file whose time says when; it stays as it is where it exists."""
    with contextlib.suppress(FileExistsError):
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))


def _sweep(directory: str) -> None:
    for folder, _, names in os.walk(directory):
        for name in filter(is_temporary, names):
            os.unlink(os.path.join(folder, name))
