"""What one node of a cluster says of itself and of the others."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ray_anystorage.diagnosis.clock import Reading
from ray_anystorage.diagnosis.nodes import NodeName
from ray_anystorage.diagnosis.report import Report, TierReport
from ray_anystorage.environment import Tier


@dataclass(frozen=True, slots=True)
class Fault:
    """Why a node did not answer, or not in whole."""

    error: str
    reason: str
    tried: str
    remedy: str


@dataclass(frozen=True, slots=True)
class NodeAnswer:
    """One node.

    Attributes
    ----------
    report
        Every tier as it sees it; ``None`` where it did not come to that.
    versions
        Of what a run needs to be alike on all nodes, by name.
    seen
        By tier: the ids of the nodes, itself included, whose word it found on its mount. Tiers without a mount that
        could be written have no entry.
    """

    node: NodeName
    report: Report | None = None
    versions: tuple[tuple[str, str], ...] = ()
    seen: tuple[tuple[Tier, frozenset[str]], ...] = ()
    clock: Reading | None = None
    fault: Fault | None = None

    def tier(self, tier: Tier) -> TierReport | None:
        """What it says of a tier."""
        tiers = self.report.tiers if self.report is not None else ()
        return next((found for found in tiers if found.place.tier == tier), None)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "id": self.node.id,
            "address": self.node.address,
            "hostname": self.node.hostname,
            "answered": self.fault is None,
            "versions": dict(self.versions),
            "clock": {"offset": round(self.clock.offset, 4), "error": round(self.clock.error, 4)}
            if self.clock
            else None,
            "sees": {tier: sorted(nodes) for tier, nodes in self.seen},
            "tiers": [tier.to_dict() for tier in self.report.tiers] if self.report is not None else [],
        }
