"""What is wrong in a cluster, each thing once, with the nodes where it is."""

from __future__ import annotations

import statistics
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from ray_anystorage.diagnosis.clock import Reading
from ray_anystorage.diagnosis.cluster_fold import others, places
from ray_anystorage.diagnosis.node_answer import Fault, NodeAnswer
from ray_anystorage.diagnosis.nodes import NodeName, counted, listed
from ray_anystorage.environment import NFS_TIERS, Problem, Tier
from ray_anystorage.settings import PREFIX

_CLOCK_LIMIT = 1.0  # seconds that clocks may surely differ; nodes that synchronise theirs are within hundredths
_NAMED = 30  # nodes that a problem names in words; the values for programs have all
_COMPARED = 8  # nodes that it names to compare with


@dataclass(frozen=True, slots=True)
class ClusterProblem:
    """Something that is wrong on some nodes.

    Attributes
    ----------
    tier, place
        Which storage; both empty where it is the nodes themselves.
    error
        The name of the error class of the same meaning, or ``"Differs"`` where nodes differ that should not.
    """

    nodes: tuple[NodeName, ...]
    tier: str
    place: str
    error: str
    reason: str
    tried: str
    remedy: str

    def __str__(self) -> str:
        where = f"{self.tier} storage {self.place}: " if self.tier else ""
        said = f"{_some(self.nodes, most=_NAMED)}: {where}{self.reason}"
        return f"{said}\n  tried: {self.tried}\n  what to do: {self.remedy}"

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        values = {name: getattr(self, name) for name in ("tier", "place", "error", "reason", "tried", "remedy")}
        return {"nodes": [node.id for node in self.nodes], "names": [str(node) for node in self.nodes], **values}


def find_problems(answers: Iterable[NodeAnswer]) -> tuple[ClusterProblem, ...]:
    """Everything that is wrong, the nodes themselves first; the order of the answers does not matter."""
    answers = sorted(answers, key=lambda answer: answer.node)
    finders = (_faults, _versions, _clocks, _tiers, _absences, _elsewhere)
    return tuple(problem for find in finders for problem in find(answers))


def _faults(answers: Sequence[NodeAnswer]) -> Iterator[ClusterProblem]:
    alike: defaultdict[Fault, list[NodeName]] = defaultdict(list)
    for answer in answers:
        if answer.fault is not None:
            alike[answer.fault].append(answer.node)
    for fault, nodes in alike.items():
        yield ClusterProblem(tuple(nodes), "", "", fault.error, fault.reason, fault.tried, fault.remedy)


def _tiers(answers: Sequence[NodeAnswer]) -> Iterator[ClusterProblem]:
    """What discovery or a check found wrong, in the words of the first node that has it."""
    alike: dict[tuple[str, str, str], tuple[Problem, list[NodeName]]] = {}
    for answer in answers:
        problems = [problem for tier in answer.report.tiers for problem in tier.problems] if answer.report else []
        for problem in problems:
            kind = (problem.tier, problem.place, problem.error_type.__name__)
            nodes = alike.setdefault(kind, (problem, []))[1]
            if answer.node not in nodes:
                nodes.append(answer.node)
    for (_, _, error), (problem, nodes) in alike.items():
        yield ClusterProblem(
            tuple(nodes), problem.tier, problem.place, error, problem.reason, problem.tried, problem.remedy
        )


def _absences(answers: Sequence[NodeAnswer]) -> Iterator[ClusterProblem]:
    tiers: tuple[Tier, ...] = (*NFS_TIERS, "artifact")
    for tier in tiers:
        found = [(answer.node, report.place) for answer in answers if (report := answer.tier(tier)) is not None]
        lacking = [node for node, place in found if place.state == "absent"]
        having = [(node, place) for node, place in found if place.state != "absent"]
        if lacking and having:
            yield ClusterProblem(
                nodes=tuple(lacking),
                tier=tier,
                place=having[0][1].root,
                error="MountMissingError",
                reason=f"it is not there, and {counted(len(having))} have it",
                tried="looked for it on every node",
                remedy=f"mount it on every node, or set {PREFIX}{tier.upper()}_STORAGE to where it is",
            )


def _elsewhere(answers: Sequence[NodeAnswer]) -> Iterator[ClusterProblem]:
    roots = {tier: {a.node: report.place.root for a in answers if (report := a.tier(tier))} for tier in NFS_TIERS}
    for tier in NFS_TIERS:
        parts, odd = places(answers, tier), others(answers, tier)
        if not odd:
            continue
        root = roots[tier].get(min(odd), "")
        same = "it is another place there than on "
        reason = (
            f"{same}{_some(parts[0], most=_COMPARED)}"
            if parts[0] - odd
            else "it is a place of its own on each of these nodes"
        )
        yield ClusterProblem(
            nodes=tuple(sorted(odd)),
            tier=tier,
            place=root,
            error="Differs",
            reason=reason,
            tried="wrote a file on every node and looked for it on all others",
            remedy=f"mount the same storage at {root} on every node; a plain directory is each node's own",
        )


def _versions(answers: Sequence[NodeAnswer]) -> Iterator[ClusterProblem]:
    for name in sorted({name for answer in answers for name, _ in answer.versions}):
        said = {answer.node: own for answer in answers if (own := dict(answer.versions).get(name)) is not None}
        usual = _usual(said.values())
        for version in sorted(set(said.values()) - {usual}):
            yield ClusterProblem(
                nodes=tuple(node for node, own in said.items() if own == version),
                tier="",
                place="",
                error="Differs",
                reason=f"{name} is {version} there, and {usual} on most nodes",
                tried=f"asked every node for its version of {name}",
                remedy=f"install {name} {usual} on every node, from one image or the job's runtime_env",
            )


def _clocks(answers: Sequence[NodeAnswer]) -> Iterator[ClusterProblem]:
    read = {answer.node: answer.clock for answer in answers if answer.clock is not None}
    if not read:
        return
    usual = _median(read.values())
    for node, clock in read.items():
        ahead, doubt = clock.offset - usual.offset, clock.error + usual.error
        if abs(ahead) - doubt > _CLOCK_LIMIT:
            yield ClusterProblem(
                nodes=(node,),
                tier="",
                place="",
                error="Differs",
                reason=f"its clock is {abs(ahead):.1f} s (± {doubt:.1f} s) {'ahead of' if ahead > 0 else 'behind'} "
                "those of most nodes",
                tried="asked every node for the time",
                remedy="synchronise its clock (chrony, NTP): signatures of requests and times of files depend on it",
            )


def _median(readings: Iterable[Reading]) -> Reading:
    """The reading in the middle; one that was taken, for its error counts, too."""
    ordered = sorted(readings, key=lambda reading: (reading.offset, reading.error))
    middle = statistics.median_low(range(len(ordered)))
    return ordered[middle]


def _usual(values: Iterable[str]) -> str:
    counts = Counter(values)
    return min(counts, key=lambda value: (-counts[value], value))


def _some(nodes: Iterable[NodeName], *, most: int) -> str:
    names = sorted(nodes)
    return listed(names) if len(names) <= most else f"{counted(len(names))} ({listed(names, most=2)})"
