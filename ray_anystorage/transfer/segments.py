"""Parts of a stored file that verify alone, and reading some of them at once, straight to where they are wanted."""

from __future__ import annotations

import bisect
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial

from ray_anystorage.errors import DigestMismatchError
from ray_anystorage.transfer.budget import Cancel
from ray_anystorage.transfer.damage import Suspicion
from ray_anystorage.transfer.digest import CHUNK_BYTES, chunk_digest
from ray_anystorage.transfer.session import Session
from ray_anystorage.transfer.workers import run_tasks


@dataclass(frozen=True, slots=True)
class Segment:
    """Bytes of a file, and their digest where there is one."""

    offset: int
    size: int
    digest: str | None = None


@dataclass(frozen=True)
class Segments:
    """All of a file, in order: sizes in bytes, and a digest for each."""

    sizes: tuple[int, ...]
    digests: tuple[str, ...]

    @classmethod
    def of_chunks(cls, size: int, chunks: tuple[str, ...]) -> Segments:
        """A file of which the chunks have digests."""
        whole, rest = divmod(size, CHUNK_BYTES)
        return cls((CHUNK_BYTES,) * whole + ((rest,) if rest else ()), chunks)

    @property
    def size(self) -> int:
        """Bytes of the file."""
        return self._ends[-1] if self._ends else 0

    def covering(self, offset: int, size: int) -> tuple[Segment, ...]:
        """Those that a range touches; none where it lies outside of the file."""
        first = bisect.bisect_right(self._ends, offset)
        last = bisect.bisect_left(self._ends, offset + size)
        return tuple(self._segments(first, min(last, len(self.sizes) - 1))) if size else ()

    def _segments(self, first: int, last: int) -> Iterator[Segment]:
        for index in range(first, last + 1):
            size = self.sizes[index]
            yield Segment(self._ends[index] - size, size, self.digests[index])

    @cached_property
    def _ends(self) -> list[int]:
        return list(itertools.accumulate(self.sizes))


def cut_evenly(offset: int, size: int) -> tuple[Segment, ...]:
    """A range in pieces of 8 MiB at most, which nobody can verify."""
    end = offset + size
    return tuple(Segment(at, min(CHUNK_BYTES, end - at)) for at in range(offset, end, CHUNK_BYTES))


def read_segments(session: Session, key: str, segments: Sequence[Segment], into: memoryview) -> None:
    """Fill a buffer with segments that follow each other, each verified where it has a digest.

    Small ones come together, large ones side by side.

    Raises
    ------
    DigestMismatchError
        What the store holds is not what was stored.
    ShortReadError, ObjectMissingError
        The object is shorter than said, or not there.
    StorageError
        The store refused or kept failing.
    """
    session = replace(session, cancel=Cancel(session.cancel))  # of a failure the caller tells the others
    tasks, start = [], segments[0].offset if segments else 0
    for run in _runs(segments):
        at = run[0].offset - start
        size = run[-1].offset + run[-1].size - run[0].offset
        tasks.append(partial(_read, session, key, run, into[at : at + size]))
    if len(tasks) == 1:
        tasks[0]()
    else:
        run_tasks(tasks, session.threads(len(tasks)), session.cancel, session.budget.wanted)


def _runs(segments: Sequence[Segment]) -> Iterator[list[Segment]]:
    """Neighbours, as many as one request should fetch."""
    run: list[Segment] = []
    for segment in segments:
        if run and segment.offset + segment.size - run[0].offset > CHUNK_BYTES:
            yield run
            run = []
        run.append(segment)
    if run:
        yield run


def _read(session: Session, key: str, run: Sequence[Segment], into: memoryview) -> None:
    start, suspicions = run[0].offset, [Suspicion() for _ in run]

    def fetch_and_compare() -> None:
        session.store.read_range(key, start, into)
        for segment, suspicion in zip(run, suspicions, strict=True):
            if segment.digest is not None:
                at = segment.offset - start
                digest = chunk_digest(into[at : at + segment.size])
                if digest != segment.digest:
                    suspicion.of(digest, _mismatch(session, key, segment))

    session.persist(fetch_and_compare)
    session.advance(len(into))


def _mismatch(session: Session, key: str, segment: Segment) -> DigestMismatchError:
    return DigestMismatchError(
        f"the {segment.size} bytes from byte {segment.offset} of {key} are not what was stored there",
        tier="artifact",
        place=f"{session.store.uri}/{key}",
        tried="read them and compare digests",
        remedy="restore an older checkpoint, or store this one again from a good copy",
    )
