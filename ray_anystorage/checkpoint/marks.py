"""The empty files that say that a save began; the name of each has the attempt, the rank, the report and the bytes."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

_NAME = re.compile(r"begun-(?P<attempt>[0-9a-z]+)-(?P<rank>[0-9]+)-(?P<report>[0-9]+)-(?P<size>[0-9]+)")


@dataclass(frozen=True, slots=True)
class Mark:
    """Who began to save which report, and how many bytes of it."""

    attempt: str
    rank: int
    report: int
    size: int

    @property
    def name(self) -> str:
        """Of its file."""
        return f"begun-{self.attempt}-{self.rank}-{self.report}-{self.size}"


def read_mark(name: str) -> Mark | None:
    """What a file name says; ``None`` for the name of something else."""
    match = _NAME.fullmatch(name)
    return Mark(match["attempt"], *(int(match[part]) for part in ("rank", "report", "size"))) if match else None


def marks_in(names: Iterable[str], attempt: str) -> list[Mark]:
    """The marks of one attempt."""
    return [mark for name in names if (mark := read_mark(name)) is not None and mark.attempt == attempt]


def begun_later(names: Iterable[str], attempt: str, report: int) -> bool:
    """Whether a rank began to save a later report of the attempt."""
    return any(mark.report > report for mark in marks_in(names, attempt))
