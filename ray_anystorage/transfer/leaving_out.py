"""Leaving a file out of a call that goes on: what was begun of it is taken back when nobody works on it any more."""

from __future__ import annotations

import threading
from collections.abc import Callable


class LeavingOut:
    """For one file of a call, of which several parts may be under way.

    Parameters
    ----------
    take_back
        Gives back what the file holds: descriptors, room, an upload. Called by who works on it last, once it is left
        out: not at the end of the call, since hundreds of files may be left out of it.
    """

    def __init__(self, take_back: Callable[[], None]) -> None:
        self._done = False
        self._take_back = take_back
        self._lock = threading.Lock()
        self._told = False
        self._working = 0

    def done(self) -> bool:
        """Whether the file is left out."""
        return self._done

    def unless(
        self, changed: tuple[type[BaseException], ...], task: Callable[[], None], tell: Callable[[], None]
    ) -> None:
        """Do something for the file, unless it is left out; leave it out where that says that it is not what it was.

        Parameters
        ----------
        changed
            What says so.
        tell
            Called once, by whoever finds out first. What it raises ends the call, and the file is not left out.
        """
        with self._lock:
            if self.done():
                return
            self._working += 1
        try:
            task()
        except changed:
            self._leave(tell)
        finally:
            with self._lock:
                self._working -= 1
                last = self.done() and self._working == 0
            if last:
                self._take_back()

    def _leave(self, tell: Callable[[], None]) -> None:
        with self._lock:
            if self._told:
                return
            self._told = True
        tell()
        self._done = True
