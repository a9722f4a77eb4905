"""What nodes of a benchmark are told."""

from __future__ import annotations

from dataclasses import dataclass

from ray_anystorage.bench.on_node.place import Carried


@dataclass(frozen=True, slots=True)
class Order:
    """What a node is told when it joins a benchmark.

    Attributes
    ----------
    id
        Of the benchmark.
    node
        Of this node.
    nodes
        That take part.
    grant
        For the bucket; ``None`` where there is none.
    no_credentials
        Why there is none.
    """

    id: str
    node: str
    nodes: int
    grant: Carried | None
    no_credentials: str = ""


@dataclass(frozen=True, slots=True)
class Piece:
    """One checkpoint, or one node's part of it: its name, which report it is, whose part, of how many."""

    checkpoint: str
    report: int
    rank: int = 0
    world_size: int = 1
