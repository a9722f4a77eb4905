"""What a node can do by itself."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from ray_anystorage.bench.limits import NodeLimits
from ray_anystorage.bench.on_node.climb import rate_of
from ray_anystorage.transfer.digest import CHUNK_BYTES, chunk_digest

_COPY = 64 << 20


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

    return NodeLimits(cores=_cores(), memory_copy=rate_of(copy), hashing=rate_of(digest))


def _cores() -> float:
    """That this process may use: by its affinity, and by what its container is allowed (cgroups, version 2 and 1)."""
    own = float(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)
    for quota_path, period_path in (("cpu.max", ""), ("cpu/cpu.cfs_quota_us", "cpu/cpu.cfs_period_us")):
        with contextlib.suppress(OSError, ValueError, IndexError):
            said = Path("/sys/fs/cgroup", quota_path).read_text().split()
            period = said[1] if not period_path else Path("/sys/fs/cgroup", period_path).read_text()
            if float(said[0]) > 0:  # "max", and -1, are no limit
                own = min(own, float(said[0]) / float(period))
    return own
