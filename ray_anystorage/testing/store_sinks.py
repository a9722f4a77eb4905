"""A file that is sent while it is written is whole or not there: a part of the suite that every store passes."""

# ruff: noqa: S101 - these are tests

from __future__ import annotations

import random

import pytest

from ray_anystorage.errors import DigestMismatchError
from ray_anystorage.transfer.digest import CHUNK_BYTES
from ray_anystorage.transfer.engine import moving, sink
from ray_anystorage.transfer.segments import Segments, read_segments
from ray_anystorage.transfer.store import Store

_PIECE = 3_000_001  # bytes written at a time


class SinkConformance:
    """See :class:`ray_anystorage.testing.store_conformance.StoreConformance`, which inherits these."""

    @pytest.mark.parametrize(
        ("size", "about"),
        [
            (0, 0),
            (1000, 5 * CHUNK_BYTES),
            (CHUNK_BYTES, 0),
            (2 * CHUNK_BYTES, 5 * CHUNK_BYTES),
            (3 * CHUNK_BYTES + 12345, 0),
        ],
    )
    def test_what_is_written_in_order_is_stored(self, store: Store, size: int, about: int) -> None:
        content = random.Random(size).randbytes(size)  # noqa: S311
        with sink(store, "run/written.bin", about) as file:
            for at in range(0, size, _PIECE):
                assert file.tell() == at
                assert file.write(content[at : at + _PIECE]) == len(content[at : at + _PIECE])
            assert list(store.list("")) == []
        assert list(store.list("")) == [("run/written.bin", size)]
        assert file.segments is not None
        assert file.segments.size == size
        assert len(file.segments.sizes) == -(-size // _PIECE)
        assert read_back(store, file.segments) == content

    def test_a_part_is_read_alone_and_a_changed_one_is_found(self, store: Store) -> None:
        content = random.Random(1).randbytes(2 * CHUNK_BYTES)  # noqa: S311
        with sink(store, "run/written.bin", 0) as file:
            file.write(content[:1000])
            assert file.tell() == 1000
            file.write(content[1000:])
        segments = file.segments
        assert segments is not None
        store.write_small("run/written.bin", content[:5000] + b"?" + content[5001:])
        with moving("fetched", store) as session:
            part = bytearray(1000)
            read_segments(session, "run/written.bin", segments.covering(10, 900), memoryview(part))
            assert part == content[:1000]
        with pytest.raises(DigestMismatchError, match=r"written\.bin"):
            read_back(store, segments)

    @pytest.mark.parametrize("size", [1000, 3 * CHUNK_BYTES])
    def test_what_is_not_written_to_its_end_leaves_nothing(self, store: Store, size: int) -> None:
        store.write_small("run/written.bin", b"before")
        with pytest.raises(ZeroDivisionError):
            write_and_fail(store, size)
        assert list(store.list("")) == [("run/written.bin", len(b"before"))]
        assert list(store.unfinished("")) == []


def write_and_fail(store: Store, size: int) -> None:
    """Write so many bytes, and no end."""
    with sink(store, "run/written.bin", size) as file:
        file.write(bytes(size))
        raise ZeroDivisionError


def read_back(store: Store, segments: Segments) -> bytes:
    """All of it, verified."""
    into = bytearray(segments.size)
    with moving("fetched", store) as session:
        read_segments(session, "run/written.bin", segments.covering(0, segments.size), memoryview(into))
    return bytes(into)
