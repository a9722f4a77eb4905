"""This package's engine with its hashing taken out, to see what hashing costs. Not for use, and no competitor."""

from __future__ import annotations

from typing import Any

from benchmarks.clients import anystorage
from benchmarks.target import Target
from ray_anystorage.transfer import outgoing_file


class _NoHasher:
    """Takes pieces and knows no digest."""

    def update(self, piece: Any) -> list[str]:
        return []

    def rest(self) -> list[str]:
        return []


class Client(anystorage.Client):
    SETTINGS = f"{anystorage.Client.SETTINGS}; nothing hashed"

    def __init__(self, target: Target) -> None:
        super().__init__(target)
        names: Any = outgoing_file
        names.ChunkHasher = _NoHasher
        names.chunks_of = lambda data: ()
        names.file_digest = lambda size, chunks: ""
