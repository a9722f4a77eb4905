"""What a node tells of itself when it joins a benchmark, as plain values."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from ray_anystorage.bench.on_node.place import BenchPlace, room
from ray_anystorage.bench.on_node.raw_node import node_limits
from ray_anystorage.environment import Environment, Place


def facts(environment: Environment, places: Mapping[str, BenchPlace], own: str) -> dict[str, Any]:
    """The node, each tier as it sees it, and what earlier benchmarks left there, which is removed.

    Parameters
    ----------
    own
        The benchmark's folder on the node's own disk.
    """
    swept: list[str] = []
    problems: dict[str, str] = {}
    for tier, place in places.items():
        try:
            swept += place.sweep()
        except Exception as error:  # noqa: BLE001 - a tier that fails is one of the things to find out
            problems[tier] = f"{type(error).__name__}: {error}"
    return {
        "cpu": _cpu(),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "limits": asdict(node_limits()),
        "room": room(own),
        "tiers": {
            place.tier: _tier(place, problems.get(place.tier), used=place.tier in places)
            for place in environment.places
        },
        "swept": swept,
    }


def _tier(place: Place, problem: str | None, *, used: bool) -> dict[str, Any]:
    if place.problem is not None:
        problem = str(place.problem.error())
    elif problem is None and place.usable and not used:
        problem = "there are no credentials for the bucket"
    is_bucket = place.bucket is not None
    said = place.location.explicit and place.tier != "local"  # the site says that all nodes have it
    return {
        "root": place.root,
        "state": place.state if problem is None else "failed",
        "description": place.description,
        "bucket": is_bucket,
        "shared": is_bucket or place.network or said,
        "problem": problem,
        "room": room(place.root) if place.usable and not is_bucket and os.path.exists(place.root) else None,
    }


def _cpu() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as file:
            return next((line.partition(":")[2].strip() for line in file if line.startswith("model name")), "unknown")
    except FileNotFoundError:
        return platform.processor() or "unknown"
