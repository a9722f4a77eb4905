"""What happened to data, told by whoever did it to whoever listens: plain values, and nothing where nobody does."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

logger = logging.getLogger(__name__)

Store = Literal["bucket", "mount"]
Source = Literal["cache", "place", "store"]


@dataclass(frozen=True, slots=True)
class Transferred:
    """One call of the transfer engine ended; ``failed`` where it raised.

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
    seconds: float
    retries: int
    throttles: int
    failed: bool


@dataclass(frozen=True, slots=True)
class Saved:
    """One rank's part of a checkpoint is durable; ``detour`` where it lies elsewhere than it should, for a failure."""

    store: Store
    bytes: int
    seconds: float
    detour: bool


@dataclass(frozen=True, slots=True)
class Staged:
    """Training stood still for so long until it could go on, with a checkpoint saved behind it."""

    bytes: int
    seconds: float
    copied: bool


@dataclass(frozen=True, slots=True)
class Restored:
    """A checkpoint is there for reading: in this node's cache, in place on a mount, or fetched."""

    source: Source
    bytes: int
    seconds: float


Event = Transferred | Saved | Staged | Restored
Listener = Callable[[Event], None]
_listeners: list[Listener] = []


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
