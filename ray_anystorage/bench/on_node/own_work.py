"""What this package itself takes for each small file: saved to, and restored from, a store in memory."""

from __future__ import annotations

import os
import shutil
import tempfile
import time

from obstore.store import MemoryStore

from ray_anystorage.bench.on_node.files import read_all
from ray_anystorage.checkpoint.journal import Journal
from ray_anystorage.checkpoint.node import Node
from ray_anystorage.checkpoint.opened import Opened
from ray_anystorage.checkpoint.read import commit
from ray_anystorage.checkpoint.restore import Sources
from ray_anystorage.checkpoint.save import Part
from ray_anystorage.checkpoint.saver import Saver
from ray_anystorage.transfer.digest import BytesLike
from ray_anystorage.transfer.object_store import ObjectStore

_FILES, _BYTES = 500, 4096
_TIMES = 3  # of which the first opens what stays open
_NAME = "own"


class _Memory(ObjectStore):
    """obstore's store in memory keeps the buffer that it is given, which the engine uses again."""

    def write_small(self, key: str, data: BytesLike) -> str | None:
        """Keep a copy."""
        return super().write_small(key, bytes(data))


def work_per_file(folder: str) -> tuple[float, float]:
    """CPU seconds of a process for each small file, of a save and of a restore.

    Parameters
    ----------
    folder
        On the node's own disk; nothing is left there.
    """
    root = tempfile.mkdtemp(prefix="own-work-", dir=folder)
    try:
        os.makedirs(os.path.join(root, "source"))
        for number in range(_FILES):
            with open(os.path.join(root, "source", f"{number:04d}"), "wb") as file:
                file.write(os.urandom(_BYTES))
        costs = [_once(root, number) for number in range(_TIMES)][1:]
        saving, restoring = (min(seconds) / _FILES for seconds in zip(*costs, strict=True))
        return saving, restoring
    finally:
        shutil.rmtree(root)


def _once(root: str, number: int) -> tuple[float, float]:
    home, name = _Memory(MemoryStore(), uri=f"memory:///{_NAME}"), f"{_NAME}-{number}"
    node = Node(os.path.join(root, "node"), name)
    os.makedirs(node.folder, mode=0o700, exist_ok=True)
    saver = Saver(home, 1 << 62, cache=node.cache, run=_NAME, journal=Journal(node.journals, _NAME))
    start = time.process_time()
    saver.save(os.path.join(root, "source"), Part(name, _NAME, 0, 1))
    saved = time.process_time()
    commit(home, name, _NAME)
    shutil.rmtree(node.cache_folder)
    opened = Opened(Sources(home, lambda uri: home), name, _NAME, _NAME, node, None)
    begun = time.process_time()
    with opened.directory() as directory:
        read_all(directory)
        restored = time.process_time()
    return saved - start, restored - begun
