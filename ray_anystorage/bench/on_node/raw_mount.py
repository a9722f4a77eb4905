"""Raw limits of a file system: plain calls, past the system's memory where it allows that."""

from __future__ import annotations

import contextlib
import errno
import mmap
import os
from collections.abc import Callable, Iterator
from functools import partial

from ray_anystorage.bench.limits import Direction, Phase, Rung, TierLimits
from ray_anystorage.bench.noise import percentiles
from ray_anystorage.bench.on_node.climb import STEP, Counts, all_at_once, step, times

_SMALL = 4096
_BLOCK = 4 << 20
_MOST_BYTES = 256 << 20  # of one file
_TOGETHER = 512 << 20  # that one node writes while the others do: long against what their beginnings are apart


def mount_limits(folder: str, *, counts: Counts, most_bytes: int) -> tuple[TierLimits, int]:
    """What a file system takes and gives: files written and synced, past the system's memory where it allows that.

    Parameters
    ----------
    counts
        Of files at once for writing and reading.
    most_bytes
        That may be written.

    Returns
    -------
    TierLimits, int
        And the bytes that were written.
    """
    direct = _takes_direct(folder)
    most = max(counts.write)
    size = _size(folder, most_bytes // (2 * most + 2), direct=direct)
    writes, reads = [], []
    for count in sorted({*counts.write, *counts.read}):
        paths = [os.path.join(folder, f"large-{number}") for number in range(count)]
        writes.append(Rung(count, all_at_once([partial(_write_file, p, size, direct=direct) for p in paths])))
        reads.append(Rung(count, all_at_once([partial(_read_file, p, direct=direct) for p in paths])))
    latency, objects = _small_files(folder, most)
    written, read = Direction(tuple(writes), objects["create"]), Direction(tuple(reads), objects["read"])
    return TierLimits(written, read, size, latency, direct), size * sum(
        rung.connections for rung in writes
    ) + 6 * _BLOCK


def _size(folder: str, most: int, *, direct: bool) -> int:
    """Bytes of each file: as many as one takes in the time of a step."""
    rate = all_at_once([partial(_write_file, os.path.join(folder, "first"), 4 * _BLOCK, direct=direct)])
    return max(_BLOCK, int(min(_MOST_BYTES, most, rate * STEP)) // _BLOCK * _BLOCK)


def mount_at_once(folder: str, counts: Counts, phase: Phase, most_bytes: int) -> tuple[float, int]:
    """What comes of so many files at once, for when all nodes do the same; and the bytes that were written."""
    if phase in ("small_writes", "small_reads"):
        return _small_files(folder, counts.small[-1])[1]["create" if phase == "small_writes" else "read"], 0
    direct = _takes_direct(folder)
    count = max(counts.write[-1], counts.read[-1])
    paths = [os.path.join(folder, f"large-{number}") for number in range(count)]
    size = max(_BLOCK, min(_TOGETHER, most_bytes // 2) // count // _BLOCK * _BLOCK)
    if phase == "write":
        writing = paths[: counts.write[-1]]
        return all_at_once([partial(_write_file, path, size, direct=direct) for path in writing]), size * len(writing)
    lacking = [path for path in paths if not os.path.exists(path)]
    for path in lacking:
        _write_file(path, size, direct=direct)
    read = all_at_once([partial(_read_file, path, direct=direct) for path in paths[: counts.read[-1]]])
    return read, size * len(lacking)


def _small_files(folder: str, most: int) -> tuple[dict[str, dict[str, float]], dict[str, float]]:
    data, path = os.urandom(_SMALL), os.path.join(folder, "small")
    actions: dict[str, Callable[[], object]] = {
        "create and sync 4 KiB": lambda: _write_small(path, data),
        "read 4 KiB": lambda: _read_small(path),
        "list": lambda: os.listdir(folder),
    }
    latency = {name: percentiles(times(action)) for name, action in actions.items()}
    numbers = [0] * most

    def create(thread: int) -> int:
        numbers[thread] += 1
        _write_small(os.path.join(folder, f"small-{thread}-{numbers[thread]}"), data)
        return 1

    def read(thread: int) -> int:
        _read_small(os.path.join(folder, f"small-{thread}-{numbers[thread]}"))
        return 1

    return latency, {"create": step(create, most, STEP), "read": step(read, most, STEP)}


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
        if hasattr(os, "posix_fadvise"):
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        file.read()
