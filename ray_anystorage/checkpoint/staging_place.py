"""Where staged directories lie on a node: a folder per process, locked while it lives, and swept when it is dead."""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import shutil
import tempfile
from collections.abc import Iterator

from ray_anystorage.checkpoint.node import current, node_folder
from ray_anystorage.transfer.locks import locked

logger = logging.getLogger("ray.train.anystorage")


class Place:
    """The folder in the node's temporary directory that all processes of this user stage in.

    Raises
    ------
    PermissionError
        It belongs to someone else.
    """

    def __init__(self) -> None:
        self._root = os.path.join(os.path.realpath(_above()), "staging")
        self._runs, self._claims = os.path.join(self._root, "runs"), os.path.join(self._root, "claims")
        for folder in (self._runs, self._claims):
            os.makedirs(folder, mode=0o700, exist_ok=True)
        if os.stat(self._root).st_uid != os.getuid():
            raise PermissionError(
                f"{self._root} belongs to another user, who could change what is staged there: remove it"
            )
        self._open: dict[str, contextlib.ExitStack] = {}  # what holds the lock, by folder

    def open_folder(self, run: str) -> str:
        """A new folder of this process, after what dead processes left was removed."""
        above, held = os.path.join(self._runs, run), contextlib.ExitStack()
        with locked(self._root):  # or others would sweep what is about to be locked
            self._sweep()
            os.makedirs(above, mode=0o700, exist_ok=True)
            folder = tempfile.mkdtemp(prefix=f"{os.getpid()}-", dir=above)
            held.enter_context(locked(folder))
        self._open[folder] = held
        return folder

    def close_folder(self, folder: str) -> None:
        """Remove a folder of this process; a save of something in it that is under way fails."""
        with contextlib.suppress(FileNotFoundError):
            # Renamed first: a save that is under way finds nothing, rather than some of its files.
            os.rename(folder, f"{folder}-over")
        remove(f"{folder}-over")
        self._open.pop(folder).close()

    @contextlib.contextmanager
    def claim(self, what: str, *, shared: bool) -> Iterator[bool]:
        """Claim something among the processes of this node: false where others have, and one claim is not shared."""
        claim = os.path.join(self._claims, hashlib.blake2b(what.encode(), digest_size=16).hexdigest())
        with contextlib.ExitStack() as held:
            try:
                with locked(self._root):
                    held.enter_context(locked(claim, shared=shared, wait=False))
            except BlockingIOError:
                yield False
                return
            try:
                yield True
            finally:
                with contextlib.suppress(FileNotFoundError):  # another that shared it was first
                    os.rmdir(claim)

    def _sweep(self) -> None:
        """Remove what dead processes left: their locks went with them."""
        runs = [os.path.join(self._runs, run) for run in os.listdir(self._runs)]
        for above in (*runs, self._claims):
            for name in os.listdir(above):
                folder = os.path.join(above, name)
                with contextlib.suppress(BlockingIOError), locked(folder, wait=False):
                    logger.debug("removing %s, which a process that is gone left", folder)
                    remove(folder)


def _above() -> str:
    """This user's folder on the disk of this process's temporary files, the same for all runs."""
    temporary, own = os.path.realpath(tempfile.gettempdir()), os.path.realpath(current().folder)
    return own if temporary.startswith(f"{own}/") else node_folder(temporary)


def remove(directory: str) -> None:
    """Remove a directory with all in it, if it is there; what cannot be removed is logged."""
    try:
        shutil.rmtree(directory)
    except FileNotFoundError:
        logger.debug("%s was gone already", directory)
    except OSError as error:
        logger.warning("%s could not be removed: %s", directory, error)
