"""How far long saves and restores are, in the driver's terminal: bars that Ray carries there from every node."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

from ray_anystorage.events import Began, Ended, Event, Moved
from ray_anystorage.train.hooks import progress_bar
from ray_anystorage.units import format_size

AFTER = 5.0  # seconds; what is over by then is not worth a line
_WORDS = {"upload": "saving", "download": "fetching", "verify": "verifying"}
_NAME_LENGTH = 60  # of a checkpoint, at most: those of trials are longer, and begin with the trial's
Room = Callable[[], ExitStack | None]


class Bars:
    """The bars of a process; checkpoints alone have some.

    Parameters
    ----------
    who
        Says whose they are, before all else.
    room
        Gives what a bar holds while it is there, ``None`` where there are enough of them.
    bar
        Makes one of its ``desc``, ``total`` and ``unit``.
    clock
        Seconds.
    """

    def __init__(
        self,
        who: str = "",
        room: Room = ExitStack,
        bar: Callable[..., Any] = progress_bar,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._who, self._room, self._make, self._clock = who, room, bar, clock
        self._lock = threading.Lock()
        self._since: dict[int, tuple[Began, float]] = {}  # by number of the operation
        self._shown: dict[int, _Shown] = {}

    def heard(self, event: Event) -> None:
        """Show what has taken long, and no longer what has ended."""
        with self._lock:
            if isinstance(event, Moved):
                self._moved(event)
            elif isinstance(event, Ended):
                self._ended(event)
            elif event.what in _WORDS and event.checkpoint is not None and event.bytes:
                self._since[event.number] = event, self._clock()

    def _ended(self, event: Ended) -> None:
        began = event.began
        self._since.pop(began.number, None)
        if (shown := self._shown.pop(began.number, None)) is not None:
            with shown.held:
                if event.error is None:
                    shown.bar.n = shown.left  # what was there already was not moved
                shown.bar.close()

    def _moved(self, event: Moved) -> None:
        known = self._since.get(event.number)
        if known is None or self._clock() - known[1] < AFTER:
            return
        shown = self._shown.get(event.number)
        if shown is not None:
            shown.bar.update(min(event.bytes - shown.before, shown.left) - shown.bar.n)
        elif (left := (known[0].bytes or 0) - event.bytes) > 0 and (held := self._room()) is not None:
            what = f"{_WORDS[known[0].what]} {_short(known[0].checkpoint or '')}"
            bar = self._make(desc=f"{self._who}{what}, the last {format_size(left)}", total=left, unit="B")
            self._shown[event.number] = _Shown(event.bytes, left, bar, held)
            bar.refresh()


@dataclass(frozen=True, slots=True)
class _Shown:
    """A bar of the bytes that are left when it appears: its rate would be wrong if it began with those before."""

    before: int
    left: int
    bar: Any
    held: ExitStack


def _short(name: str) -> str:
    """Both ends of a long name."""
    half = _NAME_LENGTH // 2
    return name if len(name) <= _NAME_LENGTH else f"{name[: half - 1]}…{name[-half:]}"
