"""What happened to data, told by whoever did it to whoever listens: plain values, and nothing where nobody does.

Metrics, spans, structured logs and progress are all fed from here.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Literal

logger = logging.getLogger(__name__)

Store = Literal["bucket", "mount"]
Source = Literal["cache", "place", "store"]
Placed = Literal["home", "routed", "fallen_back"]
What = Literal["stage", "save", "upload", "commit", "restore", "download", "verify"]

_MOVED_EVERY = 0.5  # seconds; an event for each piece that is moved would cost more than it says


@dataclass(frozen=True, slots=True)
class Transferred:
    """One call of the transfer engine, also one that failed.

    Attributes
    ----------
    bytes
        That were moved.
    retries, throttles
        Requests that were made again, and how often the store had asked for fewer.
    """

    direction: Literal["sent", "fetched"]
    store: Store
    bytes: int
    retries: int
    throttles: int


@dataclass(frozen=True, slots=True)
class Saved:
    """One rank's part of a checkpoint is durable.

    Attributes
    ----------
    detour
        True where it lies elsewhere than it should, for a failure or a lack of room.
    behind
        True where the training went on meanwhile.
    """

    store: Store
    bytes: int
    detour: bool
    behind: bool


@dataclass(frozen=True, slots=True)
class Staged:
    """Training stood still until it could go on, with a checkpoint to be saved behind it: moved aside, or copied."""

    bytes: int
    copied: bool


@dataclass(frozen=True, slots=True)
class Committed:
    """A checkpoint can be restored.

    Attributes
    ----------
    placed
        ``"routed"``: data of it went from a home on a mount to the bucket, as it should. ``"fallen_back"``: it lies
        elsewhere than it should, for a failure or a lack of room.
    """

    placed: Placed
    bytes: int


@dataclass(frozen=True, slots=True)
class Restored:
    """A checkpoint is there for reading: in this node's cache, in place on a mount, or fetched."""

    source: Source
    bytes: int


Outcome = Transferred | Saved | Staged | Committed | Restored


@dataclass(frozen=True, slots=True)
class Began:
    """An operation begins. Its :class:`Ended` comes in the same thread, after those of its parts.

    Attributes
    ----------
    number
        Of the operation, in this process.
    within
        Number of the operation that it is a part of; ``None`` for one that stands alone.
    checkpoint
        Name of the checkpoint, where one is known.
    bytes
        To be moved, or ``None``.
    """

    number: int
    within: int | None
    what: What
    checkpoint: str | None
    bytes: int | None


@dataclass(frozen=True, slots=True)
class Moved:
    """So many bytes of an operation have been moved by now; told twice a second at most, from any thread."""

    number: int
    bytes: int


@dataclass(frozen=True, slots=True)
class Ended:
    """An operation ended; ``error`` is the class of what it raised, ``outcome`` what is known of what it did."""

    began: Began
    seconds: float
    error: str | None
    outcome: Outcome | None


Event = Began | Moved | Ended
Listener = Callable[[Event], None]
_listeners: list[Listener] = []
_numbers = itertools.count(1)
_current: ContextVar[Began | None] = ContextVar("anystorage_operation", default=None)


class Operation:
    """An operation under way, for whoever does it.

    Attributes
    ----------
    outcome
        To be set before it ends.
    """

    def __init__(self, began: Began) -> None:
        self.began = began
        self.outcome: Outcome | None = None
        self._lock = threading.Lock()
        self._bytes, self._told = 0, time.monotonic()

    @property
    def bytes(self) -> int:
        """Moved by now."""
        return self._bytes

    def moved(self, size: int) -> None:
        """So many bytes more were moved."""
        with self._lock:
            self._bytes += size
            now = time.monotonic()
            if now - self._told < _MOVED_EVERY:
                return
            self._told, moved = now, self._bytes
        tell(Moved(self.began.number, moved))


@contextlib.contextmanager
def operation(what: What, *, checkpoint: str | None = None, size: int | None = None) -> Iterator[Operation]:
    """Tell that something begins and how it ends; it is a part of the operation that this thread is in."""
    around = _current.get()
    if checkpoint is None and around is not None:
        checkpoint = around.checkpoint
    began = Began(next(_numbers), around.number if around else None, what, checkpoint, size)
    under_way, start = Operation(began), time.monotonic()
    error: str | None = None
    token = _current.set(began)
    tell(began)
    try:
        yield under_way
    except BaseException as raised:
        error = type(raised).__name__
        raise
    finally:
        tell(Ended(began, time.monotonic() - start, error, under_way.outcome))
        _current.reset(token)


def listen(listener: Listener) -> Callable[[], None]:
    """Have every event of this process told from now on; calling what this gives ends that."""
    _listeners.append(listener)
    return lambda: _listeners.remove(listener)


def tell(event: Event) -> None:
    """Tell those who listen. One that fails is logged: no transfer ends for it."""
    for listener in tuple(_listeners):
        try:
            listener(event)
        except Exception:
            logger.exception("a listener to storage events failed on %r", event)
