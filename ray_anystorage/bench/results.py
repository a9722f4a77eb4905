"""What a benchmark found, as values that become JSON and come back: the schema that programs may rely on.

``version`` changes when a field changes its meaning or goes; fields may be added without that.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, get_args

from ray_anystorage.bench.limits import NodeLimits, TierLimits, Together
from ray_anystorage.bench.noise import Ratio, centre
from ray_anystorage.errors import RequestError

VERSION = 1
Operation = Literal["save", "restore", "restore warm", "save together", "restore together"]
OPERATIONS: tuple[Operation, ...] = get_args(Operation)
Path = Literal["anystorage", "stock"]


def operation_label(operation: str, nodes: int) -> str:
    """An operation and how many nodes did it, in words that fit a column."""
    return f"{operation.replace(' together', '')} by {nodes}" if nodes > 1 else operation


@dataclass(frozen=True, slots=True)
class Measured:
    """One time that something was done, over all nodes that did it.

    Attributes
    ----------
    seconds
        Until the slowest node was done, and the checkpoint committed.
    cpu
        Seconds of the node that took most.
    memory
        Bytes that the memory of a node grew at most; ``None`` where the system does not say.
    requests
        Of all nodes to the store; ``None`` where nobody counts them.
    fetched
        Bytes of all nodes from the store; ``None`` where nobody counts them.
    stall
        Seconds that training would stand still for a save; ``None`` for a restore.
    """

    seconds: float
    cpu: float
    memory: int | None = None
    requests: int | None = None
    fetched: int | None = None
    stall: float | None = None


@dataclass(frozen=True, slots=True)
class Cell:
    """One operation on one shape in one tier, by one path, over and over.

    Attributes
    ----------
    nodes
        That did it together.
    files, bytes
        Of one checkpoint.
    runs
        Every one of them.
    limit
        Seconds that it takes at least by the limits that were measured; ``None``, as is its share, for what comes out
        of the node's own memory.
    expected
        Seconds that the model of scale (:mod:`.model`) says of it, with the round trips before and after the data.
    share, bound, why, advice
        As :class:`ray_anystorage.bench.judge.Verdict` has them.
    """

    tier: str
    shape: str
    operation: Operation
    path: Path
    nodes: int
    files: int
    bytes: int
    runs: tuple[Measured, ...]
    limit: float | None
    expected: float | None
    share: float | None
    bound: str
    why: str
    advice: str

    @property
    def seconds(self) -> Ratio:
        """Geometric mean of the runs with its 95 % interval."""
        return centre([run.seconds for run in self.runs])

    @property
    def moved(self) -> int:
        """Bytes that one run moves, over all nodes."""
        return self.bytes * (self.nodes if self.operation == "restore together" else 1)

    @property
    def rate(self) -> float:
        """Bytes per second over all nodes."""
        return self.moved / self.seconds.mean

    @property
    def cpu_per_gib(self) -> float:
        """CPU seconds of one node for each GiB that it moved."""
        own = self.moved / self.nodes / (1 << 30)
        return sum(run.cpu for run in self.runs) / len(self.runs) / own

    @property
    def requests_per_gib(self) -> float | None:
        """Requests for each GiB."""
        counted = [run.requests for run in self.runs if run.requests is not None]
        return sum(counted) / len(counted) / (self.moved / (1 << 30)) if counted else None

    @property
    def memory(self) -> int | None:
        """Bytes that a node's memory grew at most, in the worst run."""
        return max((run.memory for run in self.runs if run.memory is not None), default=None)

    @property
    def stall(self) -> Ratio | None:
        """Seconds that training stands still for a save."""
        stalls = [run.stall for run in self.runs if run.stall is not None]
        return centre([max(stall, 1e-6) for stall in stalls]) if stalls else None

    @property
    def key(self) -> tuple[str, str, str, str, int]:
        """What makes it the same cell in another report."""
        return self.tier, self.shape, self.operation, self.path, self.nodes


