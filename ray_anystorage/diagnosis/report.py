"""What the doctor found on one node, as plain values."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ray_anystorage.diagnosis.check import Check, first_problem, problem_dict
from ray_anystorage.environment import Place, Problem

_WARNINGS = ("latency", "conditional put", "multipart upload", "clock")  # a bucket serves a run without these


@dataclass(frozen=True, slots=True)
class TierReport:
    """One tier: what discovery says it is, and what trying it gave. ``checks`` is empty where nothing was tried."""

    place: Place
    checks: tuple[Check, ...] = ()

    @property
    def problem(self) -> Problem | None:
        """What discovery found wrong, or the first check."""
        return self.place.problem or first_problem(self.checks)

    @property
    def problems(self) -> tuple[Problem, ...]:
        """Everything that is wrong, each once."""
        every = (self.place.problem, *(check.problem for check in self.checks))
        return tuple(dict.fromkeys(problem for problem in every if problem is not None))

    @property
    def ok(self) -> bool:
        """True when nothing is wrong; a tier that is absent is not wrong."""
        return self.problem is None

    @property
    def serves(self) -> bool:
        """True when a run may live here: it is there, and everything that a run needs works."""
        return self.place.usable and not any(check.problem for check in self.checks if check.name not in _WARNINGS)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON; sizes in bytes."""
        place, space = self.place, self.place.space
        return {
            "tier": place.tier,
            "root": place.root,
            "source": place.location.source,
            "state": place.state,
            "serves": self.serves,
            "ok": self.ok,
            "kind": place.kind,
            "filesystem": place.filesystem,
            "network": place.network,
            "description": place.description,
            "free_bytes": space.free_bytes if space else None,
            "total_bytes": space.total_bytes if space else None,
            "problem": problem_dict(self.problem),
            "checks": [check.to_dict() for check in self.checks],
        }


@dataclass(frozen=True, slots=True)
class Report:
    """Every tier as this node sees it.

    Attributes
    ----------
    credentials
        Mode and source for the bucket, redacted.
    notes
        What could not be found out.
    """

    tiers: tuple[TierReport, ...]
    credentials: str = ""
    notes: tuple[str, ...] = ()

    @property
    def ok(self) -> bool:
        """True when at least one tier serves and none has a problem."""
        return self.exit_code == 0

    @property
    def exit_code(self) -> int:
        """0: all is fine. 1: a tier has a problem. 2: no tier can serve a run."""
        if not any(tier.serves for tier in self.tiers):
            return 2
        return 0 if all(tier.ok for tier in self.tiers) else 1

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "ok": self.ok,
            "exit_code": self.exit_code,
            "credentials": self.credentials,
            "notes": list(self.notes),
            "tiers": [tier.to_dict() for tier in self.tiers],
        }
