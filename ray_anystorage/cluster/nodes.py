"""How many nodes there are, without starting a cluster or importing Ray for nothing."""

from __future__ import annotations

import sys

NODE_TIMEOUT = 60.0  # seconds that a node may take for the doctor; what hangs on it is given up there long before


def alive_nodes() -> int | None:
    """Alive nodes of the cluster that this process is connected to; ``None`` where it is connected to none."""
    ray = sys.modules.get("ray")
    if ray is None or not ray.is_initialized():
        return None
    return sum(1 for node in ray.nodes() if node["Alive"])
