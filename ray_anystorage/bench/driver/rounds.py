"""The rounds of one shape in one tier: every operation once, by our path and by Ray's own, in an order that changes."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from ray_anystorage.bench.driver.crew import Crew, Member
from ray_anystorage.bench.judge import Limits, judge
from ray_anystorage.bench.on_node.meter import Took
from ray_anystorage.bench.on_node.order import Piece
from ray_anystorage.bench.results import OPERATIONS, Cell, Measured, Operation, Path
from ray_anystorage.bench.shapes import Shape, scaled
from ray_anystorage.bench.sizing import Sized, part_of, round_bytes
from ray_anystorage.bench.wanted import LEAST_ROUNDS
from ray_anystorage.errors import BenchError, BenchTimeoutError

_WARM_UP_BYTES = 1 << 20
_WITHIN = 60.0  # seconds for one call at least
_PATIENCE = 5.0  # times as long as all of its round should take


class Match:
    """One shape in one tier, by the first node alone and by all of them together."""

    def __init__(
        self,
        crew: Crew,
        members: Sequence[Member],
        tier: str,
        sized: Sized,
        limits: Limits,
        tell: Callable[[str], None],
        *,
        warm: bool,
    ) -> None:
        self._crew, self._members, self._tier, self._limits, self._tell = crew, list(members), tier, limits, tell
        self._shape, self._stock, self._warm = sized.shape, sized.stock, warm
        self._within = _WITHIN + _PATIENCE * sized.seconds / LEAST_ROUNDS  # each call is a part of one round
        self.stock_problem = ""
        self._runs: dict[tuple[Operation, Path], list[Measured]] = defaultdict(list)
        self._longest = 0.0
        self.rounds = 0

    @property
    def round_bytes(self) -> int:
        """Bytes that a round writes to the tier."""
        return round_bytes(self._shape, len(self._members), stock=self._stock)

    def may_go_on(self, until: float, most: int) -> bool:
        """Whether one more round is to be played: the fewest that say something, and those that are done by then.

        Parameters
        ----------
        most
            Bytes that may still be written.
        """
        if self.rounds < LEAST_ROUNDS:
            return True
        return time.monotonic() + self._longest <= until and self.round_bytes <= most

    def play(self) -> None:
        """One round; the first comes after a small one that counts for nothing and opens connections."""
        if self.rounds == 0:
            self._round(scaled(self._shape, _WARM_UP_BYTES), 0)
            self._runs.clear()
        start = time.monotonic()
        self._tell(f"{self._tier}: {self._shape.name}, round {self.rounds + 1}")
        self._round(self._shape, self.rounds + 1)
        self.rounds += 1
        self._longest = max(self._longest, time.monotonic() - start)

    def cells(self) -> list[Cell]:
        """What came out of the rounds that were played."""
        if self.rounds == 0:  # the small one alone, which counts for nothing
            return []
        keys = sorted(self._runs, key=lambda key: (OPERATIONS.index(key[0]), key[1]))
        return [self._cell(operation, path, self._runs[operation, path]) for operation, path in keys]

    def _round(self, shape: Shape, number: int) -> None:
        self._alone(shape, number)
        if len(self._members) > 1:
            self._together(self._part_of(shape), number)

    def _alone(self, shape: Shape, number: int) -> None:
        """One node; what fails is left for the end of the benchmark to remove."""
        first, piece = self._members[0], Piece(f"{shape.name}-{number}", number)
        self._one(first, "write_source", shape, piece)
        for path in self._paths(number):
            if path == "anystorage":
                self._note("save", path, [self._one(first, "save", self._tier, piece)])
            else:
                self._by_stock("save", [first], "stock_save", [(self._tier, piece)])
        self._one(first, "drop_source")
        for path in self._paths(number):
            if path == "stock":
                self._by_stock("restore", [first], "stock_restore", [(self._tier, piece, shape.bytes)])
                continue
            turns: tuple[tuple[Operation, bool], ...] = (("restore warm", False), ("restore", True))
            for operation, cold in turns[0 if self._warm else 1 :]:
                took = self._one(first, "restore", self._tier, piece, shape.bytes, cold)
                self._note(operation, path, [took])
        self._one(first, "drop", self._tier, piece)

    def _together(self, part: Shape, number: int) -> None:
        count = len(self._members)
        pieces = [Piece(f"{part.name}-together-{number}", number, rank, count) for rank in range(count)]
        whole = part.bytes * count
        self._each("write_source", [(part, piece) for piece in pieces])
        for path in self._paths(number):
            if path == "stock":
                self._by_stock("save together", self._members, "stock_save", [(self._tier, piece) for piece in pieces])
                continue
            took = self._each("save", [(self._tier, piece) for piece in pieces])
            extra = self._one(self._members[0], "commit", self._tier, pieces[0])
            self._note("save together", path, took, extra)
        self._each("drop_source", [()] * count)
        for path in self._paths(number):
            if path == "stock":
                calls = [(self._tier, pieces[0], whole)] * count
                self._by_stock("restore together", self._members, "stock_restore", calls)
                continue
            took = self._each("restore", [(self._tier, pieces[0], whole, True)] * count)
            self._note("restore together", path, took)
        self._each("drop", [(self._tier, piece) for piece in pieces])

    def _by_stock(
        self, operation: Operation, members: Sequence[Member], method: str, calls: Sequence[tuple[Any, ...]]
    ) -> None:
        """Ray's own path, as long as it works: what fails of it is no reason not to measure ours."""
        if self.stock_problem:
            return
        try:
            self._note(operation, "stock", self._crew.each(members, method, calls, self._within))
        except BenchTimeoutError:
            raise
        except BenchError as error:
            self.stock_problem = error.message

    def _part_of(self, shape: Shape) -> Shape:
        """One node's share of a checkpoint."""
        return part_of(shape, len(self._members))

    def _paths(self, number: int) -> tuple[Path, ...]:
        if not self._stock or self.stock_problem:
            return ("anystorage",)
        return ("anystorage", "stock") if number % 2 else ("stock", "anystorage")

    def _note(self, operation: Operation, path: Path, took: Sequence[Took], extra: float = 0.0) -> None:
        requests = [one.requests for one in took if one.requests is not None]
        fetched = [one.fetched for one in took if one.fetched is not None]
        memory = [one.memory for one in took if one.memory is not None]
        stalls = [one.stall for one in took if one.stall is not None]
        measured = Measured(
            seconds=max(one.seconds for one in took) + extra,
            cpu=max(one.cpu for one in took),
            memory=max(memory, default=None),
            requests=sum(requests) if requests else None,
            fetched=sum(fetched) if fetched else None,
            stall=max(stalls) if stalls else None,
        )
        self._runs[operation, path].append(measured)

    def _cell(self, operation: Operation, path: Path, runs: list[Measured]) -> Cell:
        together = operation.endswith("together")
        nodes = len(self._members) if together else 1
        part = self._part_of(self._shape) if together else self._shape
        sizes = [size for _, size in part.files]
        reading = operation.startswith("restore")
        all_of_it = sizes * nodes if reading and together else sizes  # of one node
        limit = self._limits.transfer(all_of_it, reading=reading, nodes=nodes)
        cell = Cell(
            tier=self._tier,
            shape=self._shape.name,
            operation=operation,
            path=path,
            nodes=nodes,
            files=len(sizes) * nodes,
            bytes=sum(sizes) * nodes,
            runs=tuple(runs),
            limit=None,
            expected=None,
            share=None,
            bound="the node's cache",
            why="it comes from the node's own disk or memory",
            advice="",
        )
        if operation == "restore warm":
            return cell
        cpu = sum(run.cpu for run in runs) / len(runs)
        found = judge(limit, cell.seconds.mean, cpu, self._limits.cores(nodes))
        return replace(
            cell,
            limit=limit.least,
            expected=limit.seconds,
            share=found.share,
            bound=found.bound,
            why=found.why,
            advice=found.advice,
        )

    def _one(self, member: Member, method: str, *arguments: object) -> Any:
        return self._crew.one(member, method, *arguments, within=self._within)

    def _each(self, method: str, arguments: Sequence[tuple[object, ...]]) -> list[Any]:
        return self._crew.each(self._members, method, arguments, self._within)
