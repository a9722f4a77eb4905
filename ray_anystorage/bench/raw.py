"""Measures raw limits, with as little between the measurement and the thing as there can be."""

from __future__ import annotations

import contextlib
import errno
import mmap
import os
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial

from ray_anystorage.bench.limits import Direction, NodeLimits, Rung, TierLimits
from ray_anystorage.bench.noise import percentiles
from ray_anystorage.transfer.digest import CHUNK_BYTES, chunk_digest
from ray_anystorage.transfer.store import Store

_HELPS = 1.1  # times as much by twice as many connections: less, twice in a row, and the ladder ends
_STEP = 0.5  # seconds of one step at least
_SMALL = 4096
_SINGLE = 20  # operations for a latency
_BLOCK = 4 << 20
_COPY = 64 << 20
_TOGETHER = 128 << 20
_BRIEF = 0.2  # seconds for what needs no more

Note = Callable[[int], None]  # is told of bytes that were written or read


def node_limits() -> NodeLimits:
    """How fast one core copies memory and hashes it, and how many cores there are for this process."""
    source, target = bytearray(os.urandom(_COPY)), bytearray(_COPY)

    def copy() -> int:
        target[:] = source
        return _COPY

    chunk = memoryview(source)[:CHUNK_BYTES]

    def digest() -> int:
        chunk_digest(chunk)
        return CHUNK_BYTES

    return NodeLimits(cores=float(_cores()), memory_copy=_rate_of(copy), hashing=_rate_of(digest))


def store_limits(store: Store, folder: str, *, most: int, most_bytes: int, note: Note) -> TierLimits:
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
        note(CHUNK_BYTES)
        return CHUNK_BYTES

    buffers: dict[int, memoryview] = {}

    def get(thread: int) -> int:
        into = buffers.setdefault(thread, memoryview(bytearray(CHUNK_BYTES)))
        store.read_range(f"{folder}/large-{thread % there}", 0, into)
        note(CHUNK_BYTES)
        return CHUNK_BYTES

    put(0)  # opens a connection, and has the store make what it makes for the first object
    writes = climb(put, most, may=left.has)
    there = writes[-1].connections
    reads = climb(get, most)
    latency, objects = _small_objects(store, folder, most)
    return TierLimits(
        Direction(writes, objects["put"]), Direction(reads, objects["get"]), CHUNK_BYTES, latency, direct=None
    )


def together(store: Store, folder: str, connections: tuple[int, int], *, note: Note) -> tuple[float, float]:
    """Bytes per second written and read with these numbers of connections, for when all nodes do so at once."""
    data, writing, reading = os.urandom(CHUNK_BYTES), *connections

    def put(thread: int) -> int:
        store.write_small(f"{folder}/large-{thread}", data)
        note(CHUNK_BYTES)
        return CHUNK_BYTES

    into = [memoryview(bytearray(CHUNK_BYTES)) for _ in range(reading)]

    def get(thread: int) -> int:
        store.read_range(f"{folder}/large-{thread % writing}", 0, into[thread])
        note(CHUNK_BYTES)
        return CHUNK_BYTES

    return _step(put, writing, 2 * _STEP), _step(get, reading, 2 * _STEP)


