"""From runs to figures: rates, shares of the ceiling, ratios to stock Ray and to the fastest peer; as JSON."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from benchmarks import clients
from benchmarks.cell import Cell, Contestant
from benchmarks.measure import RunFailedError
from benchmarks.shapes import GiB
from ray_anystorage.bench.noise import ratio, spread

_MEGA = 1e6
Figures = dict[str, Any]


def figures(cell: Cell) -> Figures:
    """Everything about one cell, ready for JSON.

    Rates are in MB/s (10^6 bytes), CPU in seconds per GiB (2^30 bytes), memory in bytes. A ratio over 1 means faster
    than the other; its interval is the 95 % one of the paired runs.

    Raises
    ------
    RunFailedError
        The plain client failed, so there is no ceiling.
    """
    if cell.contestants[clients.PLAIN].failure:
        raise RunFailedError(f"no ceiling: {cell.contestants[clients.PLAIN].failure}")
    total = cell.shape.total
    valid = {name: one for name, one in cell.contestants.items() if one.runs and not one.failure}
    plain = valid.pop(clients.PLAIN)
    result: Figures = {
        "place": cell.place.name,
        "operation": cell.operation,
        "shape": str(cell.shape),
        "bytes": total,
        "ceiling": _rates(plain, total) | {"connections": cell.connections},
        "clients": {},
    }
    for name, one in cell.contestants.items():
        if one.failure:
            result["clients"][name] = {"failure": one.failure}
        elif name != clients.PLAIN:
            result["clients"][name] = _client(name, one, valid, plain, total)
    return result


def _rates(one: Contestant, total: int) -> Figures:
    return {
        "rate": asdict(spread([total / run.seconds / _MEGA for run in one.runs])),
        "seconds": [run.seconds for run in one.runs],
        "settings": one.runs[0].settings,
    }


def _client(name: str, one: Contestant, valid: dict[str, Contestant], plain: Contestant, total: int) -> Figures:
    best = _best_peer(name, valid)
    stock = valid.get(clients.STOCK)
    return _rates(one, total) | {
        "durable": one.runs[0].durable,
        "cpu_per_gib": asdict(spread([run.cpu / total * GiB for run in one.runs])),
        "memory": max(run.memory for run in one.runs),
        "counts": asdict(one.counts) if one.counts else None,
        "of_ceiling": asdict(_faster(one, plain)),
        "to_stock": asdict(_faster(one, stock)) if stock else None,
        "best_peer": best,
        "to_best_peer": asdict(_faster(one, valid[best])) | {"lost": _faster(one, valid[best]).lost} if best else None,
    }


def _faster(one: Contestant, other: Contestant) -> Any:
    """By the rounds in which both took part, which are the first ones."""
    pairs = list(zip(other.runs, one.runs, strict=False))
    return ratio([theirs.seconds for theirs, _ in pairs], [ours.seconds for _, ours in pairs])


def _best_peer(name: str, valid: dict[str, Contestant]) -> str | None:
    """The fastest other client, by its median, that gives the same promise about a power cut; ours is nobody's peer."""
    durable = valid[name].runs[0].durable
    peers = [peer for peer, one in valid.items() if peer not in (name, clients.OURS) and one.runs[0].durable == durable]
    return min(peers, key=lambda peer: spread([run.seconds for run in valid[peer].runs]).median, default=None)
