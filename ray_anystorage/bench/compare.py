"""Two benchmarks side by side: pure."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

from ray_anystorage.bench.noise import Ratio, apart
from ray_anystorage.bench.results import BenchReport, Cell

_SAME_SIZE = 0.01  # share that sizes may be apart: making a shape smaller rounds the sizes of its files
VerdictOfChange = Literal["faster", "slower", "within noise", "another size"]


@dataclass(frozen=True, slots=True)
class Change:
    """One cell in both reports.

    Attributes
    ----------
    before, after
        Bytes per second.
    ratio
        Times as fast as before, by rates, with its 95 % interval.
    other_size
        Whether the checkpoints were of different sizes, so that rates are all that can be compared.
    """

    tier: str
    shape: str
    operation: str
    path: str
    nodes: int
    before: float
    after: float
    ratio: Ratio
    other_size: bool

    @property
    def verdict(self) -> VerdictOfChange:
        """What can be said, of all cells at once."""
        if self.other_size:
            return "another size"
        if self.ratio.low is not None and self.ratio.low > 1:
            return "faster"
        if self.ratio.high is not None and self.ratio.high < 1:
            return "slower"
        return "within noise"

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {**asdict(self), "verdict": self.verdict}


@dataclass(frozen=True, slots=True)
class Comparison:
    """What both reports have, and what only one has, by ``"before"`` and ``"after"``."""

    changes: tuple[Change, ...]
    only: dict[str, list[str]]


def changes(before: BenchReport, after: BenchReport) -> Comparison:
    """Compare them cell by cell."""
    first, second = ({cell.key: cell for cell in report.cells} for report in (before, after))
    both = [key for key in first if key in second]
    return Comparison(
        tuple(_change(first[key], second[key], len(both)) for key in both),
        {
            "before": [" ".join(map(str, key)) for key in first if key not in second],
            "after": [" ".join(map(str, key)) for key in second if key not in first],
        },
    )


def _change(before: Cell, after: Cell, cells: int) -> Change:
    rates = [[cell.moved / run.seconds for run in cell.runs] for cell in (before, after)]
    return Change(
        *before.key,
        before.rate,
        after.rate,
        apart(rates[1], rates[0], cells=cells),
        abs(after.bytes / before.bytes - 1) > _SAME_SIZE,
    )
