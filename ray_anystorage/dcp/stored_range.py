"""A large range of a stored file as a file of its own, read straight to where torch wants it."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from typing import Any

from ray_anystorage.transfer.segments import Segment

_KEPT = 3  # segments of which only a part was asked for: where torch.save's frame begins and ends


class StoredRange(io.RawIOBase):
    """Fills each buffer completely, but at the end; what it reads is verified before it returns.

    Parameters
    ----------
    read
        Fills a buffer with segments that follow each other.
    segments
        That cover the range.
    offset, size
        Of the range, in bytes.

    Attributes
    ----------
    size
        Of the range, in bytes.
    failure
        What ``read`` raised, for callers that make something else of it.
    """

    def __init__(
        self, read: Callable[[Sequence[Segment], memoryview], None], segments: Sequence[Segment], offset: int, size: int
    ) -> None:
        super().__init__()
        self._read, self._segments, self._offset, self.size = read, segments, offset, size
        self._position = 0
        self._kept: dict[int, memoryview] = {}
        self.failure: BaseException | None = None

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self.size}[whence]
        if base + offset < 0:
            raise ValueError(f"seek to {base + offset}: before the beginning")
        self._position = base + offset
        return self._position

    def tell(self) -> int:
        return self._position

    def readinto(self, buffer: Any, /) -> int:
        view = memoryview(buffer).cast("B")[: max(0, self.size - self._position)]
        if view:
            try:
                self._fill(view, self._offset + self._position)
            except BaseException as error:
                self.failure = error
                raise
        self._position += len(view)
        return len(view)

    def _fill(self, view: memoryview, begin: int) -> None:
        end = begin + len(view)
        touched = [segment for segment in self._segments if segment.offset < end and _end(segment) > begin]
        whole = [segment for segment in touched if segment.offset >= begin and _end(segment) <= end]
        if whole:
            self._read(whole, view[whole[0].offset - begin : _end(whole[-1]) - begin])
        for segment in (touched[0], touched[-1]):
            first, last = max(begin, segment.offset), min(end, _end(segment))
            if last - first < segment.size:
                view[first - begin : last - begin] = self._keep(segment)[first - segment.offset : last - segment.offset]

    def _keep(self, segment: Segment) -> memoryview:
        if segment.offset not in self._kept:
            data = memoryview(bytearray(segment.size))
            self._read([segment], data)
            while len(self._kept) >= _KEPT:
                del self._kept[next(iter(self._kept))]
            self._kept[segment.offset] = data
        return self._kept[segment.offset]


def _end(segment: Segment) -> int:
    return segment.offset + segment.size
