"""Room in the node's cache that processes were promised and have not filled yet.

A promise is a folder that its process holds a lock on, so that it ends with the process.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
from collections.abc import Iterator, Mapping

from ray_anystorage.checkpoint.cache_files import delete_tree
from ray_anystorage.transfer.locks import locked

PROMISED = "promised"  # in the cache's root; whoever makes or counts promises holds its lock
_FILE = "what"


@contextlib.contextmanager
def promise(root: str, entry: str, size: int) -> Iterator[None]:
    """Promise that an entry may grow to ``size`` bytes; others take it into account until the block ends.

    Raises
    ------
    OSError
        It cannot be written.
    """
    folder = os.path.join(root, PROMISED, secrets.token_hex(8))
    with locked(folder):
        try:
            with open(os.path.join(folder, _FILE), "w", encoding="utf-8") as file:
                json.dump([entry, size], file)
            yield
        finally:
            with contextlib.suppress(OSError):  # unlocked it counts no more, and who counts next removes it
                delete_tree(folder)


def to_come(root: str, sizes: Mapping[str, int]) -> int:
    """Bytes by which entries may still grow, as they were promised; those of dead processes are removed.

    Parameters
    ----------
    sizes
        Bytes that each entry takes now, by its folder.

    Raises
    ------
    OSError
        They cannot be read or removed.
    """
    promised = os.path.join(root, PROMISED)
    total = 0
    for name in os.listdir(promised):
        folder = os.path.join(promised, name)
        try:
            with locked(folder, wait=False):
                delete_tree(folder)
        except BlockingIOError:
            with contextlib.suppress(FileNotFoundError):  # kept by now
                with open(os.path.join(folder, _FILE), encoding="utf-8") as file:
                    entry, size = json.load(file)
                total += max(0, size - sizes.get(entry, 0))
    return total
