"""One bounded budget of requests and memory for everything that moves at the same time."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator

from ray_anystorage.errors import TransferCancelledError
from ray_anystorage.transfer.pace import Pace

_TICK = 0.1  # seconds between looks at the cancel flag while waiting for something else
_COMPLAIN_EVERY = 60.0  # seconds


class Cancel:
    """A flag that ends a transfer; anyone may set it, from any thread."""

    def __init__(self, parent: Cancel | None = None) -> None:
        self._event = threading.Event()
        self._parent = parent

    def set(self) -> None:
        """End the transfer."""
        self._event.set()

    @property
    def is_set(self) -> bool:
        """True once this flag or the one it was made under was set."""
        return self._event.is_set() or (self._parent is not None and self._parent.is_set)

    def check(self) -> None:
        """Raise ``TransferCancelledError`` if the flag is set."""
        if self.is_set:
            raise TransferCancelledError("the transfer was cancelled")

    def sleep(self, seconds: float) -> None:
        """Wait, but not past the flag."""
        until = time.monotonic() + seconds
        while not self.is_set and (left := until - time.monotonic()) > 0:
            self._event.wait(min(left, _TICK))
        self.check()


class Budget:
    """How many requests are under way, and how much memory their buffers take.

    The number of requests is found by :class:`ray_anystorage.transfer.pace.Pace`; the requests that were under way
    together when the store throttled halve it once.

    Parameters
    ----------
    requests
        At once, at most.
    memory_bytes
        Of buffers, at most; a single buffer may be larger, and is then alone.
    first_requests
        At once, to begin with.

    Attributes
    ----------
    retries
        How many attempts failed in a way that another may not.
    """

    def __init__(self, *, requests: int = 64, memory_bytes: int = 128 << 20, first_requests: int = 32) -> None:
        self.requests, self.memory_bytes = requests, memory_bytes
        self.retries = 0
        self._pace = Pace(first_requests, requests)
        self._lock = threading.Lock()
        self._slots, self._buffers = threading.Condition(self._lock), threading.Condition(self._lock)
        self._running = 0
        self._silent_until = 0.0
        self._started = self._cut_at = 0  # requests ever started, and how many had been at the last cut
        self._borrowed_bytes = 0
        self._free: list[bytearray] = []

    @property
    def limit(self) -> float:
        """Requests at once now."""
        return self._pace.limit

    @property
    def lowest_limit(self) -> float:
        """Requests at once at the worst moment."""
        return self._pace.lowest

    @property
    def cuts(self) -> int:
        """How often the limit was halved."""
        return self._pace.cuts

    def wanted(self) -> int:
        """Threads that are of use now: one for each request, and one that prepares the next."""
        return int(self.limit) + 1

    @contextlib.contextmanager
    def slot(self, cancel: Cancel) -> Iterator[None]:
        """Hold one request's place; a ``Transient`` that leaves the block tells whether the store throttled."""
        with self._slots:
            try:
                while self._running >= int(self._pace.limit):
                    cancel.check()
                    self._slots.wait(_TICK)
                cancel.check()
            except TransferCancelledError:
                self._wake()  # another, whose turn this may have been
                raise
            self._running += 1
            self._started += 1
            number = self._started
            self._pace.began(time.monotonic())
        try:
            yield
        except BaseException as error:
            self._finish(number, success=False, throttled=getattr(error, "throttled", False))
            raise
        self._finish(number, success=True, throttled=False)

    @contextlib.contextmanager
    def room(self, size: int, cancel: Cancel) -> Iterator[None]:
        """Hold ``size`` bytes that the caller allocates; waits while the memory is lent out."""
        with self._buffers:
            self._borrow(size, cancel)
            self._shrink_to(self.memory_bytes - self._borrowed_bytes)
        try:
            yield
        finally:
            with self._buffers:
                self._borrowed_bytes -= size
                self._buffers.notify_all()

    @contextlib.contextmanager
    def buffer(self, size: int, cancel: Cancel) -> Iterator[bytearray]:
        """Borrow ``size`` bytes, not cleared; waits while the memory is lent out."""
        with self._buffers:
            self._borrow(size, cancel)
            found = next((i for i in reversed(range(len(self._free))) if len(self._free[i]) == size), None)
            taken = self._free.pop(found) if found is not None else None
            if taken is None:
                self._shrink_to(self.memory_bytes - self._borrowed_bytes)
        buffer = bytearray(size) if taken is None else taken
        try:
            yield buffer
        finally:
            with self._buffers:
                self._borrowed_bytes -= size
                self._free.append(buffer)
                self._buffers.notify_all()

    def trim(self) -> None:
        """Give the memory of idle buffers back to the system."""
        with self._lock:
            self._free.clear()

    def moved(self, share: float) -> None:
        """So much of a request under way is done, between 0 and 1."""
        with self._lock:
            self._pace.moved(time.monotonic(), share)
            self._wake()

    def retried(self) -> None:
        """Count one failed attempt."""
        with self._lock:
            self.retries += 1

    def may_complain(self) -> bool:
        """True once a minute: where many requests fail side by side, one of them says so."""
        with self._lock:
            now = time.monotonic()
            may = now >= self._silent_until
            if may:
                self._silent_until = now + _COMPLAIN_EVERY
            return may

    def _borrow(self, size: int, cancel: Cancel) -> None:
        while self._borrowed_bytes and self._borrowed_bytes + size > self.memory_bytes:
            cancel.check()
            self._buffers.wait(_TICK)
        self._borrowed_bytes += size

    def _shrink_to(self, idle_bytes: int) -> None:
        while self._free and sum(map(len, self._free)) > idle_bytes:
            del self._free[0]

    def _finish(self, number: int, *, success: bool, throttled: bool) -> None:
        with self._lock:
            self._running -= 1
            if success:
                self._pace.succeeded(time.monotonic())
            elif throttled and number > self._cut_at:
                self._pace.throttled()
                self._cut_at = self._started
            self._wake()

    def _wake(self) -> None:
        """Wake as many as may begin, and no more: dozens that wake to wait again would take the processor from them."""
        free = int(self._pace.limit) - self._running
        if free > 0:
            self._slots.notify(free)
