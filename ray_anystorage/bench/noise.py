"""Figures with their noise: medians and their spread, ratios of runs made side by side, or at different times; pure."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

LOSS = 0.95  # a ratio whose whole interval lies below this counts as a loss


@dataclass(frozen=True, slots=True)
class Spread:
    """Median, quartiles and extremes."""

    median: float
    lower: float
    upper: float
    least: float
    most: float


@dataclass(frozen=True, slots=True)
class Ratio:
    """Geometric mean of paired ratios with its 95 % interval; no bounds where there is one pair only."""

    mean: float
    low: float | None
    high: float | None
    pairs: int

    @property
    def lost(self) -> bool:
        """Whether the interval lies wholly below 0.95."""
        return self.high is not None and self.high < LOSS


def spread(values: Sequence[float]) -> Spread:
    """Summarise at least one value."""
    lower, _, upper = statistics.quantiles([*values] * (2 if len(values) == 1 else 1), n=4, method="inclusive")
    return Spread(statistics.median(values), lower, upper, min(values), max(values))


def ratio(numerators: Sequence[float], denominators: Sequence[float]) -> Ratio:
    """Ratio of values that were measured in pairs, in the same order.

    The interval is Student's, on the logarithms.
    """
    logarithms = [math.log(above / below) for above, below in zip(numerators, denominators, strict=True)]
    mean, pairs = statistics.fmean(logarithms), len(logarithms)
    if pairs < 2:
        return Ratio(math.exp(mean), None, None, pairs)
    half = quantile(0.95, pairs - 1) * statistics.stdev(logarithms) / math.sqrt(pairs)
    return Ratio(math.exp(mean), math.exp(mean - half), math.exp(mean + half), pairs)


def apart(numerators: Sequence[float], denominators: Sequence[float], *, cells: int = 1) -> Ratio:
    """Ratio of values that were measured at different times, such as in two runs of a benchmark.

    The interval is Welch's, on the logarithms (Welch, "The generalization of Student's problem when several different
    population variances are involved", Biometrika 34, 1947). ``pairs`` is the smaller number of values.
    """
    above, below = ([math.log(value) for value in values] for values in (numerators, denominators))
    mean, fewest = statistics.fmean(above) - statistics.fmean(below), min(len(above), len(below))
    if fewest < 2:
        return Ratio(math.exp(mean), None, None, fewest)
    parts = [statistics.variance(values) / len(values) for values in (above, below)]
    error = sum(parts)
    if error == 0:
        return Ratio(math.exp(mean), math.exp(mean), math.exp(mean), fewest)
    freedom = error**2 / sum(part**2 / (len(values) - 1) for part, values in zip(parts, (above, below), strict=True))
    half = quantile(1 - 0.05 / cells, max(1.0, freedom)) * math.sqrt(error)
    return Ratio(math.exp(mean), math.exp(mean - half), math.exp(mean + half), fewest)


def centre(values: Sequence[float]) -> Ratio:
    """Geometric mean of values with Student's 95 % interval on the logarithms."""
    return ratio(values, [1.0] * len(values))


def percentiles(values: Sequence[float]) -> dict[str, float]:
    """The 50th, 95th and 99th, of at least one value; interpolated between two."""
    cuts = statistics.quantiles([*values] * (2 if len(values) == 1 else 1), n=100, method="inclusive")
    return {"p50": cuts[49], "p95": cuts[94], "p99": cuts[98]}


def quantile(level: float, freedom: float) -> float:
    """Student's t that a share ``level`` of values lies within, on both sides of nothing.

    Hill, "Algorithm 396: Student's t-quantiles", Communications of the ACM 13(10), 1970.
    """
    tail = 1 - level
    if freedom < 2:  # a line through the two that are known in closed form would be off: Cauchy's
        return 1 / math.tan(tail * math.pi / 2)
    a = 1 / (freedom - 0.5)
    b = 48 / a**2
    c = ((20700 * a / b - 98) * a - 16) * a + 96.36
    d = ((94.5 / (b + c) - 3) / b + 1) * math.sqrt(a * math.pi / 2) * freedom
    y = (d * tail) ** (2 / freedom)
    if y > 0.05 + a:
        x = statistics.NormalDist().inv_cdf(tail / 2)
        y = x**2
        if freedom < 5:
            c += 0.3 * (freedom - 4.5) * (x + 0.6)
        c += (((0.05 * d * x - 5) * x - 7) * x - 2) * x + b
        y = (((((0.4 * y + 6.3) * y + 36) * y + 94.5) / c - y - 3) / b + 1) * x
        y = math.expm1(a * y**2)
    else:
        y = (
            (1 / (((freedom + 6) / (freedom * y) - 0.089 * d - 0.822) * (freedom + 2) * 3) + 0.5 / (freedom + 4)) * y
            - 1
        ) * (freedom + 1) / (freedom + 2) + 1 / y
    return math.sqrt(freedom * y)
