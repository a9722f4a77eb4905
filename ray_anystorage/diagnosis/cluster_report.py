"""What every node of a cluster answered, as plain values, and what follows from it; Ray has no part in it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ray_anystorage.diagnosis.cluster_fold import Group, fold, serving_nodes
from ray_anystorage.diagnosis.cluster_problems import ClusterProblem, find_problems
from ray_anystorage.diagnosis.node_answer import NodeAnswer
from ray_anystorage.environment import TIERS


@dataclass(frozen=True, slots=True)
class ClusterReport:
    """The cluster as all of its nodes see it.

    Attributes
    ----------
    answers
        One for each node that was alive, in the order of their names, also for those that did not answer.
    credentials
        Mode and source for the bucket, redacted.
    notes
        What could not be found out.
    """

    answers: tuple[NodeAnswer, ...]
    credentials: str = ""
    notes: tuple[str, ...] = ()

    @property
    def problems(self) -> tuple[ClusterProblem, ...]:
        """What is wrong, each with the nodes where it is; an absent mount is no problem where no node has it."""
        return find_problems(self.answers)

    @property
    def groups(self) -> tuple[Group, ...]:
        """Equal nodes together, the largest group first."""
        return fold(self.answers)

    @property
    def ok(self) -> bool:
        """True when at least one tier serves and nothing is wrong on any node."""
        return self.exit_code == 0

    @property
    def exit_code(self) -> int:
        """0: all is fine. 1: something is wrong on a node. 2: no tier can serve a run on most nodes."""
        if not any(2 * len(serving_nodes(self.answers, tier)) > len(self.answers) for tier in TIERS):
            return 2
        return 1 if self.problems else 0

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON; sizes in bytes, times in seconds."""
        return {
            "ok": self.ok,
            "exit_code": self.exit_code,
            "credentials": self.credentials,
            "notes": list(self.notes),
            "problems": [problem.to_dict() for problem in self.problems],
            "groups": [group.to_dict() for group in self.groups],
            "nodes": [answer.to_dict() for answer in self.answers],
        }
