"""What a node can do by itself."""

from __future__ import annotations

import os

from ray_anystorage.bench.limits import NodeLimits
from ray_anystorage.bench.on_node.climb import rate_of
from ray_anystorage.bench.on_node.cores import cores
from ray_anystorage.bench.on_node.own_work import work_per_file
from ray_anystorage.transfer.digest import CHUNK_BYTES, chunk_digest

_COPY = 64 << 20


def node_limits(folder: str) -> NodeLimits:
    """How fast one core copies memory and hashes it, how many there are for this process, what a small file takes.

    Parameters
    ----------
    folder
        On the node's own disk; nothing is left there.
    """
    source, target = bytearray(os.urandom(_COPY)), bytearray(_COPY)

    def copy() -> int:
        target[:] = source
        return _COPY

    chunk = memoryview(source)[:CHUNK_BYTES]

    def digest() -> int:
        chunk_digest(chunk)
        return CHUNK_BYTES

    return NodeLimits(cores(), rate_of(copy), rate_of(digest), *work_per_file(folder))
