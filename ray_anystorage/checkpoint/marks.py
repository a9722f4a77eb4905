"""The empty files that say that a save began; the name of each has the attempt, the rank and the report."""

from __future__ import annotations

import re
from collections.abc import Iterable

_MARK = re.compile(r"begun-(?P<attempt>[0-9a-z]+)-(?P<rank>[0-9]+)-(?P<report>[0-9]+)")


def mark_name(attempt: str, rank: int, report: int) -> str:
    """The file name of a mark."""
    return f"begun-{attempt}-{rank}-{report}"


def begun_attempt(name: str) -> str | None:
    """The attempt that a mark speaks of; ``None`` for the name of something else."""
    match = _MARK.fullmatch(name)
    return match["attempt"] if match else None


def earlier_marks(names: Iterable[str], attempt: str, rank: int, report: int) -> list[str]:
    """The marks of a rank's earlier reports in the attempt: of a rank's marks, the last one says all."""
    marks = [match for name in names if (match := _MARK.fullmatch(name))]
    own = [match for match in marks if (match["attempt"], int(match["rank"])) == (attempt, rank)]
    return [match[0] for match in own if int(match["report"]) < report]


def begun_later(names: Iterable[str], attempt: str, report: int) -> bool:
    """Whether a rank began to save a later report of the attempt."""
    marks = [match for name in names if (match := _MARK.fullmatch(name))]
    return any(match["attempt"] == attempt and int(match["report"]) > report for match in marks)
