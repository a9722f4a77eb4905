"""One cell: every client moves one shape to or from one place, interleaved, each run checked."""

from __future__ import annotations

import math
import random
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from benchmarks import clients
from benchmarks.clients import plain
from benchmarks.far_store import Counts
from benchmarks.measure import Run, RunFailedError
from benchmarks.shapes import Place, Shape, checksums, write_files
from benchmarks.stage import RUN, Stage
from benchmarks.target import Target

_CONNECTIONS = (2, 4, 8, 16, 32)
_FAR_CONNECTIONS = (8, 16, 32, 64)
_LONG = 60.0  # seconds of a client's run from which three rounds are enough
_FEW = 3
_SLOW = 5.0  # times the quickest client's first run, from which three rounds tell a client's rate well enough
_SHORT = 1.0  # seconds
PREFIX = f"{RUN}/checkpoint"
Say = Callable[[str], None]


class WrongBytesError(RuntimeError):
    """A client said that it was done, and what is there differs from what was to be moved."""


@dataclass(slots=True)
class Contestant:
    """A client's runs in a cell.

    ``first`` is the seconds of its first run, which is not among them, and ``counts`` are of that; ``failure`` is why
    the client was left out.
    """

    runs: list[Run] = field(default_factory=list)
    first: float = math.inf
    counts: Counts | None = None
    failure: str = ""


@dataclass(slots=True)
class Cell:
    """What was measured; ``connections`` is what helped the plain client most."""

    place: Place
    operation: str
    shape: Shape
    contestants: dict[str, Contestant]
    connections: int = 0


class Runner:
    """Runs the two cells of one place and shape over the same files."""

    def __init__(self, stage: Stage, place: Place, shape: Shape, names: list[str], rounds: int, say: Say) -> None:
        self._stage, self._place, self._shape = stage, place, shape
        self._names, self._rounds, self._say = names, rounds, say
        self._source, self._goal = stage.work / "source", stage.work / "goal"
        self._sums: dict[str, tuple[int, int]] = {}
        self._chance = random.Random(2)  # noqa: S311 - the order of runs, the same in every session

    def cells(self, operations: tuple[str, ...]) -> Iterator[Cell]:
        """Measure; the source is there only as long as saves need it, to halve the memory that a restore takes."""
        write_files(self._source, self._shape)
        self._sums = checksums(self._source)
        plain.describe(self._source, self._goal)
        if clients.OURS in self._names:
            from benchmarks.clients import anystorage

            anystorage.describe(self._source, self._goal)
        try:
            if "save" in operations:
                yield self._cell("save", self._save)
            if "restore" in operations:
                with self._stage.place(self._place) as target:
                    self._stage.run(clients.PLAIN, "save", str(self._source), PREFIX, replace(target, connections=4))
                    shutil.rmtree(self._source)
                    yield self._cell("restore", lambda *arguments: self._restore(target, *arguments))
        finally:
            shutil.rmtree(self._source, ignore_errors=True)

    def _cell(self, operation: str, once: Callable[[str, int, bool], tuple[Run, Counts | None]]) -> Cell:
        names = [name for name in self._names if operation == "save" or name not in clients.SAVES_ONLY]
        cell = Cell(self._place, operation, self._shape, {name: Contestant() for name in names})
        self._say(f"{self._place.name}: {operation} {self._shape}")
        cell.connections = self._best_connections(once)
        for name, contestant in cell.contestants.items():  # warm, counted, every byte checked
            with _noting(contestant):
                run, contestant.counts = once(name, 0, True)
                contestant.first = run.seconds
        slow = _slow(cell)
        cell.contestants[clients.PLAIN] = Contestant()
        done = 0
        while done < (min(_FEW, self._rounds) if self._long(cell, slow) else self._rounds):
            order = [name for name in cell.contestants if done < _FEW or name not in slow]
            self._chance.shuffle(order)
            for name in order:
                contestant = cell.contestants[name]
                if not contestant.failure:
                    with _noting(contestant):
                        contestant.runs.append(once(name, cell.connections, False)[0])
            done += 1
        return cell

    def _best_connections(self, once: Callable[[str, int, bool], tuple[Run, Counts | None]]) -> int:
        choices = _FAR_CONNECTIONS if self._place.rate else _CONNECTIONS
        at_most = max(choices[0], self._shape.total // (5 << 20), self._shape.count)
        useful = [count for count in choices if count <= at_most]
        return min(useful, key=lambda count: min(self._looks(lambda: once(clients.PLAIN, count, False)[0].seconds)))

    def _looks(self, once: Callable[[], float]) -> list[float]:
        """Seconds of one run, and of two more where it is short and so at the mercy of its neighbours."""
        first = once()
        return [first, once(), once()] if first < _SHORT else [first]

    def _long(self, cell: Cell, slow: set[str]) -> bool:
        return any(
            run.seconds > _LONG for name, one in cell.contestants.items() if name not in slow for run in one.runs
        )

    def _save(self, name: str, connections: int, first: bool) -> tuple[Run, Counts | None]:
        with self._stage.place(self._place) as target:
            target = replace(target, connections=connections)
            result = self._counted(name, "save", str(self._source), PREFIX, target, first)
            stored = self._stage.stored(target, PREFIX)
            if stored != {file: size for file, (size, _) in self._sums.items()}:
                raise WrongBytesError(f"{len(stored)} files stored, or other sizes: {dict(list(stored.items())[:3])}")
            if first:
                for file, (_, checksum) in self._sums.items():
                    if self._stage.checksum(target, f"{PREFIX}/{file}") != checksum:
                        raise WrongBytesError(f"{file} differs in the store")
            return result

    def _restore(self, target: Target, name: str, connections: int, first: bool) -> tuple[Run, Counts | None]:
        self._goal.mkdir()
        try:
            target = replace(target, connections=connections)
            result = self._counted(name, "restore", PREFIX, str(self._goal), target, first)
            # The plain client drops what it receives from a bucket, and checks the lengths itself.
            if name != clients.PLAIN and self._sums != _visible(checksums(self._goal)):
                raise WrongBytesError("the restored files differ")
            return result
        finally:
            shutil.rmtree(self._goal)

    def _counted(
        self, name: str, operation: str, source: str, goal: str, target: Target, first: bool
    ) -> tuple[Run, Counts | None]:
        if not first:
            return self._stage.run(name, operation, source, goal, target), None
        target, proxy = self._stage.counting(self._place, target)
        before = proxy.counts() if proxy else Counts()
        run = self._stage.run(name, operation, source, goal, target)
        return run, proxy.counts().since(before) if proxy else None


def _visible(sums: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in sums.items() if not Path(name).name.startswith(".")}


def _slow(cell: Cell) -> set[str]:
    """The clients that take part in three rounds alone: each of their runs would cost the others many of theirs."""
    quickest = min((one.first for one in cell.contestants.values()), default=math.inf)
    return {name for name, one in cell.contestants.items() if one.first > _SLOW * quickest}


@contextmanager
def _noting(contestant: Contestant) -> Iterator[None]:
    """A client that fails is left out of the cell, with its reason on record."""
    try:
        yield
    except (RunFailedError, WrongBytesError) as error:
        contestant.failure = f"{type(error).__name__}: {error}"
