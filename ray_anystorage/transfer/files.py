"""What is to be moved and what was: plain values."""

from __future__ import annotations

from dataclasses import dataclass

from ray_anystorage.transfer.digest import CHUNK_BYTES, chunk_count


@dataclass(frozen=True, slots=True)
class Outgoing:
    """A local file and the key it is to have; ``size`` in bytes, as it was when it was listed."""

    path: str
    key: str
    size: int


@dataclass(frozen=True, slots=True)
class Stored:
    """A file that a store holds: size in bytes, digest and chunk digests as :mod:`.digest` makes them.

    ``sent`` is false where the store had it already. ``etag`` is the store's own mark of this content, which another
    write under the key changes; ``None`` where the store gave none, and then nobody relies on what the key holds later.
    """

    key: str
    size: int
    digest: str
    chunks: tuple[str, ...]
    sent: bool = True
    etag: str | None = None


@dataclass(frozen=True, slots=True)
class Incoming:
    """A key and the local path it is to have; with digests, what arrives is compared with them.

    With ``etag``, an object that has another by the time it is read is not fetched.
    """

    key: str
    target: str
    size: int
    digest: str | None = None
    chunks: tuple[str, ...] | None = None
    etag: str | None = None


@dataclass(frozen=True, slots=True)
class Part:
    """A piece of a file that one request moves: whole chunks, but for the last."""

    index: int
    offset: int
    size: int


def part_bytes(size: int, max_parts: int) -> int:
    """How large the parts of a file are: one chunk, or as many as ``max_parts`` makes necessary."""
    return CHUNK_BYTES * max(1, -(-chunk_count(size) // max_parts))


def split(size: int, max_parts: int) -> tuple[Part, ...]:
    """Cut a file into parts; an empty file has one."""
    step = part_bytes(size, max_parts)
    return tuple(Part(i, at, min(step, size - at)) for i, at in enumerate(range(0, max(size, 1), step)))
