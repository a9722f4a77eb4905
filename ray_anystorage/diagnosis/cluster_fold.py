"""Which nodes are alike, and which of them see the same storage: a cluster of hundreds has a few kinds of nodes."""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ray_anystorage.diagnosis.check import Check
from ray_anystorage.diagnosis.node_answer import NodeAnswer
from ray_anystorage.diagnosis.nodes import NodeName
from ray_anystorage.diagnosis.report import TierReport
from ray_anystorage.environment import NFS_TIERS, TIERS, Tier


@dataclass(frozen=True, slots=True)
class Group:
    """Nodes that answered alike.

    Attributes
    ----------
    tiers
        What they say of each tier: medians of what was measured, and the least free space.
    alone
        The tiers that are other places on these nodes than on most.
    """

    nodes: tuple[NodeName, ...]
    tiers: tuple[TierReport, ...]
    versions: tuple[tuple[str, str], ...]
    alone: tuple[Tier, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "nodes": [node.id for node in self.nodes],
            "versions": dict(self.versions),
            "elsewhere": list(self.alone),
            "tiers": [tier.to_dict() for tier in self.tiers],
        }


def fold(answers: Iterable[NodeAnswer]) -> tuple[Group, ...]:
    """Put equal nodes together, the largest group first; what was measured does not make nodes differ."""
    answers = sorted(answers, key=lambda answer: answer.node)
    elsewhere = {tier: others(answers, tier) for tier in NFS_TIERS}
    alike: defaultdict[tuple[Hashable, tuple[Tier, ...]], list[NodeAnswer]] = defaultdict(list)
    for answer in answers:
        alone = tuple(tier for tier in NFS_TIERS if answer.node in elsewhere[tier])
        alike[_likeness(answer), alone].append(answer)
    groups = [
        Group(tuple(one.node for one in kind), _together(kind), kind[0].versions, alone)
        for (_, alone), kind in alike.items()
    ]
    return tuple(sorted(groups, key=lambda group: (-len(group.nodes), group.nodes)))


def places(answers: Iterable[NodeAnswer], tier: Tier) -> tuple[frozenset[NodeName], ...]:
    """The nodes parted by the place that a mount really is, the largest part first.

    Two nodes have the same one where each found the other's word, or where that leads from one to the other: a client
    of a network file system may learn of a new file later than others.
    """
    named = {answer.node.id: answer.node for answer in answers}
    seen = {answer.node.id: nodes for answer in answers for of, nodes in answer.seen if of == tier}
    left, parts = sorted(seen), []
    while left:
        part, reached = set(), {left[0]}
        while reached:
            part |= reached
            reached = {
                other for node in reached for other in seen[node] if node in seen.get(other, ()) and other not in part
            }
        parts.append(frozenset(named[node] for node in part))
        left = [node for node in left if node not in part]
    return tuple(sorted(parts, key=lambda part: (-len(part), sorted(part))))


def others(answers: Iterable[NodeAnswer], tier: Tier) -> frozenset[NodeName]:
    """The nodes on which a mount is another place than on most; all of them where it is one of its own on each."""
    parts = places(answers, tier)
    if len(parts) > 1 and len(parts[0]) == 1:
        return frozenset().union(*parts)
    return frozenset().union(*parts[1:])


def serving_nodes(answers: Sequence[NodeAnswer], tier: Tier) -> frozenset[NodeName]:
    """The nodes on which a run on all of them could use a tier: one place, and it works."""
    if tier == "local" and len(answers) > 1:
        return frozenset()
    elsewhere = others(answers, tier) if tier in NFS_TIERS else frozenset()
    serving = {answer.node for answer in answers if (found := answer.tier(tier)) is not None and found.serves}
    return frozenset(serving - elsewhere)


def _likeness(answer: NodeAnswer) -> Hashable:
    """What two nodes that are alike have in common; sizes, times and free space are not part of it."""
    tiers = [] if answer.report is None else [_nature(tier) for tier in answer.report.tiers]
    return answer.versions, answer.fault, tuple(tiers)


def _nature(tier: TierReport) -> Hashable:
    place = tier.place
    faults = tuple(sorted({problem.error_type.__name__ for problem in tier.problems}))
    return place.tier, place.root, place.state, place.kind, place.filesystem, tier.serves, faults


def _together(answers: Sequence[NodeAnswer]) -> tuple[TierReport, ...]:
    reports = {tier: [found for one in answers if (found := one.tier(tier)) is not None] for tier in TIERS}
    return tuple(_median(found) for found in reports.values() if found)


def _median(reports: Sequence[TierReport]) -> TierReport:
    """Several nodes' word on a tier as one."""
    first = reports[0]
    free = [one.place.space.free_bytes for one in reports if one.place.space and one.place.space.free_bytes is not None]
    space = replace(first.place.space, free_bytes=min(free)) if first.place.space and free else first.place.space
    return TierReport(
        replace(first.place, space=space),
        tuple(_median_check(check, reports) for check in first.checks),
    )


def _median_check(check: Check, reports: Sequence[TierReport]) -> Check:
    values = [
        one.value for report in reports for one in report.checks if one.name == check.name and one.value is not None
    ]
    return replace(check, value=statistics.median(values)) if values else check
