"""A store in this process's memory, for tests."""

from __future__ import annotations

from ray_anystorage.transfer.digest import BytesLike
from ray_anystorage.transfer.object_store import ObjectStore
from ray_anystorage.transfer.store import Take


class MemoryStore(ObjectStore):
    """A store in this process's memory, for tests."""

    def __init__(self) -> None:
        from obstore.store import MemoryStore as ObstoreMemory

        super().__init__(ObstoreMemory(), uri="memory:/")

    def write_small(self, key: str, data: BytesLike) -> str | None:
        """Keep a copy: obstore would keep the engine's buffer itself."""
        return super().write_small(key, bytes(data))

    def read_range(self, key: str, offset: int, into: memoryview) -> None:
        """Fill the buffer; obstore has no error of its own for a range that begins after the end."""
        if offset >= self.size(key) and into:
            raise self.short(key, offset, 0, len(into))
        super().read_range(key, offset, into)

    def read_pieces(
        self, key: str, offset: int, size: int, scratch: memoryview, take: Take, etag: str | None = None
    ) -> None:
        """Hand on a range; obstore has no error of its own for one that begins after the end."""
        if offset >= self.size(key) and size:
            raise self.short(key, offset, 0, size)
        super().read_pieces(key, offset, size, scratch, take, etag)
