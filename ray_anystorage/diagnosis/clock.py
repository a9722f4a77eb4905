"""How far apart the clocks of two nodes are, read from one question and its answer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple


class Moment(NamedTuple):
    """An instant on one machine: by its clock, and by one that nobody sets; both in seconds."""

    wall: float
    steady: float


@dataclass(frozen=True, slots=True)
class Reading:
    """How far a node's clock is ahead of the asking one's, and how far wrong that may be; seconds."""

    offset: float
    error: float


def read_clock(asked: Moment, began: Moment, ended: Moment, came: Moment) -> Reading:
    """Read a node's clock from a question and its answer, as NTP does (RFC 5905, section 8).

    The offset lies in the middle of its two bounds: the node began after it was asked, and the answer came after the
    node ended. How long the way took is told by clocks that nobody sets, and what either clock was set by meanwhile
    adds to the doubt: a clock that is being disciplined steps by milliseconds at any time. One that is set there and
    back between two of the instants is not found out.

    Parameters
    ----------
    asked, came
        When the question was sent and its answer was there, on the asking machine.
    began, ended
        When the node began and ended to answer, on the node.
    """
    offset = ((began.wall - asked.wall) + (ended.wall - came.wall)) / 2
    way = (came.steady - asked.steady) - (ended.steady - began.steady)
    return Reading(offset, (max(0.0, way) + _set_by(asked, came) + _set_by(began, ended)) / 2)


def _set_by(first: Moment, last: Moment) -> float:
    return abs((last.wall - first.wall) - (last.steady - first.steady))
