"""The digest tree: known values, independence of the way it is computed, and what changes it."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest
import xxhash
from hypothesis import given
from hypothesis import strategies as st

from ray_anystorage.transfer.digest import CHUNK_BYTES, chunk_count, chunks_of, digest_file, file_digest
from ray_anystorage.transfer.files import split


def test_chunk_digest_is_xxh3_128() -> None:
    assert chunks_of(b"") == ()
    assert chunks_of(b"a") == ("a96faf705af16834e6c632b61e964e1f",)
    assert xxhash.xxh3_128_hexdigest(b"") == "99aa06d3014798d86001c324468d497f"


def test_the_format_does_not_drift() -> None:
    # A manifest that was written once must verify for ever.
    assert CHUNK_BYTES == 8 * 1024 * 1024
    assert file_digest(0, ()) == "2c0a8a99dc147d5445c3b49d035665b2"
    assert file_digest(1, chunks_of(b"a")) == "8d6a492fd7ae6983f4cf4d0271cfc368"


@pytest.mark.parametrize("size", [0, 1, CHUNK_BYTES - 1, CHUNK_BYTES, CHUNK_BYTES + 1, 2 * CHUNK_BYTES + 5])
def test_a_file_and_its_bytes_agree(tmp_path: Path, size: int) -> None:
    data = bytes(range(256)) * (size // 256 + 1)
    path = tmp_path / "file"
    path.write_bytes(data[:size])
    chunks = chunks_of(data[:size])
    assert digest_file(str(path)) == (size, file_digest(size, chunks), chunks)
    assert len(chunks) == chunk_count(size)


def test_every_part_of_it_counts() -> None:
    one, two = chunks_of(b"one") + chunks_of(b"two"), chunks_of(b"two") + chunks_of(b"one")
    digests = {file_digest(6, one), file_digest(6, two), file_digest(7, one), file_digest(6, one[:1])}
    assert len(digests) == 4


@given(size=st.integers(0, 1 << 45), max_parts=st.integers(1, 10_000))
def test_parts_cover_a_file_once_at_chunk_borders(size: int, max_parts: int) -> None:
    if chunk_count(size) > 20_000 * max_parts:  # parts are made one by one
        size %= CHUNK_BYTES * max_parts * 3
    parts = split(size, max_parts)
    assert len(parts) <= max_parts
    assert [part.index for part in parts] == list(range(len(parts)))
    assert all(part.offset % CHUNK_BYTES == 0 for part in parts)
    assert sum(part.size for part in parts) == size
    assert all(a.offset + a.size == b.offset for a, b in pairwise(parts))
