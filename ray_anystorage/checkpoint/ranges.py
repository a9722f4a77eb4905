"""A stored file, read a chunk at a time and verified as it is read."""

from __future__ import annotations

import io
from collections.abc import Callable

from ray_anystorage.checkpoint.contents import StoredFile
from ray_anystorage.checkpoint.small_files import PATIENCE
from ray_anystorage.errors import CheckpointCorruptedError, DigestMismatchError, ObjectMissingError, ShortReadError
from ray_anystorage.transfer.damage import Suspicion
from ray_anystorage.transfer.digest import CHUNK_BYTES, chunk_digest
from ray_anystorage.transfer.engine import moving
from ray_anystorage.transfer.store import Store


class RangeReader(io.RawIOBase):
    """Reads whole chunks, of which it keeps the last; without digests it takes them as they come.

    Parameters
    ----------
    store, key
        Where the file lies.
    file
        Its size and digests.
    on_damage
        Called with the error before it is raised.
    """

    def __init__(
        self, store: Store, key: str, file: StoredFile, *, on_damage: Callable[[CheckpointCorruptedError], None]
    ) -> None:
        super().__init__()
        self._store, self._key, self._file, self._on_damage = store, key, file, on_damage
        self._position = 0
        self._kept: tuple[int, bytearray] | None = None

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._file.size}[whence]
        if base + offset < 0:
            raise ValueError(f"seek to {base + offset}: before the beginning of {self._file.path}")
        self._position = base + offset
        return self._position

    def tell(self) -> int:
        return self._position

    def readinto(self, buffer: object, /) -> int:
        view = memoryview(buffer).cast("B")  # type: ignore[arg-type]
        if self._position >= self._file.size:
            return 0
        index, start = divmod(self._position, CHUNK_BYTES)
        chunk = self._chunk(index)
        count = min(len(view), len(chunk) - start)
        view[:count] = chunk[start : start + count]
        self._position += count
        return count

    def _chunk(self, index: int) -> bytearray:
        if self._kept is None or self._kept[0] != index:
            self._kept = (index, self._verified(index))
        return self._kept[1]

    def _verified(self, index: int) -> bytearray:
        offset = index * CHUNK_BYTES
        data = bytearray(min(CHUNK_BYTES, self._file.size - offset))
        suspicion = Suspicion()

        def fetch_and_compare() -> None:
            self._store.read_range(self._key, offset, memoryview(data))
            digest = chunk_digest(data)
            if self._file.chunks is not None and digest != self._file.chunks[index]:
                suspicion.of(digest, self._mismatch(index))

        try:
            with moving("fetched", self._store, patience=PATIENCE, size=len(data)) as session:
                session.persist(fetch_and_compare)
                session.advance(len(data))
        except (DigestMismatchError, ShortReadError, ObjectMissingError) as error:
            damaged = CheckpointCorruptedError(f"{self._file.path} is damaged: {error}")
            self._on_damage(damaged)
            raise damaged from error
        return data

    def _mismatch(self, index: int) -> DigestMismatchError:
        return DigestMismatchError(
            f"chunk {index}, which begins at byte {index * CHUNK_BYTES}, has other content",
            tier="artifact",
            place=f"{self._store.uri}/{self._key}",
            tried="read it and compare digests",
            remedy="restore an older checkpoint",
        )
