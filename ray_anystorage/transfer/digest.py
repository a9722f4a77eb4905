"""A file's digest as a tree: chunks are hashed apart, in any order, and the file's digest covers their digests.

So parallel parts are hashed in the pass that moves them, and a range can be verified alone. The hash is xxh3-128: it
guards against accidents, not against an attacker, who could rewrite the manifest as well. On one core of the machine
that this was chosen on it ran at 34 GB/s, against 4.7 of BLAKE3, 1.8 of SHA-256 and 0.9 of BLAKE2b.
"""

from __future__ import annotations

from collections.abc import Iterable
from io import FileIO

import xxhash

BytesLike = bytes | bytearray | memoryview

CHUNK_BYTES = 8 << 20
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


def digest_file(path: str) -> tuple[int, str, tuple[str, ...]]:
    """Size in bytes, digest and chunk digests of a local file, with one chunk in memory at a time.

    Raises
    ------
    OSError
        It cannot be read.
    """
    buffer = memoryview(bytearray(CHUNK_BYTES))
    size, chunks = 0, []
    with open(path, "rb", buffering=0) as file:
        while count := _fill(file, buffer):
            size += count
            chunks.append(chunk_digest(buffer[:count]))
    return size, file_digest(size, chunks), tuple(chunks)


def _fill(file: FileIO, buffer: memoryview) -> int:
    filled = 0
    while filled < len(buffer) and (count := file.readinto(buffer[filled:])):
        filled += count
    return filled
