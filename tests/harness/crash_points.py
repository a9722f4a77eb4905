"""The points at which a piece of work can break off: every I/O step that it makes, counted by name as it comes by.

Who sees the steps is not the work itself: the kernel on a file system (:mod:`tests.harness.crash_kernel`) and a proxy
before a bucket (:mod:`tests.harness.crash_proxy`). So a step that is new to the code is there without being listed.
"""

from __future__ import annotations

import re
import threading
from collections import Counter
from dataclasses import dataclass, field
from typing import Literal

Kind = Literal["kill", "EIO", "ENOSPC", "refuse", "lose"]

# What a crash leaves is the same before and after these.
WITHOUT_TRACE = frozenset({"fsync", "fdatasync", "sync_file_range", "flock", "open", "read", "list", "look"})
READS = frozenset({"read", "list", "look"})
_RANDOM = (re.compile(r"[0-9a-f]{8,}"), re.compile(r"(?<=begun-\*-)\d+-\d+-\d+"), re.compile(r"#\d+(?= \(deleted\))"))


def without_chance(name: str) -> str:
    """A name with a star for each part of it that is another one the next time."""
    for part in _RANDOM:
        name = part.sub("*", name)
    return name


@dataclass(frozen=True, slots=True, order=True)
class Step:
    """One step.

    Attributes
    ----------
    where
        ``"mount"``, ``"node"`` or ``"bucket"``.
    verb, target
        What is done to what; random parts of names are stars.
    turn
        The how-manieth step of these three, from 1.
    """

    where: str
    verb: str
    target: str
    turn: int

    def __str__(self) -> str:
        turn = f" ({self.turn})" if self.turn > 1 else ""
        return f"{self.where}: {self.verb} {self.target}{turn}"


@dataclass(frozen=True, slots=True)
class Fault:
    """What happens at a step.

    ``kill`` ends the process before the step; ``EIO`` and ``ENOSPC`` fail a system call; a request of ``refuse`` is
    answered 403, and one of ``lose`` is carried out and not answered.
    """

    step: Step
    kind: Kind

    def __str__(self) -> str:
        return f"{self.kind} at {self.step}"


@dataclass(slots=True)
class Points:
    """The steps of one piece of work as they come by, and the one at which it fails, if any.

    Attributes
    ----------
    seen
        In their order.
    fired
        Whether the step of the fault came by.
    """

    fault: Fault | None = None
    seen: list[Step] = field(default_factory=list)
    fired: bool = False
    _turns: Counter[tuple[str, str, str]] = field(default_factory=Counter)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def meet(self, where: str, verb: str, target: str) -> Kind | None:
        """Note a step, and say what is to happen at it."""
        name = (where, verb, without_chance(target))
        with self._lock:
            self._turns[name] += 1
            step = Step(*name, self._turns[name])
            self.seen.append(step)
            if self.fault is None or step != self.fault.step:
                return None
            self.fired = True
            return self.fault.kind
