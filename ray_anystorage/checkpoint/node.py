"""What the processes of one node share: a folder on its own disk, with the cache and the word of what was verified."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import logging
import os
import shutil
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass

from ray_anystorage.checkpoint.cache import NodeCache
from ray_anystorage.checkpoint.cache_entry import own_root
from ray_anystorage.settings import DEFAULT_CACHE_SHARE, read_settings

logger = logging.getLogger("ray.train.anystorage")

_OLD = 7 * 24 * 3600.0  # seconds after which what another session verified is forgotten
_state: dict[int, Node] = {}  # by process: a fork starts anew


@dataclass(frozen=True, slots=True)
class Node:
    """This process's place on its node.

    Attributes
    ----------
    folder
        Of this user, on the node's own disk.
    session
        The attempt of the run, or this process where there is none. What was verified counts within a session.
    cache_share
        Share of the disk that the cache may take; 0 turns it off.
    """

    folder: str
    session: str
    cache_share: float = DEFAULT_CACHE_SHARE

    @property
    def cache(self) -> NodeCache | None:
        """The cache, or ``None`` where it is turned off."""
        return self.passing if self.cache_share else None

    @property
    def passing(self) -> NodeCache:
        """Where the processes of the node share what is not kept."""
        return NodeCache(self.cache_folder, share=self.cache_share)

    @property
    def cache_folder(self) -> str:
        """The folder of the cache and of what is not kept."""
        return os.path.join(self.folder, "cache")

    @property
    def slots(self) -> str:
        """The folder where processes meet that write to the same mount, or to the same terminal."""
        return os.path.join(self.folder, "slots")

    @property
    def journals(self) -> str:
        """The folder with the journals of what was stored from here."""
        return os.path.join(self.folder, "journals")

    def once(self, what: str, action: Callable[[], None]) -> None:
        """Run an action once in this session by one process of the node; the others wait for it.

        Where it raises, the next one that asks runs it again.
        """
        folder = os.path.join(self.folder, "verified", _digest(self.session))
        os.makedirs(folder, mode=0o700, exist_ok=True)
        with open(os.path.join(folder, _digest(what)), "ab", buffering=0) as mark:
            fcntl.flock(mark, fcntl.LOCK_EX)
            if os.fstat(mark.fileno()).st_size == 0:
                action()
                mark.write(b"done")

    def forget_old(self) -> None:
        """Remove what sessions of long ago verified, what runs of long ago stored, what was copied long ago."""
        for folder in (self.journals, *(os.path.join(self.folder, name) for name in ("verified", "copies", "relay"))):
            with contextlib.suppress(FileNotFoundError):
                for entry in os.scandir(folder):
                    if time.time() - entry.stat().st_mtime > _OLD:
                        shutil.rmtree(entry.path, ignore_errors=True)


def node_folder(root: str | None = None) -> str:
    """The folder of this user below a root: ``local`` storage, or the system's temporary directory where ``None``."""
    return os.path.join(root or tempfile.gettempdir(), f"anystorage-{os.getuid()}")


def node_at(root: str | None, session: str, cache_share: float) -> Node:
    """The place below a root, as :func:`node_folder` has it.

    Its folder is this user's alone. Where somebody else took the name, nothing is kept or shared there.
    """
    folder = node_folder(root)
    try:
        own_root(folder)
    except OSError as error:
        logger.warning("%s is not used on this node, and nothing is kept on its disk: %s", folder, error)
        return Node(tempfile.mkdtemp(prefix="anystorage-alone-"), session, 0.0)
    return Node(folder, session, cache_share)


def enter(node: Node) -> None:
    """Set this process's place."""
    _state[os.getpid()] = node


def current() -> Node:
    """This process's place: what was set, or ``local`` storage where there is some, and a session of its own."""
    known = _state.get(os.getpid())
    if known is None:
        settings = read_settings()
        local = next((place.root for place in settings.locations if place.tier == "local"), None)
        root = local if local and os.access(local, os.W_OK | os.X_OK) else None
        known = node_at(root, f"process-{os.getpid()}-{time.monotonic_ns()}", settings.cache_share)
        _state[os.getpid()] = known
    return known


def _digest(text: str) -> str:
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()
