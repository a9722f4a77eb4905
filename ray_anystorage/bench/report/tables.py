"""The report's tables as HTML: pure functions."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape

from ray_anystorage.bench.results import Cell, NodeFound, TierFound
from ray_anystorage.units import format_seconds, format_size

_HEADS = (
    *(
        "Shape",
        "Operation",
        "By",
        "Nodes",
        "Files",
        "Size",
        "Runs",
        "Time",
        "95 %",
        "Rate",
        "Of limit",
        "Bound by",
        "By the model",
    ),
    *("CPU s/GiB", "Memory", "Requests/GiB", "Fetched"),
)


def cells_table(cells: Sequence[Cell]) -> str:
    """Every figure of every cell."""
    return _table(_HEADS, (_cell(cell) for cell in cells), numbers_from=3)


def _cell(cell: Cell) -> tuple[str, ...]:
    low, high = cell.seconds.low, cell.seconds.high
    fetched = [run.fetched for run in cell.runs if run.fetched is not None]
    return (
        cell.shape,
        cell.operation,
        cell.path,
        str(cell.nodes),
        f"{cell.files:,}",
        format_size(cell.bytes),
        str(len(cell.runs)),
        format_seconds(cell.seconds.mean),
        f"{format_seconds(low)} to {format_seconds(high)}" if low is not None and high is not None else "unknown",
        f"{format_size(int(cell.rate))}/s",
        "-" if cell.share is None else f"{cell.share:.0%}",
        cell.bound,
        "-" if cell.expected is None else format_seconds(cell.expected),
        f"{cell.cpu_per_gib:.2f}",
        "-" if cell.memory is None else format_size(cell.memory),
        "-" if cell.requests_per_gib is None else f"{cell.requests_per_gib:,.0f}",
        format_size(sum(fetched) // len(fetched)) if fetched else "-",
    )


def latency_table(tier: TierFound) -> str:
    """Single operations of every node."""
    rows = (
        (node, operation, *(format_seconds(latency[name]) for name in ("p50", "p95", "p99")))
        for node, limits in tier.limits.items()
        for operation, latency in limits.latency.items()
    )
    return _table(("Node", "Operation", "p50", "p95", "p99"), rows, numbers_from=2)


def nodes_table(nodes: Sequence[NodeFound]) -> str:
    """What each node is and can do by itself."""
    return _table(("Node", "Processor", "Cores", "Memory", "Copies memory", "Hashes", "Problem"), map(_node, nodes), 2)


def _node(node: NodeFound) -> tuple[str, ...]:
    own = node.limits
    return (
        node.name,
        node.cpu or "-",
        f"{own.cores:g}" if own else "-",
        format_size(node.memory_bytes) if node.memory_bytes else "-",
        f"{format_size(int(own.memory_copy))}/s" if own else "-",
        f"{format_size(int(own.hashing))}/s and core" if own else "-",
        node.problem or "",
    )


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]], numbers_from: int) -> str:
    head = "".join(f"<th{_align(at, numbers_from)}>{escape(text)}</th>" for at, text in enumerate(heads))
    body = "".join(
        "<tr>" + "".join(f"<td{_align(at, numbers_from)}>{escape(text)}</td>" for at, text in enumerate(row)) + "</tr>"
        for row in rows
    )
    return f"<div class='wide'><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"


def _align(at: int, numbers_from: int) -> str:
    return " class='number'" if at >= numbers_from else ""
