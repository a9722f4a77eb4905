"""Raw limits of an object store: requests, with nothing between them and its client."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable

from ray_anystorage.bench.limits import Direction, TierLimits
from ray_anystorage.bench.noise import percentiles
from ray_anystorage.bench.on_node.climb import STEP, climb, step, times
from ray_anystorage.transfer.digest import CHUNK_BYTES
from ray_anystorage.transfer.store import Store

_SMALL = 4096


def store_limits(store: Store, folder: str, *, most: int, most_bytes: int) -> TierLimits:
    """What an object store takes and gives: objects of a part's size, over more and more connections.

    Parameters
    ----------
    folder
        Keys go below it; what is written stays for the caller to remove.
    most
        Connections.
    most_bytes
        That may be written.
    """
    data = os.urandom(CHUNK_BYTES)
    left = _Allowance(most_bytes)

    def put(thread: int) -> int:
        left.take(CHUNK_BYTES)
        store.write_small(f"{folder}/large-{thread}", data)
        return CHUNK_BYTES

    buffers: dict[int, memoryview] = {}

    def get(thread: int) -> int:
        into = buffers.setdefault(thread, memoryview(bytearray(CHUNK_BYTES)))
        store.read_range(f"{folder}/large-{thread % there}", 0, into)
        return CHUNK_BYTES

    put(0)  # opens a connection, and has the store make what it makes for the first object
    writes = climb(put, most, may=left.has)
    there = writes[-1].connections
    reads = climb(get, most)
    latency, objects = _small_objects(store, folder, most)
    return TierLimits(
        Direction(writes, objects["put"]), Direction(reads, objects["get"]), CHUNK_BYTES, latency, direct=None
    )


def store_together(store: Store, folder: str, connections: tuple[int, int]) -> tuple[float, float]:
    """Bytes per second written and read with these numbers of connections, for when all nodes do so at once."""
    data, writing, reading = os.urandom(CHUNK_BYTES), *connections

    def put(thread: int) -> int:
        store.write_small(f"{folder}/large-{thread}", data)
        return CHUNK_BYTES

    into = [memoryview(bytearray(CHUNK_BYTES)) for _ in range(reading)]

    def get(thread: int) -> int:
        store.read_range(f"{folder}/large-{thread % writing}", 0, into[thread])
        return CHUNK_BYTES

    return step(put, writing, 2 * STEP), step(get, reading, 2 * STEP)


def _small_objects(store: Store, folder: str, most: int) -> tuple[dict[str, dict[str, float]], dict[str, float]]:
    """Latencies of single requests, and objects per second over as many connections as help."""
    data, into = os.urandom(_SMALL), memoryview(bytearray(_SMALL))
    key = f"{folder}/small"
    large = memoryview(bytearray(CHUNK_BYTES))
    actions: dict[str, Callable[[], object]] = {
        "put 4 KiB": lambda: store.write_small(key, data),
        "get 4 KiB": lambda: store.read_range(key, 0, into),
        "list": lambda: [*store.list(f"{folder}/single")],
        "get 8 MiB": lambda: store.read_range(f"{folder}/large-0", 0, large),
        "put 8 MiB": lambda: store.write_small(f"{folder}/large-0", large),
        "delete": lambda: store.delete([f"{folder}/gone"]),
    }
    latency = {name: percentiles(times(action)) for name, action in actions.items()}

    def put(thread: int) -> int:
        store.write_small(f"{folder}/small-{thread}", data)
        return 1

    def get(thread: int) -> int:
        store.read_range(f"{folder}/small-{thread % there}", 0, memoryview(bytearray(_SMALL)))
        return 1

    puts = climb(put, most)
    there = puts[-1].connections
    return latency, {
        name: max(rung.rate for rung in rungs) for name, rungs in (("put", puts), ("get", climb(get, most)))
    }


class _Allowance:
    """Bytes that may still be moved, by several threads."""

    def __init__(self, amount: int) -> None:
        self._left, self._lock = amount, threading.Lock()

    def take(self, amount: int) -> None:
        """Count so many; a step that began is not broken off."""
        with self._lock:
            self._left -= amount

    def has(self, requests: int) -> bool:
        """Whether so many parts more may be written, three times over: a step goes on for some time."""
        return self._left >= 3 * requests * CHUNK_BYTES
