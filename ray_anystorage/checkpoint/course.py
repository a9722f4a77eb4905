"""How far a rank's part of a checkpoint was when, for people to look at later; it is stored in the rank's manifest.

No two nodes have the same time, and a clock may be set while a save is under way. So there is one instant by the clock
of the rank's own node, and the others are seconds after it by a clock that nobody sets.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

_LATEST = 1e11  # seconds; the year 5138


@dataclass(frozen=True, slots=True)
class Course:
    """When a part had come how far.

    Attributes
    ----------
    queued
        Unix seconds by the clock of the rank's node: the training handed it over.
    staged, begun, sent
        Seconds after that: the training could go on (0 where it waits for the save), the save began after those
        before it, the data was durable. The manifest is written next.
    """

    queued: float
    staged: float
    begun: float
    sent: float

    def to_list(self) -> list[float]:
        """Plain numbers, to the millisecond."""
        return [round(value, 3) for value in (self.queued, self.staged, self.begun, self.sent)]


@dataclass(frozen=True, slots=True)
class Handed:
    """When a directory was handed over to be saved behind the training.

    Attributes
    ----------
    queued
        Unix seconds.
    since, staged
        The same instant, and the one when the training could go on, as ``time.monotonic`` has them.
    """

    queued: float
    since: float
    staged: float

    @classmethod
    def at(cls, since: float) -> Handed:
        """Of what was handed over at an instant of ``time.monotonic``, and is staged now."""
        now = time.monotonic()
        return cls(time.time() - (now - since), since, now)

    def course(self, begun: float, sent: float) -> Course:
        """The whole course, of two instants more of ``time.monotonic``."""
        return Course(self.queued, self.staged - self.since, begun - self.since, sent - self.since)


def read_course(values: object) -> Course | None:
    """Parse what :meth:`Course.to_list` gave; ``None`` for what an earlier version wrote, which has no times.

    Raises
    ------
    ValueError, TypeError
        It is something else.
    """
    if values is None:
        return None
    if not isinstance(values, list):
        raise TypeError(f"{values!r} is no list of times")
    queued, staged, begun, sent = map(read_time, values)
    return Course(queued, staged, begun, sent)


def read_time(value: object) -> float:
    """Parse an instant in Unix seconds, or a duration: a number that a calendar can show.

    Raises
    ------
    ValueError
        It is none.
    """
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < _LATEST:
        raise ValueError(f"{value!r} is no time")
    return float(value)
