"""The benchmark itself, in the driver: limits first, then checkpoints, tier by tier, within the time and the bytes."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from ray_anystorage.bench.advise import proposals
from ray_anystorage.bench.driver.crew import Crew, Member
from ray_anystorage.bench.driver.rounds import Match
from ray_anystorage.bench.judge import Limits
from ray_anystorage.bench.limits import NodeLimits, TierLimits, added
from ray_anystorage.bench.results import BenchReport, Cell, NodeFound, TierFound
from ray_anystorage.bench.shapes import Shape
from ray_anystorage.bench.sizing import Means, Sized, fit
from ray_anystorage.bench.wanted import LEAST_ROUNDS, Wanted
from ray_anystorage.errors import BenchError
from ray_anystorage.units import format_seconds, format_size

_LIMITS_SHARE = 0.25  # of the time, for limits of nodes one at a time
_LIMITS_BYTES_SHARE = 0.4
_LIMITS_WITHIN = 120.0  # seconds

_FAIRNESS = (
    "Ray's own path is what a run without this package has: pyarrow with Ray's settings. On a mount it does not sync "
    "what it writes, and nowhere does it compare what it reads with what was saved; this package does both. Both read "
    "every byte of what they restore, with the memory of the system emptied of it, but for what is called warm.",
)
Tell = Callable[[str], None]


class Job:
    """One benchmark; :meth:`report` has what is known at any time, also after an interruption."""

    def __init__(self, wanted: Wanted, crew: Crew, versions: Mapping[str, str], tell: Tell) -> None:
        self._wanted, self._crew, self._versions, self._tell = wanted, crew, dict(versions), tell
        self._started, self._start = time.strftime("%Y-%m-%dT%H:%M:%S%z"), time.monotonic()
        self._written = 0
        self._complete = False
        self._facts: dict[str, dict[str, Any]] = {}
        self._nodes: list[NodeFound] = []
        self._tiers: dict[str, TierFound] = {}
        self._cells: list[Cell] = []
        self._notes: list[str] = []
        self._slower: dict[str, float] = {}  # than planned, by tier

    def run(self, refused: Mapping[str, str]) -> None:
        """Measure everything; a tier that fails is noted, and the others are measured.

        Parameters
        ----------
        refused
            Nodes that do not take part, and why.
        """
        self._nodes += [NodeFound(node, problem=why) for node, why in refused.items()]
        if not self._crew.members:
            raise BenchError(f"no node takes part: {'; '.join(f'{node}: {why}' for node, why in refused.items())}")
        self._look()
        limits: dict[str, Limits] = {}
        for tier in [tier for tier, found in self._tiers.items() if found.problem is None]:
            with self._noting(tier):
                limits[tier] = self._limits(tier, len(self._tiers) - len(limits))
        wanted = [tier for tier in limits if self._holds_checkpoints(tier, limits)]
        left = len(wanted) * len(self._wanted.shapes)
        for shape in self._wanted.shapes:
            for tier in wanted:
                if self._tiers[tier].problem is None:
                    with self._noting(tier):
                        self._shape(tier, shape, limits[tier], left)
                left -= 1
        self._complete = True

    def report(self) -> BenchReport:
        """What is known by now."""
        wanted, tiers = self._wanted, tuple(self._tiers.values())
        return BenchReport(
            started=self._started,
            seconds=time.monotonic() - self._start,
            complete=self._complete,
            versions=self._versions,
            asked={"seconds": wanted.seconds, "bytes": wanted.bytes, "rounds": wanted.rounds},
            nodes=tuple(self._nodes),
            tiers=tiers,
            cells=tuple(self._cells),
            proposals=proposals(tiers, self._cells, wanted.threshold),
            notes=(*self._notes, *_FAIRNESS, f"{format_size(self._written)} were written to the tiers"),
        )

    def _look(self) -> None:
        """What the nodes are and see."""
        members = self._crew.members
        for member, facts in zip(members, self._crew.each(members, "facts", [()] * len(members), 60.0), strict=True):
            self._facts[str(member)] = facts
            node = NodeFound(str(member), facts["cpu"], facts["memory_bytes"], NodeLimits(**facts["limits"]))
            self._nodes.append(node)
            self._notes += [f"an earlier benchmark had left {place}, which is gone now" for place in facts["swept"]]
        for tier in next(iter(self._facts.values()))["tiers"]:
            if self._wanted.tiers and tier not in self._wanted.tiers:
                continue
            seen = [facts["tiers"][tier] for facts in self._facts.values()]
            if any(one["state"] != "absent" for one in seen):
                self._tiers[tier] = _found(tier, seen)

    @contextlib.contextmanager
    def _noting(self, tier: str) -> Iterator[None]:
        """Note what fails of a tier, and go on with the next one."""
        try:
            yield
        except BenchError as error:
            self._tell(f"{tier}: {error.message}")
            self._tiers[tier] = replace(self._tiers[tier], problem=error.message)
            self._crew.renew()

    def _holds_checkpoints(self, tier: str, limits: Mapping[str, Limits]) -> bool:
        """Whether runs may live there: on a node's own disk only where there is nothing else, or it was asked for."""
        if tier != "local" or tier in self._wanted.tiers or set(limits) == {"local"}:
            return True
        self._skip(tier, "checkpoints: runs do not live there where another tier is (--tier local measures them)")
        return False

    def _members(self, tier: str) -> list[Member]:
        return [member for member in self._crew.members if self._seen(member, tier)["state"] == "usable"]

    def _limits(self, tier: str, tiers_left: int) -> Limits:
        """One node at a time, as many as there is time for, then all at once."""
        members = self._members(tier)
        until = time.monotonic() + self._time_left() * _LIMITS_SHARE / tiers_left
        most = int(self._bytes_left() * _LIMITS_BYTES_SHARE / tiers_left)
        found: dict[str, TierLimits] = {}
        best: tuple[int, int] | None = None  # of the first, which the others need not look for
        for member in members:
            if found and time.monotonic() > until:
                note = f"the limits of {len(members) - len(found)} nodes that have it to themselves: no time"
                self._skip(tier, note)
                break
            self._tell(f"{tier}: limits of {member}")
            room = self._seen(member, tier)["room"]
            own = most if best is None else most // len(members)  # the first one needs most
            own = own if room is None else min(own, room)
            said = self._crew.one(member, "limits", tier, own, best, within=_LIMITS_WITHIN)
            found[str(member)] = TierLimits.from_dict(said)
            self._tiers[tier] = replace(self._tiers[tier], limits=dict(found))
            best = best or _best(found[str(member)])
        first = found[str(members[0])]
        together = None
        if len(members) > 1 and self._is_shared(tier):
            self._tell(f"{tier}: limits of all nodes at once")
            calls = [(tier, _best(first))] * len(members)
            together = added(self._crew.each(members, "limits_together", calls, _LIMITS_WITHIN))
            self._tiers[tier] = replace(self._tiers[tier], together=together)
        node = NodeLimits(**self._facts[str(members[0])]["limits"])
        return Limits(node, first, self._tiers[tier].is_bucket, together)

    def _shape(self, tier: str, shape: Shape, limits: Limits, left: int) -> None:
        """One shape in one tier, with a share of the time and the bytes: ``left`` are yet to be measured."""
        members = self._members(tier)
        taking_part = members if self._is_shared(tier) else members[:1]
        seconds, most = max(0.0, self._time_left() / left), self._bytes_left() // left
        slower = self._slower.get(tier, 1.0)
        means = Means(
            seconds=seconds / slower,
            bytes=most,
            room=min((r for m in members if (r := self._seen(m, tier)["room"]) is not None), default=None),
            local_room=min(self._facts[str(member)]["room"] for member in members),
            rounds=LEAST_ROUNDS,
            nodes=len(taking_part),
            stock=self._wanted.stock,
        )
        sized = fit(shape, limits, means)
        if sized is None:
            have = f"{format_seconds(seconds)}, {format_size(most)} to write and the room that the disks have"
            self._skip(tier, f"{shape.name}: it does not fit into {have}")
            return
        if self._wanted.stock and not sized.stock:
            said = format_seconds(sized.stock_seconds)
            self._skip(tier, f"{shape.name} by Ray's own path, which would take about {said} for one save")
        self._play(Match(self._crew, taking_part, tier, sized, limits, self._tell), sized, tier, seconds)

    def _play(self, match: Match, sized: Sized, tier: str, seconds: float) -> None:
        start = time.monotonic()
        try:
            while match.rounds < self._wanted.rounds and match.may_go_on(start + seconds):
                match.play()
                self._written += match.round_bytes
                if match.rounds == LEAST_ROUNDS:  # what it took tells how to plan for the next one
                    self._slower[tier] = max(1.0, (time.monotonic() - start) / sized.seconds)
        finally:
            self._cells += match.cells()

    def _is_shared(self, tier: str) -> bool:
        return all(facts["tiers"][tier]["shared"] for facts in self._facts.values())

    def _seen(self, member: Member, tier: str) -> dict[str, Any]:
        seen: dict[str, Any] = self._facts[str(member)]["tiers"][tier]
        return seen

    def _skip(self, tier: str, what: str) -> None:
        found = self._tiers[tier]
        self._tiers[tier] = replace(found, skipped=(*found.skipped, what))

    def _time_left(self) -> float:
        return self._wanted.seconds - (time.monotonic() - self._start)

    def _bytes_left(self) -> int:
        return max(0, self._wanted.bytes - self._written)


def _found(tier: str, seen: Sequence[Mapping[str, Any]]) -> TierFound:
    """A tier by what the nodes see of it: a problem where none can use it, a note where some cannot."""
    usable = [one for one in seen if one["state"] == "usable"]
    shown = (usable or seen)[0]
    found = TierFound(tier, shown["root"], shown["description"], shown["bucket"])
    problems = sorted({one["problem"] for one in seen if one["problem"]})
    if not usable:
        return replace(found, problem=" | ".join(problems) or "no node can use it")
    if len(usable) < len(seen):
        why = " | ".join(problems) or "it is not there"
        return replace(found, skipped=(f"{len(seen) - len(usable)} of {len(seen)} nodes: {why}",))
    return found


def _best(limits: TierLimits) -> tuple[int, int]:
    """Connections, or files at once, that write and read most."""
    return limits.write.best.connections, limits.read.best.connections