def mount_limits(folder: str, *, most: int, most_bytes: int, note: Note) -> TierLimits:
    """What a file system takes and gives: files written and synced, past the system's memory where it allows that.

    Parameters
    ----------
    most
        Files at once.
    most_bytes
        That may be written.
    """
    direct = _takes_direct(folder)
    size = max(_BLOCK, min(256 << 20, most_bytes // (2 * most + 2)) // _BLOCK * _BLOCK)
    writes, reads = [], []
    for count in _numbers(most):
        paths = [os.path.join(folder, f"large-{number}") for number in range(count)]
        writes.append(Rung(count, _all_at_once([partial(_write_file, p, size, direct=direct) for p in paths])))
        note(count * size)
        reads.append(Rung(count, _all_at_once([partial(_read_file, p, direct=direct) for p in paths])))
        note(count * size)
    latency, objects = _small_files(folder, most)
    return TierLimits(
        Direction(tuple(writes), objects["create"]), Direction(tuple(reads), objects["read"]), size, latency, direct
    )


def mount_together(folder: str, files: tuple[int, int]) -> tuple[float, float]:
    """Bytes per second written and read with so many files at once, for when all nodes do so at once."""
    direct, (writing, reading) = _takes_direct(folder), files
    paths = [os.path.join(folder, f"large-{number}") for number in range(max(files))]
    size = _TOGETHER // len(paths) // _BLOCK * _BLOCK
    written = _all_at_once([partial(_write_file, path, size, direct=direct) for path in paths[:writing]])
    for path in paths[writing:]:
        _write_file(path, size, direct=direct)
    return written, _all_at_once([partial(_read_file, path, direct=direct) for path in paths[:reading]])


def climb(request: Callable[[int], int], most: int, *, may: Callable[[int], bool] = lambda _: True) -> tuple[Rung, ...]:
    """Do a request over and over on 1, 2, 4, … threads, for as long as more of them help.

    Parameters
    ----------
    request
        Gets the number of its thread; gives the bytes that it moved.
    may
        Whether so many more requests may be made.
    """
    rungs: list[Rung] = []
    for count in _numbers(most):
        if rungs and not may(2 * count):
            break
        rungs.append(Rung(count, _step(request, count, _STEP)))
        if len(rungs) > 2 and rungs[-1].rate < rungs[-3].rate * _HELPS and rungs[-2].rate < rungs[-3].rate * _HELPS:
            break
    return tuple(rungs)


def _numbers(most: int) -> Iterator[int]:
    count = 1
    while count < most:
        yield count
        count *= 2
    yield most


def _step(request: Callable[[int], int], count: int, seconds: float) -> float:
    """Bytes per second by so many threads; each makes two requests at least."""

    def work(number: int) -> int:
        moved = sum(request(number) for _ in range(2))
        while time.perf_counter() < end:
            moved += request(number)
        return moved

    with ThreadPoolExecutor(count) as pool:
        start = time.perf_counter()
        end = start + seconds
        moved = sum(pool.map(work, range(count)))
        return moved / (time.perf_counter() - start)


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
    latency = {name: percentiles(_times(action)) for name, action in actions.items()}

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


def _small_files(folder: str, most: int) -> tuple[dict[str, dict[str, float]], dict[str, float]]:
    data, path = os.urandom(_SMALL), os.path.join(folder, "small")
    actions: dict[str, Callable[[], object]] = {
        "create and sync 4 KiB": lambda: _write_small(path, data),
        "read 4 KiB": lambda: _read_small(path),
        "list": lambda: os.listdir(folder),
    }
    latency = {name: percentiles(_times(action)) for name, action in actions.items()}
    numbers = [0] * most

    def create(thread: int) -> int:
        numbers[thread] += 1
        _write_small(os.path.join(folder, f"small-{thread}-{numbers[thread]}"), data)
        return 1

    def read(thread: int) -> int:
        _read_small(os.path.join(folder, f"small-{thread}-{numbers[thread]}"))
        return 1

    return latency, {"create": _step(create, most, _STEP), "read": _step(read, most, _STEP)}


def _times(action: Callable[[], object]) -> list[float]:
    seconds: list[float] = []
    until = time.perf_counter() + 2 * _STEP
    while len(seconds) < _SINGLE and (len(seconds) < 2 or time.perf_counter() < until):
        start = time.perf_counter()
        action()
        seconds.append(time.perf_counter() - start)
    return seconds


def _rate_of(action: Callable[[], int]) -> float:
    """Bytes per second of one thread."""
    action()
    moved, start = 0, time.perf_counter()
    while (seconds := time.perf_counter() - start) < _BRIEF:
        moved += action()
    return moved / seconds


def _all_at_once(actions: list[Callable[[], int]]) -> float:
    """Bytes per second by actions that begin together."""
    with ThreadPoolExecutor(len(actions)) as pool:
        start = time.perf_counter()
        moved: int = sum(pool.map(lambda action: action(), actions))
        return moved / (time.perf_counter() - start)


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


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


def _takes_direct(folder: str) -> bool:
    if not hasattr(os, "O_DIRECT"):
        return False
    try:
        _write_file(os.path.join(folder, "direct"), _BLOCK, direct=True)
    except OSError as error:
        if error.errno in (errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP):  # tmpfs, many FUSE file systems
            return False
        raise
    return True


@contextlib.contextmanager
def _aligned(size: int) -> Iterator[mmap.mmap]:
    """A buffer that begins where direct I/O wants it to."""
    with mmap.mmap(-1, size) as buffer:
        buffer.write(os.urandom(size))
        yield buffer


def _write_file(path: str, size: int, *, direct: bool) -> int:
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | (os.O_DIRECT if direct else 0)
    with _aligned(_BLOCK) as block:
        descriptor = os.open(path, flags, 0o600)
        try:
            for _ in range(size // _BLOCK):
                view = memoryview(block)
                while view:
                    view = view[os.write(descriptor, view) :]
                view.release()
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    return size


def _read_file(path: str, *, direct: bool) -> int:
    moved = 0
    with mmap.mmap(-1, _BLOCK) as block:
        descriptor = os.open(path, os.O_RDONLY | (os.O_DIRECT if direct else 0))
        try:
            if not direct and hasattr(os, "posix_fadvise"):
                os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
            while count := os.preadv(descriptor, [block], moved):
                moved += count
        finally:
            os.close(descriptor)
    return moved


def _write_small(path: str, data: bytes) -> None:
    with open(path, "wb", buffering=0) as file:
        file.write(data)
        os.fsync(file.fileno())


def _read_small(path: str) -> None:
    with open(path, "rb", buffering=0) as file:
        file.read()
