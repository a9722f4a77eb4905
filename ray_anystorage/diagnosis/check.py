"""One thing that was tried: what came out, how long it took, and what is wrong if it failed."""

from __future__ import annotations

import errno
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from ray_anystorage.discovery.probe import bounded
from ray_anystorage.environment import Problem


@dataclass(frozen=True, slots=True)
class Finding:
    """What a step found out; with a ``problem`` where it ran and the answer is bad."""

    detail: str
    value: float | None = None
    unit: str = ""
    problem: Problem | None = None


@dataclass(frozen=True, slots=True)
class Check:
    """The outcome of one step.

    Attributes
    ----------
    seconds
        How long the step took.
    detail
        One phrase for people.
    problem
        Set exactly when ``ok`` is false.
    value, unit
        The same for programs, where the step measures something.
    """

    name: str
    ok: bool
    seconds: float
    detail: str
    problem: Problem | None = None
    value: float | None = None
    unit: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "name": self.name,
            "ok": self.ok,
            "seconds": round(self.seconds, 4),
            "detail": self.detail,
            "value": self.value,
            "unit": self.unit,
            "problem": problem_dict(self.problem),
        }


def run_check(
    name: str,
    step: Callable[[], Finding],
    *,
    timeout: float,
    failures: tuple[type[Exception], ...],
    explain: Callable[[Any], Problem],
) -> Check:
    """Run a step for at most ``timeout`` seconds; what it raises of ``failures`` becomes the check's problem.

    Without any time left it is not begun: it would go on after everybody stopped looking.
    """
    start = time.monotonic()
    try:
        if timeout <= 0:
            raise TimeoutError(errno.ETIMEDOUT, f"{name}: no time is left for it")
        finding = bounded(step, timeout, what=name)
    except failures as error:
        problem = explain(error)
        finding = Finding(problem.reason, problem=problem)
    seconds = time.monotonic() - start
    return Check(name, finding.problem is None, seconds, finding.detail, finding.problem, finding.value, finding.unit)


def first_problem(checks: Iterable[Check]) -> Problem | None:
    """The problem of the first check that failed."""
    return next((check.problem for check in checks if check.problem is not None), None)


def problem_dict(problem: Problem | None) -> dict[str, str] | None:
    """Plain values for JSON."""
    if problem is None:
        return None
    return {
        "error": problem.error_type.__name__,
        "reason": problem.reason,
        "tier": problem.tier,
        "place": problem.place,
        "tried": problem.tried,
        "remedy": problem.remedy,
    }
