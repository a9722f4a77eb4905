"""Removing what a benchmark wrote; for processes of their own, after those of the benchmark were ended."""

from __future__ import annotations

import os
import tempfile

from ray_anystorage.bench.on_node.order import Order
from ray_anystorage.bench.on_node.place import FOLDER, BenchPlace, remove_tree
from ray_anystorage.discovery.discover import discover
from ray_anystorage.discovery.probe import bounded

_WITHIN = 45.0  # seconds for one tier


def clean(order: Order) -> list[str]:
    """Remove everything that a benchmark wrote, as far as this node can reach it; what could not be removed, and why.

    A mount is tried whatever it looks like now: one that is full, or read-only for a moment, holds what was written.
    """
    left: list[str] = []
    own = os.path.join(tempfile.gettempdir(), FOLDER, order.id)
    remove_tree(own)
    for place in discover(nodes=order.nodes).places:
        if place.bucket is None and not place.root:
            continue
        if place.bucket is not None and order.grant is None:
            continue
        folder = BenchPlace(place, order.id, order.grant)
        try:
            bounded(folder.remove, _WITHIN, what=f"remove what the benchmark wrote to {place.root}")
        except Exception as error:  # noqa: BLE001 - each tier is cleaned, whatever another one does
            left.append(f"{folder.recipe().uri}: {type(error).__name__}: {error}")
    return left
