"""What a node's parts can do at most, as plain values: the figures that every other one is a share of."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_args


@dataclass(frozen=True, slots=True)
class Rung:
    """One step up a ladder of connections.

    Attributes
    ----------
    connections
        At once.
    rate
        Bytes, or objects, per second by all of them.
    busy
        Share of the node's cores that anybody used meanwhile; 0 where the system does not say.
    """

    connections: int
    rate: float
    busy: float = 0.0


@dataclass(frozen=True, slots=True)
class Direction:
    """What a place takes, or gives.

    Attributes
    ----------
    rungs
        By number of connections, the fewest first.
    objects
        Small objects per second, over as many connections as help.
    objects_busy
        Share of the node's cores that anybody used meanwhile.
    """

    rungs: tuple[Rung, ...]
    objects: float
    objects_busy: float = 0.0

    @property
    def best(self) -> Rung:
        """With as many connections as help."""
        return max(self.rungs, key=lambda rung: rung.rate)

    @property
    def one(self) -> float:
        """Bytes per second over one connection."""
        return self.rungs[0].rate


@dataclass(frozen=True, slots=True)
class TierLimits:
    """What one tier gives one node.

    Attributes
    ----------
    object_bytes
        Of each large object, or piece of a file, that was moved.
    latency
        Seconds of single operations, by name, each as ``p50``, ``p95`` and ``p99``.
    direct
        Whether the system's memory was bypassed; ``None`` for a bucket.
    """

    write: Direction
    read: Direction
    object_bytes: int
    latency: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    direct: bool | None = None

    @classmethod
    def from_dict(cls, said: Mapping[str, Any]) -> TierLimits:
        """From what ``dataclasses.asdict`` made of one."""

        def direction(values: Mapping[str, Any]) -> Direction:
            return Direction(**{**values, "rungs": tuple(Rung(**rung) for rung in values["rungs"])})

        rest = {name: said[name] for name in ("object_bytes", "latency", "direct")}
        return cls(direction(said["write"]), direction(said["read"]), **rest)


Phase = Literal["write", "read", "small_writes", "small_reads"]
PHASES: tuple[Phase, ...] = get_args(Phase)


@dataclass(frozen=True, slots=True)
class Together:
    """What a tier takes from nodes that all use it at once, and gives them: bytes, and small objects, per second."""

    write: float
    read: float
    small_writes: float
    small_reads: float


@dataclass(frozen=True, slots=True)
class NodeLimits:
    """What a node itself can do.

    Attributes
    ----------
    cores
        That this process may use.
    memory_copy, hashing
        Bytes per second of one of them.
    file_save, file_restore
        Seconds of CPU that this package takes for each small file, beside what its request takes.
    """

    cores: float
    memory_copy: float
    hashing: float
    file_save: float = 0.0
    file_restore: float = 0.0
