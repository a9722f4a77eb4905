"""What a node can do by itself."""

from __future__ import annotations

import os

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

    return NodeLimits(cores=float(_cores()), memory_copy=rate_of(copy), hashing=rate_of(digest))


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
