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
from ray_anystorage.bench.limits import PHASES, NodeLimits, TierLimits, Together
from ray_anystorage.bench.results import BenchReport, Cell, NodeFound, TierFound
from ray_anystorage.bench.shapes import Shape
from ray_anystorage.bench.sizing import Means, Sized, fit
from ray_anystorage.bench.wanted import LEAST_ROUNDS, Wanted
from ray_anystorage.errors import BenchError
from ray_anystorage.units import format_seconds, format_size

_LIMITS_SHARE = 0.25  # of the time, for limits of nodes one at a time
_LIMITS_BYTES_SHARE = 0.4
_LIMITS_WITHIN = 120.0  # seconds
_SHARING_ROOM = 2  # of the room that there is: nodes may share a disk
_LEAST_ROOM = 64 << 20

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
        self._left: tuple[str, ...] = ()
        self._slower: dict[str, float] = {}  # than planned, by tier

    def run(self, facts: Mapping[str, dict[str, Any]], refused: Mapping[str, str]) -> None:
        """Measure everything; a tier that fails is noted, and the others are measured.

        Parameters
        ----------
        facts
            What the nodes say of themselves that take part.
        refused
            Nodes that do not, and why.
        """
        self._facts = dict(facts)
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
            proposals=proposals(tiers, self._cells, wanted.settings),
            notes=(*self._notes, *_FAIRNESS, f"{format_size(self._written)} were written to the tiers"),
            left=self._left,
        )

    def leave(self, left: Sequence[str]) -> None:
        """Note what could not be removed at the end."""
        self._left = tuple(left)

    def _look(self) -> None:
        """What the nodes are and see."""
        for name, facts in self._facts.items():
            self._nodes.append(NodeFound(name, facts["cpu"], facts["memory_bytes"], NodeLimits(**facts["limits"])))
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
            for gone in self._crew.renew():
                self._notes.append(f"{gone} is gone, and no part of what follows")

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
            own = most if best is None else most // len(members)  # the first one needs most
            own = self._with_room(member, tier, own)
            said, written = self._crew.one(member, "limits", tier, own, best, within=_LIMITS_WITHIN)
            self._written += written
            found[str(member)] = TierLimits.from_dict(said)
            self._tiers[tier] = replace(self._tiers[tier], limits=dict(found))
            best = best or _best(found[str(member)])
        if best is None:
            raise BenchError("no node can use it")
        together = self._at_once(tier, members, best, most) if len(members) > 1 and self._is_shared(tier) else None
        node = NodeLimits(**self._facts[str(members[0])]["limits"])
        sharing = sum(self._host(member) == self._host(members[0]) for member in members)
        return Limits(node, found[str(members[0])], self._tiers[tier].is_bucket, together, sharing)

    def _at_once(self, tier: str, members: Sequence[Member], best: tuple[int, int], most: int) -> Together:
        """What all nodes get at once, one kind of request after the other, so that none meets another's."""
        self._tell(f"{tier}: limits of all nodes at once")
        each, rates = most // len(members), []
        for phase in PHASES:
            calls = [(tier, phase, best, self._with_room(member, tier, each)) for member in members]
            found = self._crew.each(members, "at_once", calls, _LIMITS_WITHIN)
            rates.append(sum(rate for rate, _ in found))
            self._written += sum(written for _, written in found)
        together = Together(*rates)
        self._tiers[tier] = replace(self._tiers[tier], together=together)
        return together

    def _with_room(self, member: Member, tier: str, most: int) -> int:
        """Bytes that a node may write to a tier for its limits; an error where that is too little to tell anything."""
        rooms = self._crew.one(member, "rooms", within=_LIMITS_WITHIN)
        if tier not in rooms:
            return most
        room = int(rooms[tier]) // _SHARING_ROOM
        if room < _LEAST_ROOM:
            raise BenchError(f"it has no room: {format_size(rooms[tier])} until a tenth of it is all that is free")
        if most < _LEAST_ROOM:
            have, needed = format_size(most), format_size(_LEAST_ROOM)
            raise BenchError(
                f"--max-bytes leaves {have} for the limits of each node there, which take {needed}: say more"
            )
        return min(most, room)

    def _host(self, member: Member) -> str:
        return str(self._facts[str(member)]["host"])

    def _shape(self, tier: str, shape: Shape, limits: Limits, left: int) -> None:
        """One shape in one tier, with a share of the time and the bytes: ``left`` are yet to be measured."""
        members = self._members(tier)
        taking_part = members if self._is_shared(tier) else members[:1]
        seconds, most = max(0.0, self._time_left() / left), self._bytes_left() // left
        means = replace(
            self._means(tier, members, taking_part), seconds=seconds / self._slower.get(tier, 1.0), bytes=most
        )
        sized = fit(shape, limits, means, exactly=self._wanted.like.get((tier, shape.name)))
        if sized is None:
            have = f"{format_seconds(seconds)}, {format_size(most)} to write and the room that the disks have"
            self._skip(tier, f"{shape.name}: it does not fit into {have}")
            return
        if self._wanted.stock and not sized.stock:
            said = format_seconds(sized.stock_seconds)
            self._skip(tier, f"{shape.name} by Ray's own path, which would take about {said} for one save")
        warm = all(self._facts[str(member)]["cache"] for member in taking_part)
        match = Match(self._crew, taking_part, tier, sized, limits, self._tell, warm=warm)
        self._play(match, sized, tier, seconds, self._written + most)
        if match.stock_problem:
            self._skip(tier, f"{shape.name} by Ray's own path: {match.stock_problem}")

    def _means(self, tier: str, members: Sequence[Member], taking_part: Sequence[Member]) -> Means:
        """The room that there is, shared by the nodes that are on one machine, and by the tier where it is one disk."""
        rooms = [self._crew.one(member, "rooms", within=_LIMITS_WITHIN) for member in taking_part]
        device = self._seen(taking_part[0], tier)["device"]
        own = [
            room[""] // sum(self._host(other) == self._host(member) for other in taking_part)
            for member, room in zip(taking_part, rooms, strict=True)
        ]
        return Means(
            seconds=0.0,
            bytes=0,
            room=min((room[tier] for room in rooms if tier in room), default=None),
            local_room=min(own),
            same_disk=device is not None and device == self._facts[str(taking_part[0])]["device"],
            rounds=LEAST_ROUNDS,
            nodes=len(taking_part),
            stock=self._wanted.stock,
        )

    def _play(self, match: Match, sized: Sized, tier: str, seconds: float, most: int) -> None:
        start = time.monotonic()
        try:
            while match.rounds < self._wanted.rounds and match.may_go_on(start + seconds, most - self._written):
                self._written += match.round_bytes
                match.play()
                if match.rounds == LEAST_ROUNDS:  # what it took tells how to plan for the next one
                    self._slower[tier] = max(1.0, (time.monotonic() - start) / sized.seconds)
        finally:
            self._cells += match.cells()

    def _is_shared(self, tier: str) -> bool:
        """Whether the nodes that can use a tier can be expected to see the same there."""
        return all(self._seen(member, tier)["shared"] for member in self._members(tier))

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
