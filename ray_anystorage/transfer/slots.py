"""How many do something at once, such as write to one mount: so many of a node, counted over all of its processes."""

from __future__ import annotations

import contextlib
import logging
import os
import random
import time
from collections.abc import Iterator

from ray_anystorage.transfer.digest import chunk_digest
from ray_anystorage.transfer.locks import locked

logger = logging.getLogger(__name__)

_SHORTEST_WAIT, _LONGEST_WAIT = 0.01, 0.1  # seconds between looks; drawn, so that those who wait take turns


def writers_per_node(nodes: int | None, *, server_limit: int = 64, most: int = 4) -> int:
    """How many files one node may write to a shared mount at once.

    An NFS server has a fixed number of threads (8 or 16 unless its owner raised it) and a limit on connections;
    requests above that queue up, and the small writes of a run's state wait behind them. What all nodes do at once
    should stay a modest multiple of that, while a few writers are enough to fill one node's link.

    Parameters
    ----------
    nodes
        That write at the same time; ``None`` where that is not known, which counts as few.
    server_limit
        Writers that the server takes from all nodes together.
    most
        Of one node, however few there are.

    Returns
    -------
    int
        At least one: a node that may not write at all cannot save.
    """
    return max(1, min(most, server_limit // max(1, nodes or 1)))


@contextlib.contextmanager
def mount_slots(folder: str, name: str, *, most: int, wanted: int) -> Iterator[int]:
    """Hold some of the places to write to one mount; waits for the first, and takes more only where they are free.

    Parameters
    ----------
    folder
        On a disk of this node, the same for all processes that count together.
    name
        Of what is written to; any string.
    most
        Places that there are on this node. All processes should say the same.
    wanted
        Places to take, at most.

    Yields
    ------
    int
        Places taken, at least one.

    Raises
    ------
    OSError
        The folder cannot be written.
    """
    if most < 1 or wanted < 1:
        raise ValueError(f"{wanted} of {most} places: both must be at least 1")
    slots = _slots(folder, name, most)
    with contextlib.ExitStack() as held:
        while not (taken := _take(slots, wanted, held)):
            time.sleep(random.uniform(_SHORTEST_WAIT, _LONGEST_WAIT))  # noqa: S311 - no secret comes of it
        yield taken


def free_slot(folder: str, name: str, *, most: int) -> contextlib.ExitStack | None:
    """Hold one of the places of a name until the stack is closed; ``None`` where all are taken, or there can be none.

    Parameters
    ----------
    folder, name, most
        As for :func:`mount_slots`.
    """
    held = contextlib.ExitStack()
    try:
        return held if _take(_slots(folder, name, most), 1, held) else None
    except OSError as error:  # on a full disk
        logger.debug("no place of %s in %s: %s", name, folder, error)
        return None


def _slots(folder: str, name: str, most: int) -> list[str]:
    place = os.path.join(os.path.abspath(folder), chunk_digest(name.encode("utf-8", "surrogatepass")))
    return [os.path.join(place, f"slot-{number}") for number in range(most)]


def _take(slots: list[str], wanted: int, held: contextlib.ExitStack) -> int:
    taken = 0
    for slot in slots:
        with contextlib.suppress(BlockingIOError):
            held.enter_context(locked(slot, wait=False))
            taken += 1
        if taken == wanted:
            break
    return taken
