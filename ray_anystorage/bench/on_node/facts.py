"""What a node tells of itself when it joins a benchmark, as plain values."""

from __future__ import annotations

import contextlib
import os
import platform
import socket
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from ray_anystorage.bench.on_node.place import BenchPlace, is_old, remove_tree, room
from ray_anystorage.bench.on_node.raw_node import node_limits
from ray_anystorage.environment import Environment, Place
from ray_anystorage.settings import read_settings


def facts(environment: Environment, places: Mapping[str, BenchPlace], own: str, no_credentials: str) -> dict[str, Any]:
    """The node, each tier as it sees it, and what earlier benchmarks left there, which is removed.

    Parameters
    ----------
    own
        The benchmark's folder on the node's own disk.
    no_credentials
        Why there are none for the bucket, where there are none.
    """
    return {
        "host": socket.gethostname(),
        "cpu": _cpu(),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "limits": asdict(node_limits(own)),
        "device": os.stat(own).st_dev,
        "cache": read_settings().cache_share > 0,
        "tiers": {
            place.tier: _tier(place, no_credentials if place.tier not in places else None)
            for place in environment.places
        },
        "swept": _swept(places, own),
    }


def rooms(places: Mapping[str, BenchPlace], own: str) -> dict[str, int]:
    """Bytes that may be written now to each tier that is a disk, and to the node's own, which has no name."""
    found = {tier: room(place.place.root) for tier, place in places.items() if os.path.isdir(place.place.root)}
    return {**found, "": room(own)}


def _swept(places: Mapping[str, BenchPlace], own: str) -> list[str]:
    """What benchmarks of this user had left for over a day; a tier that fails here may work all the same."""
    swept: list[str] = []
    for place in places.values():
        with contextlib.suppress(Exception):
            swept += place.sweep()
    above = os.path.dirname(os.path.dirname(own))  # where no tier is: the temporary directory
    for name in os.listdir(above):
        if is_old(name):
            remove_tree(os.path.join(above, name), above=False)
            swept.append(os.path.join(above, name))
    return swept


def _tier(place: Place, problem: str | None) -> dict[str, Any]:
    if place.problem is not None:
        problem = str(place.problem.error())
    elif not place.usable:
        problem = None
    is_bucket = place.bucket is not None
    said = place.location.explicit and place.tier != "local"  # the site says that all nodes have it
    return {
        "root": place.root,
        "state": place.state if problem is None else "failed",
        "description": place.description,
        "bucket": is_bucket,
        "shared": is_bucket or place.network or said,
        "problem": problem,
        "device": os.stat(place.root).st_dev if place.usable and not is_bucket and os.path.exists(place.root) else None,
    }


def _cpu() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as file:
            return next((line.partition(":")[2].strip() for line in file if line.startswith("model name")), "unknown")
    except FileNotFoundError:
        return platform.processor() or "unknown"