@dataclass(frozen=True, slots=True)
class TierFound:
    """One tier as the benchmark found it.

    Attributes
    ----------
    limits
        Of each node that has it to itself, by node.
    together
        What all nodes get at once; ``None`` where one alone was asked, or has it.
    problem
        Why it was not measured, or not to the end.
    skipped
        What of it was not measured, and why.
    """

    tier: str
    root: str
    description: str
    is_bucket: bool
    limits: Mapping[str, TierLimits] = field(default_factory=dict)
    together: Together | None = None
    problem: str | None = None
    skipped: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class NodeFound:
    """One node: what it is and what it can do by itself; ``problem`` where it did not answer."""

    name: str
    cpu: str = ""
    memory_bytes: int = 0
    limits: NodeLimits | None = None
    problem: str | None = None


@dataclass(frozen=True, slots=True)
class Proposal:
    """A setting for this cluster: the variable's name, its value, and why."""

    name: str
    value: str
    why: str


@dataclass(frozen=True, slots=True)
class BenchReport:
    """A whole benchmark.

    Attributes
    ----------
    started
        Local time, ISO 8601.
    seconds
        That it took.
    complete
        False where it was interrupted.
    versions
        Of what took part.
    left
        What could not be removed, and why.
    asked
        What was asked for: budget in seconds, bytes at most, rounds.
    """

    started: str
    seconds: float
    complete: bool
    versions: Mapping[str, str]
    asked: Mapping[str, float]
    nodes: tuple[NodeFound, ...]
    tiers: tuple[TierFound, ...]
    cells: tuple[Cell, ...]
    proposals: tuple[Proposal, ...] = ()
    notes: tuple[str, ...] = ()
    left: tuple[str, ...] = ()

    def to_json(self) -> str:
        """With figures that were worked out beside the measured ones, for who reads it without this package."""
        values = {"version": VERSION, **asdict(self)}
        for cell, said in zip(self.cells, values["cells"], strict=True):
            said["figures"] = figures(cell)
        return json.dumps(values, indent=1)


def figures(cell: Cell) -> dict[str, Any]:
    """What a cell's runs come to."""
    return {
        "seconds": asdict(cell.seconds),
        "bytes_per_second": cell.rate,
        "cpu_seconds_per_gib": cell.cpu_per_gib,
        "requests_per_gib": cell.requests_per_gib,
        "peak_memory": cell.memory,
        "stall_seconds": asdict(cell.stall) if cell.stall is not None else None,
    }


def read_report(text: str, *, what: str) -> BenchReport:
    """A report from its JSON.

    Raises
    ------
    RequestError
        It is none, or one of a later version.
    """
    try:
        said = json.loads(text)
        version = said["version"]
    except (ValueError, KeyError, TypeError) as error:
        raise RequestError(f"{what} is not the JSON that ray-anystorage bench writes: {error!r}") from error
    if version != VERSION:
        raise RequestError(f"{what} has version {version!r}; this ray-anystorage reads version {VERSION}")
    try:
        return _report(said)
    except (KeyError, TypeError, AttributeError) as error:
        raise RequestError(f"{what} lacks something that ray-anystorage bench writes: {error!r}") from error


def _report(said: dict[str, Any]) -> BenchReport:
    own = ("started", "seconds", "complete", "versions", "asked")
    return BenchReport(
        **{name: said[name] for name in own},
        nodes=tuple(_node(node) for node in said["nodes"]),
        tiers=tuple(_tier(tier) for tier in said["tiers"]),
        cells=tuple(_cell(cell) for cell in said["cells"]),
        proposals=tuple(Proposal(**proposal) for proposal in said["proposals"]),
        notes=tuple(said["notes"]),
        left=tuple(said.get("left", ())),
    )


def _node(said: dict[str, Any]) -> NodeFound:
    return NodeFound(**{**said, "limits": NodeLimits(**said["limits"]) if said["limits"] else None})


def _tier(said: dict[str, Any]) -> TierFound:
    limits = {node: TierLimits.from_dict(values) for node, values in said["limits"].items()}
    together = Together(**said["together"]) if said["together"] else None
    return TierFound(**{**said, "limits": limits, "together": together, "skipped": tuple(said["skipped"])})


def _cell(said: dict[str, Any]) -> Cell:
    values = {name: value for name, value in said.items() if name != "figures"}
    return Cell(**{**values, "runs": tuple(Measured(**run) for run in said["runs"])})
