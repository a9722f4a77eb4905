"""What is read together: neighbours in a file, and what shares a segment that can only be verified as a whole."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from ray_anystorage.errors import CheckpointCorruptedError
from ray_anystorage.transfer.segments import Segment, Segments, cut_evenly

BATCH_BYTES = 32 << 20


@dataclass(frozen=True, slots=True)
class Wanted:
    """One thing that torch wants, and where it lies: file, first byte, bytes."""

    item: Any
    name: str
    offset: int
    size: int


@dataclass(slots=True)
class Batch:
    """Segments of one file, each following the one before, and what is in them."""

    name: str
    segments: list[Segment] = field(default_factory=list)
    items: list[Wanted] = field(default_factory=list)

    @property
    def offset(self) -> int:
        """The first byte."""
        return self.segments[0].offset

    @property
    def end(self) -> int:
        """The byte after the last."""
        return self.segments[-1].offset + self.segments[-1].size

    @property
    def size(self) -> int:
        """Bytes; over ``BATCH_BYTES`` only where there is one range that has so many."""
        return self.end - self.offset

    def takes(self, wanted: Wanted, segments: tuple[Segment, ...]) -> bool:
        """Whether that belongs here, too."""
        if wanted.name != self.name or segments[0].offset > self.end:
            return False
        end = segments[-1].offset + segments[-1].size
        return end <= self.end or end - self.offset <= BATCH_BYTES


def batches(wanted: Iterable[Wanted], segments_of: Callable[[str], Segments | None]) -> Iterator[Batch]:
    """Put together what should be read together.

    Parameters
    ----------
    segments_of
        A file's, by its name; ``None`` where it cannot be verified.

    Raises
    ------
    CheckpointCorruptedError
        A file ends before something that should be in it.
    """
    batch: Batch | None = None
    for one in sorted(wanted, key=lambda one: (one.name, one.offset, one.size)):
        segments = _segments(one, segments_of(one.name))
        if batch is None or not batch.takes(one, segments):
            if batch is not None:
                yield batch
            batch = Batch(one.name, list(segments))
        else:
            batch.segments += _after(batch.end, segments)
        batch.items.append(one)
    if batch is not None:
        yield batch


def _after(end: int, segments: Iterable[Segment]) -> list[Segment]:
    """What does not lie before ``end``: whole segments, but for those that nobody verifies."""
    begins = ((segment, max(end, segment.offset)) for segment in segments if segment.offset + segment.size > end)
    return [
        segment if begin == segment.offset else Segment(begin, segment.offset + segment.size - begin)
        for segment, begin in begins
    ]


def _segments(one: Wanted, known: Segments | None) -> tuple[Segment, ...]:
    if known is None:
        return cut_evenly(one.offset, one.size)
    if one.offset + one.size > known.size:
        raise CheckpointCorruptedError(
            f"{one.name} has {known.size} bytes, and its metadata looks for {one.size} from byte {one.offset}"
        )
    return known.covering(one.offset, one.size)
