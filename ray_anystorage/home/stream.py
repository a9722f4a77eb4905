"""The stream that pyarrow's callers write a run home's files through."""

from __future__ import annotations

import logging
from collections.abc import Callable
from types import TracebackType
from typing import Any, Protocol, TypeVar

import pyarrow as pa

from ray_anystorage.errors import MountTimeoutError
from ray_anystorage.home.atomic import AtomicFile

logger = logging.getLogger(__name__)
T = TypeVar("T")
_BUFFER_BYTES = 1 << 20  # each call on the mount costs a thread, so small writes are gathered


class Call(Protocol):
    """Runs an action on the mount within its time limit; see ``HomeFileSystem.call``."""

    def __call__(self, verb: str, path: str, action: Callable[[], T]) -> T:
        """Run it."""
        ...


class HomeStream(pa.PythonFile):  # type: ignore[misc]
    """A stream onto an :class:`AtomicFile`. Leaving its ``with`` block by an exception keeps the old content.

    Parameters
    ----------
    file, path
        Where the bytes go.
    call
        Bounds every call on the mount.
    committed
        Called, bounded, after the file took its place.
    """

    def __new__(cls, file: AtomicFile, path: str, call: Call, committed: Callable[[], None]) -> HomeStream:
        stream: HomeStream = super().__new__(cls, file, "w")
        return stream

    def __init__(self, file: AtomicFile, path: str, call: Call, committed: Callable[[], None]) -> None:
        self._file = file
        self._path = path
        self._call = call
        self._committed = committed
        self._gathered = bytearray()
        self._done = False

    def write(self, data: Any) -> int:
        view = memoryview(pa.py_buffer(data)).cast("B")
        self._gathered += view
        if len(self._gathered) >= _BUFFER_BYTES:
            self._flush()
        return len(view)

    def close(self) -> None:
        if self._done:
            return
        self._done = True
        try:
            if not self._file.failed:
                self._flush()
        finally:
            failed = self._file.failed
            self._drop_or_commit(failed)
        super().close()
        if not failed:
            self._call("copy", self._path, self._committed)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None:
            self._file.abandon()
        self.close()

    def _drop_or_commit(self, failed: bool) -> None:
        if not failed:
            self._bounded(self._file.close)
            return
        try:
            self._call("drop", self._path, self._file.close)
        except MountTimeoutError as timeout:  # the error in flight is the one to see
            logger.warning("what was written of %s could not be removed: %s", self._path, timeout.reason)

    def _flush(self) -> None:
        gathered, self._gathered = bytes(self._gathered), bytearray()
        self._bounded(lambda: self._file.write(gathered))

    def _bounded(self, action: Callable[[], Any]) -> None:
        try:
            self._call("write", self._path, action)
        except MountTimeoutError:
            self._file.abandon()  # should the mount wake up, a newer file may be there by then
            raise
