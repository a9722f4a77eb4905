"""Ray's own path to a directory, then everything synced: what stock would cost if its saves survived a power cut."""

from __future__ import annotations

import os
from pathlib import Path

from benchmarks.clients import ray_stock
from benchmarks.target import Target


class Client(ray_stock.Client):
    SETTINGS = f"{ray_stock.Client.SETTINGS}; then fsync of each file and directory"
    DURABLE = True

    def __init__(self, target: Target) -> None:
        super().__init__(target)
        self._root = Path(target.root)

    def save(self, directory: str, prefix: str) -> None:
        super().save(directory, prefix)
        for path in (*(self._root / prefix).rglob("*"), self._root / prefix):
            descriptor = os.open(path, os.O_RDONLY)
            os.fsync(descriptor)
            os.close(descriptor)
