"""Nodes of a cluster as people name them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, order=True)
class NodeName:
    """One node: where it is, what it calls itself, and Ray's id of it."""

    address: str
    hostname: str
    id: str

    def __str__(self) -> str:
        known = (self.hostname if self.hostname != self.address else "", self.id[:8])
        return f"{self.address} ({', '.join(part for part in known if part)})"


def listed(nodes: Iterable[NodeName], *, most: int | None = None) -> str:
    """Nodes in a row; beyond ``most`` only their number."""
    names = [str(node) for node in sorted(nodes)]
    shown = names if most is None or len(names) <= most else names[:most]
    rest = len(names) - len(shown)
    return ", ".join(shown) + (f" and {rest} more" if rest else "")


def counted(number: int) -> str:
    """A number of nodes."""
    return "1 node" if number == 1 else f"{number} nodes"
