"""Raw limits of an object store: requests, with nothing between them and its client."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from functools import partial

from ray_anystorage.bench.limits import Direction, Phase, Rung, TierLimits
from ray_anystorage.bench.noise import percentiles
from ray_anystorage.bench.on_node.climb import Counts, climb, step, times
from ray_anystorage.checkpoint.small_files import patiently
from ray_anystorage.transfer.digest import CHUNK_BYTES
from ray_anystorage.transfer.store import Store

_SMALL = 4096
_MANY = 48  # objects, which are enough for a ladder
_SMALLER = 1 << 20
_TOGETHER = 2.0  # seconds: long against what the beginnings of several nodes are apart
_TOGETHER_EACH = 4  # objects of each connection, about


def store_limits(store: Store, folder: str, *, counts: Counts, most_bytes: int) -> TierLimits:
    """What an object store takes and gives: objects of a part's size, over more and more connections.

    Parameters
    ----------
    folder
        Keys go below it; what is written stays for the caller to remove.
    counts
        Of connections for writing and reading.
    most_bytes
        That may be written. Where they are few, the objects are smaller.
    """
    size = CHUNK_BYTES if most_bytes >= _MANY * CHUNK_BYTES else _SMALLER
    data = os.urandom(size)
    left = _Allowance(most_bytes // size)

    def put(thread: int) -> int:
        left.take()
        patiently(lambda: store.write_small(f"{folder}/large-{thread}", data))
        return size

    buffers: dict[int, memoryview] = {}

    def get(thread: int) -> int:
        into = buffers.setdefault(thread, memoryview(bytearray(size)))
        patiently(lambda: store.read_range(f"{folder}/large-{thread % there}", 0, into))
        return size

    put(0)  # opens a connection, and has the store make what it makes for the first object
    writes = climb(put, counts.write, may=left.has)
    there = writes[-1].connections
    reads = climb(get, counts.read)
    latency = _latencies(store, folder, size)
    small = _small_objects(store, folder, counts)
    write, read = (
        Direction(rungs, small[name].rate, small[name].busy) for rungs, name in ((writes, "put"), (reads, "get"))
    )
    return TierLimits(write, read, size, latency, direct=None)


def store_at_once(store: Store, folder: str, counts: Counts, phase: Phase, most_bytes: int) -> float:
    """What comes of these numbers of connections, for when all nodes do the same at once.

    Parameters
    ----------
    most_bytes
        That may be written: fewer connections where they are few.
    """
    writing = max(1, min(counts.write[-1], most_bytes // (_TOGETHER_EACH * CHUNK_BYTES)))
    if phase in ("small_writes", "small_reads"):
        return _small_objects(store, folder, counts)["put" if phase == "small_writes" else "get"].rate
    data = os.urandom(CHUNK_BYTES)

    def put(thread: int) -> int:
        patiently(lambda: store.write_small(f"{folder}/large-{thread}", data))
        return CHUNK_BYTES

    if phase == "write":
        return step(put, writing, _TOGETHER)
    into = [memoryview(bytearray(CHUNK_BYTES)) for _ in range(counts.read[-1])]

    def get(thread: int) -> int:
        patiently(lambda: store.read_range(f"{folder}/large-{thread % writing}", 0, into[thread]))
        return CHUNK_BYTES

    return step(get, counts.read[-1], _TOGETHER)


def _latencies(store: Store, folder: str, size: int) -> dict[str, dict[str, float]]:
    """Seconds of single requests."""
    data, into, large = os.urandom(_SMALL), memoryview(bytearray(_SMALL)), memoryview(bytearray(size))
    key, shown = f"{folder}/small", f"{size >> 20} MiB"
    actions: dict[str, Callable[[], object]] = {
        "put 4 KiB": lambda: store.write_small(key, data),
        "get 4 KiB": lambda: store.read_range(key, 0, into),
        "list": lambda: [*store.list(f"{folder}/single")],
        f"get {shown}": lambda: store.read_range(f"{folder}/large-0", 0, large),
        f"put {shown}": lambda: store.write_small(f"{folder}/large-0", large),
        "delete": lambda: store.delete([f"{folder}/gone"]),
    }
    return {name: percentiles(times(partial(patiently, action))) for name, action in actions.items()}


def _small_objects(store: Store, folder: str, counts: Counts) -> dict[str, Rung]:
    """Objects per second over as many connections as help."""
    data = os.urandom(_SMALL)

    def put(thread: int) -> int:
        patiently(lambda: store.write_small(f"{folder}/small-{thread}", data))
        return 1

    def get(thread: int) -> int:
        patiently(lambda: store.read_range(f"{folder}/small-{thread % there}", 0, memoryview(bytearray(_SMALL))))
        return 1

    puts = climb(put, counts.small)
    there = puts[-1].connections
    rungs = {"put": puts, "get": climb(get, counts.small)}
    return {name: max(climbed, key=lambda rung: rung.rate) for name, climbed in rungs.items()}


class _Allowance:
    """Objects that may still be written, by several threads."""

    def __init__(self, amount: int) -> None:
        self._left, self._lock = amount, threading.Lock()

    def take(self) -> None:
        """Count one; a step that began is not broken off."""
        with self._lock:
            self._left -= 1

    def has(self, requests: int) -> bool:
        """Whether so many more may be written, three times over: a step goes on for some time."""
        return self._left >= 3 * requests
