"""What a benchmark found, in sentences: pure."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence

from ray_anystorage.bench.results import Cell
from ray_anystorage.units import format_seconds

_MODEL_WITHIN = 0.2


def bounds_in_words(cells: Sequence[Cell]) -> Iterator[str]:
    """What bounds each operation, those together that the same thing bounds."""
    groups: dict[tuple[str, str, str], list[Cell]] = defaultdict(list)
    for cell in cells:
        if cell.path == "anystorage" and cell.share is not None:
            groups[_operation(cell), cell.bound if cell.advice else cell.why, cell.advice].append(cell)
    for (operation, bound, advice), group in groups.items():
        shapes = ", ".join(f"{cell.shape} ({cell.share:.0%} of the limit)" for cell in group)
        change = f"; what would change it: {advice}" if advice else ""
        yield f"{operation} of {shapes}: bound by {bound}{change}" if advice else f"{operation} of {shapes}: {bound}"


def stalls_in_words(cells: Sequence[Cell]) -> Iterator[str]:
    """How long training stands still for a checkpoint, by each way to report it."""
    saves = [cell for cell in cells if cell.operation == "save"]
    for cell in (cell for cell in saves if cell.path == "anystorage"):
        stock = next((other for other in saves if other.shape == cell.shape and other.path == "stock"), None)
        if cell.stall is None:
            continue
        theirs = f", {format_seconds(stock.seconds.mean)} with Ray's own path" if stock is not None else ""
        yield (
            f"Training stands still for {cell.shape}: {format_seconds(cell.stall.mean)} with anystorage.report, "
            f"{format_seconds(cell.seconds.mean)} with ray.train.report{theirs}"
        )


def model_in_words(cells: Sequence[Cell]) -> Iterator[str]:
    """How near the model of scale comes, told these limits, to what was measured."""
    off = {
        cell.key: cell.expected / cell.seconds.mean - 1 for cell in cells if cell.path == "anystorage" and cell.expected
    }
    if not off:
        return
    near = sum(abs(share) <= _MODEL_WITHIN for share in off.values())
    tier, shape, operation, _, nodes = worst = max(off, key=lambda key: abs(off[key]))
    yield (
        f"The model of scale (bench simulate), told these limits, is within {_MODEL_WITHIN:.0%} in {near} of "
        f"{len(off)} cases; furthest off: {shape}, {operation} by {nodes} on {tier}, {off[worst]:+.0%}"
    )


def _operation(cell: Cell) -> str:
    name = cell.operation.replace(" together", "").capitalize()
    return f"{name} by {cell.nodes} nodes" if cell.nodes > 1 else name
