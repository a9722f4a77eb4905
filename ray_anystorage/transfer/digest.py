"""A file's digest as a tree: chunks are hashed apart, in any order, and the file's digest covers their digests.

So parallel parts are hashed in the pass that moves them, and a range can be verified alone. The hash is xxh3-128: it
guards against accidents, not against an attacker, who could rewrite the manifest as well. On one core of the machine
that this was chosen on it ran at 34 GB/s, against 4.7 of BLAKE3, 1.8 of SHA-256 and 0.9 of BLAKE2b.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import xxhash

BytesLike = bytes | bytearray | memoryview

CHUNK_BYTES = 8 << 20
PIECE_BYTES = 256 << 10  # what is read, hashed and written at a time: it stays in the processor's cache
ALGORITHM = "xxh3-128-tree-8MiB"  # as manifests name it; another chunk size is another algorithm


def chunk_digest(data: BytesLike) -> str:
    """The digest of one chunk, 32 hexadecimal digits."""
    return xxhash.xxh3_128_hexdigest(data)


def file_digest(size: int, chunks: Iterable[str]) -> str:
    """The digest of a file from its size in bytes and its chunks' digests, in order."""
    tree = xxhash.xxh3_128(size.to_bytes(8, "little"))
    for chunk in chunks:
        tree.update(bytes.fromhex(chunk))
    return tree.hexdigest()


def chunk_count(size: int) -> int:
    """Chunks of a file of ``size`` bytes: none for an empty one."""
    return -(-size // CHUNK_BYTES)


def chunks_of(data: BytesLike) -> tuple[str, ...]:
    """The digests of the chunks in a buffer that begins at a chunk's border."""
    view = memoryview(data)
    return tuple(chunk_digest(view[at : at + CHUNK_BYTES]) for at in range(0, len(view), CHUNK_BYTES))


class ChunkHasher:
    """Digests of chunks whose bytes come in order, in pieces of any size."""

    def __init__(self) -> None:
        self._hash, self._filled = xxhash.xxh3_128(), 0

    def update(self, piece: memoryview) -> list[str]:
        """Take a piece, and give the digests of the chunks that it completes."""
        complete = []
        while piece:
            head, piece = piece[: CHUNK_BYTES - self._filled], piece[CHUNK_BYTES - self._filled :]
            self._hash.update(head)
            self._filled += len(head)
            if self._filled == CHUNK_BYTES:
                complete += self.rest()
        return complete

    def rest(self) -> list[str]:
        """The digest of a chunk that was begun and is not complete, if there is one; then begin anew."""
        digests = [self._hash.hexdigest()] if self._filled else []
        self._hash, self._filled = xxhash.xxh3_128(), 0
        return digests


def chunks_of_file(path: str) -> Iterator[str]:
    """The digests of a local file's chunks, each before the next is read.

    Raises
    ------
    OSError
        It cannot be read.
    """
    hasher = ChunkHasher()
    for piece in _pieces(path):
        yield from hasher.update(piece)
    yield from hasher.rest()


def digest_file(path: str) -> tuple[int, str, tuple[str, ...]]:
    """Size in bytes, digest and chunk digests of a local file, with one piece in memory at a time.

    Raises
    ------
    OSError
        It cannot be read.
    """
    hasher, size = ChunkHasher(), 0
    chunks: list[str] = []
    for piece in _pieces(path):
        size += len(piece)
        chunks += hasher.update(piece)
    chunks += hasher.rest()
    return size, file_digest(size, chunks), tuple(chunks)


def _pieces(path: str) -> Iterator[memoryview]:
    buffer = memoryview(bytearray(PIECE_BYTES))
    with open(path, "rb", buffering=0) as file:
        while count := file.readinto(buffer):
            yield buffer[:count]
