"""Segments, what is read together, ranges as files, and the digests behind torch's metadata."""

from __future__ import annotations

import io
import itertools
import pickle
import random
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ray_anystorage.dcp.batches import BATCH_BYTES, Wanted, batches
from ray_anystorage.dcp.sealing import sealed, unsealed
from ray_anystorage.dcp.stored_range import StoredRange
from ray_anystorage.errors import CheckpointCorruptedError, ManifestError
from ray_anystorage.transfer.digest import CHUNK_BYTES, chunk_digest
from ray_anystorage.transfer.segments import Segment, Segments, cut_evenly

SIZES = st.lists(st.integers(1, 50), min_size=1, max_size=20)


def segments_of(sizes: Sequence[int]) -> Segments:
    return Segments(tuple(sizes), tuple(str(n) for n in range(len(sizes))))


@given(SIZES, st.data())
def test_the_fewest_segments_that_cover_a_range(sizes: list[int], data: st.DataObject) -> None:
    segments = segments_of(sizes)
    offset = data.draw(st.integers(0, segments.size - 1))
    size = data.draw(st.integers(1, segments.size - offset))
    found = segments.covering(offset, size)
    assert found[0].offset <= offset < found[0].offset + found[0].size
    assert found[-1].offset < offset + size <= found[-1].offset + found[-1].size
    for one, after in itertools.pairwise(found):
        assert one.offset + one.size == after.offset
        assert int(str(one.digest)) + 1 == int(str(after.digest))


@given(SIZES, st.data())
def test_every_wanted_range_is_in_its_batch_and_none_is_read_twice(sizes: list[int], data: st.DataObject) -> None:
    known = {"a": segments_of(sizes), "b": None}
    ends = st.integers(0, sum(sizes) - 1)
    drawn = data.draw(st.lists(st.tuples(st.sampled_from("ab"), ends, st.integers(1, 9)), min_size=1))
    wanted = [Wanted(n, name, at, min(size, sum(sizes) - at)) for n, (name, at, size) in enumerate(drawn)]
    found = list(batches(wanted, known.__getitem__))
    assert sorted(one.item for batch in found for one in batch.items) == list(range(len(wanted)))
    for batch in found:
        assert all(batch.offset <= one.offset and one.offset + one.size <= batch.end for one in batch.items)
        assert sum(segment.size for segment in batch.segments) == batch.size
    verified = [segment.offset for batch in found if batch.name == "a" for segment in batch.segments]
    assert len(verified) == len(set(verified))


def test_a_batch_ends_where_it_is_large() -> None:
    wanted = [Wanted(n, "a", n * CHUNK_BYTES, CHUNK_BYTES) for n in range(10)]
    found = list(batches(wanted, lambda _: None))
    assert [batch.size for batch in found] == [BATCH_BYTES, BATCH_BYTES, 2 * CHUNK_BYTES]
    (one,) = batches([Wanted(0, "a", 5, 2 * BATCH_BYTES)], lambda _: None)
    assert one.size == 2 * BATCH_BYTES


def test_a_file_that_ends_too_early_is_damaged() -> None:
    with pytest.raises(CheckpointCorruptedError, match="a has 10 bytes"):
        list(batches([Wanted(0, "a", 5, 6)], lambda _: segments_of([10])))


@given(st.data())
def test_a_range_reads_like_a_file(data: st.DataObject) -> None:
    content = random.Random(1).randbytes(200)
    begin, size = 13, 150
    reads: list[int] = []

    def read(segments: Sequence[Segment], into: memoryview) -> None:
        first, last = segments[0], segments[-1]
        reads.append(last.offset + last.size - first.offset)
        into[:] = content[first.offset : last.offset + last.size]

    sizes = [7, 30, 30, 30, 60, 43]
    stream = StoredRange(read, segments_of(sizes).covering(begin, size), begin, size)
    plain = io.BytesIO(content[begin : begin + size])
    for at, count in data.draw(st.lists(st.tuples(st.integers(0, 160), st.integers(0, 170)), max_size=8)):
        assert stream.seek(at) == plain.seek(at)
        buffer = bytearray(count)
        got = stream.readinto(buffer)
        assert bytes(buffer[:got]) == plain.read(count)
        assert stream.tell() == plain.tell()
    assert stream.seek(-5, io.SEEK_END) == size - 5
    assert stream.read() == content[begin + size - 5 : begin + size]
    with pytest.raises(ValueError, match="before the beginning"):
        stream.seek(-1)


def test_what_failed_is_kept() -> None:
    def read(segments: Sequence[Segment], into: memoryview) -> None:
        raise CheckpointCorruptedError("it is damaged")

    stream = StoredRange(read, cut_evenly(0, 10), 0, 10)
    with pytest.raises(CheckpointCorruptedError):
        stream.readinto(bytearray(3))
    assert isinstance(stream.failure, CheckpointCorruptedError)


def test_every_bit_of_sealed_metadata_counts_and_pickle_does_not_see_the_digests() -> None:
    files = {"__0_0.distcp": segments_of([5, 6]), "empty": Segments((), ())}
    content = sealed(pickle.dumps({"a": 1}), files)
    assert pickle.loads(content) == {"a": 1}
    pickled, found = unsealed(".metadata", content)
    assert pickle.loads(pickled) == {"a": 1}
    assert found == files
    for at in range(len(content)):
        for bit in (1, 128):
            bad = bytearray(content)
            bad[at] ^= bit
            try:
                pickled, found = unsealed(".metadata", bytes(bad))
            except ManifestError:
                continue
            assert found is None, "it looks like torch's own, and"
            assert len(pickled) == len(content), "has more bytes than its pickle: the reader refuses that"


def test_torchs_own_metadata_has_no_digests() -> None:
    pickled = pickle.dumps([chunk_digest(b"x")])
    assert unsealed(".metadata", pickled) == (pickled, None)
