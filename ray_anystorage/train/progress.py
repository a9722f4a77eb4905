"""How far long saves and restores are, in the driver's terminal: bars that Ray carries there from every node."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

from ray_anystorage.events import Began, Ended, Event, Moved
from ray_anystorage.train.hooks import progress_bar

AFTER = 5.0  # seconds; what is over by then is not worth a line
_WORDS = {"upload": "saving", "download": "fetching", "verify": "verifying"}


class Bars:
    """The bars of a process; checkpoints alone have some.

    Parameters
    ----------
    bar
        Makes one of its ``desc``, ``total`` and ``unit``.
    clock
        Seconds.
    """

    def __init__(self, bar: Callable[..., Any] = progress_bar, clock: Callable[[], float] = time.monotonic) -> None:
        self._make, self._clock = bar, clock
        self._lock = threading.Lock()
        self._since: dict[int, tuple[Began, float]] = {}  # by number of the operation
        self._shown: dict[int, Any] = {}

    def heard(self, event: Event) -> None:
        """Show what has taken long, and no longer what has ended."""
        with self._lock:
            if isinstance(event, Moved):
                self._moved(event)
            elif isinstance(event, Ended):
                self._since.pop(event.began.number, None)
                if (bar := self._shown.pop(event.began.number, None)) is not None:
                    bar.close()
            elif event.what in _WORDS and event.checkpoint is not None and event.bytes:
                self._since[event.number] = event, self._clock()

    def _moved(self, event: Moved) -> None:
        known = self._since.get(event.number)
        if known is None or self._clock() - known[1] < AFTER:
            return
        began, bar = known[0], self._shown.get(event.number)
        if bar is None:
            words = f"{_WORDS[began.what]} {began.checkpoint}"
            bar = self._shown[event.number] = self._make(desc=words, total=began.bytes, unit="B")
        bar.update(min(event.bytes, began.bytes or event.bytes) - bar.n)
