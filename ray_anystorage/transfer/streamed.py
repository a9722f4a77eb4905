"""Uploading a large object through obstore, which cuts, sends and retries its parts by itself."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator
from typing import Any

import obstore
from obstore.exceptions import BaseError

from ray_anystorage.transfer.digest import BytesLike
from ray_anystorage.transfer.retry import Transient
from ray_anystorage.transfer.store import Counters

EARLY_BYTES = 64 << 20
_PARTS_AT_ONCE, _BYTES_AT_ONCE = 8, 256 << 20  # that obstore sends; the parts of very large objects are large
_WAITING_PARTS = 2
_TICK = 0.1  # seconds between looks at whether it has ended


class _AbandonedError(Exception):
    """Ends obstore's reading, so that it aborts."""


class StreamedUpload:
    """Parts in any order from any thread, handed on in order; each is copied, since obstore keeps it.

    Whoever sends them heeds ``Limits.early_bytes``, before it takes memory for a part.

    Parameters
    ----------
    failed
        Makes what is to be raised of what obstore raised.
    part_bytes
        How large the parts are that obstore sends: a store takes so many of one object.
    """

    def __init__(
        self,
        client: Any,
        path: str,
        counters: Counters,
        failed: Callable[[Exception], Exception],
        *,
        part_bytes: int,
    ) -> None:
        self._client, self._path, self._counters, self._failed = client, path, counters, failed
        self._part_bytes = part_bytes
        self._lock = threading.Lock()
        self._early: dict[int, bytes] = {}  # parts that came before their turn
        self._next = 0
        self._parts: queue.Queue[bytes | None] = queue.Queue(_WAITING_PARTS)
        self._error: Exception | None = None
        self._answer: Any = None
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None

    def part(self, index: int, offset: int, data: BytesLike) -> None:
        """Hand on this part and those that waited for it; waits itself while obstore has enough to send."""
        self._counters.add(sent=len(data))
        with self._lock:
            if self._thread is None:
                self._thread = threading.Thread(target=self._send, name="anystorage-streamed")
                self._thread.start()
            self._early[index] = bytes(data)
            while self._next in self._early:
                self._hand_on(self._early.pop(self._next))
                self._next += 1
        self._check()

    def cut(self, size: int) -> None:
        """Nothing: obstore ends where the parts do."""

    def commit(self) -> str | None:
        """Wait until obstore has stored the object."""
        self._hand_on(None)
        self._join()
        self._check()
        etag: str | None = self._answer["e_tag"]
        return etag.strip('"') if etag else None

    def abort(self) -> None:
        """Make obstore give the object up, and wait until it has."""
        self._ended.set()
        self._join()

    def _hand_on(self, item: bytes | None) -> None:
        while not self._ended.is_set():
            try:
                self._parts.put(item, timeout=_TICK)
                return
            except queue.Full:
                continue

    def _send(self) -> None:
        try:
            self._answer = obstore.put(
                self._client,
                self._path,
                self._read(),
                chunk_size=self._part_bytes,
                max_concurrency=max(1, min(_PARTS_AT_ONCE, _BYTES_AT_ONCE // self._part_bytes)),
                use_multipart=True,
            )
        except (BaseError, OSError, _AbandonedError) as error:
            self._error = error
        finally:
            self._ended.set()

    def _read(self) -> Iterator[bytes]:
        while True:
            try:
                item = self._parts.get(timeout=_TICK)
            except queue.Empty:
                if self._ended.is_set():
                    raise _AbandonedError from None
                continue
            if item is None:
                return
            yield item

    def _join(self) -> None:
        if self._thread is not None:
            self._thread.join()

    def _check(self) -> None:
        if self._error is not None:
            failure = self._failed(self._error)
            # obstore has tried again for long enough, and takes no part any more.
            raise (failure.problem if isinstance(failure, Transient) else failure) from self._error
