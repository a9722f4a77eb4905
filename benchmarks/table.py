"""The figures as a table for a terminal."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks import clients
from ray_anystorage.units import format_size


def show(cell: dict[str, Any], console: Console) -> None:
    """Print one cell, fastest client first."""
    ceiling = cell["ceiling"]
    title = (
        f"{cell['place']}: {cell['operation']} {cell['shape']}; ceiling {ceiling['rate']['median']:.0f} MB/s "
        f"({ceiling['rate']['least']:.0f} to {ceiling['rate']['most']:.0f}, {ceiling['connections']} connections)"
    )
    table = Table(title=title, title_justify="left", title_style="bold")
    table.add_column("client")
    for name in (
        "MB/s",
        "least to most",
        "of ceiling",
        "x stock",
        "x best peer",
        "CPU s/GiB",
        "memory",
        "requests",
        "bytes",
    ):
        table.add_column(name, justify="right")
    good = [(name, one) for name, one in cell["clients"].items() if "failure" not in one]
    for name, one in sorted(good, key=lambda item: -item[1]["rate"]["median"]):
        table.add_row(*_row(name, one), style="bold green" if name == clients.OURS else None)
    for name, one in cell["clients"].items():
        if "failure" in one:
            table.add_row(name, f"failed: {one['failure'].splitlines()[-1][:60]}", style="red")
    console.print(table)


def _row(name: str, one: dict[str, Any]) -> list[str]:
    rate, counts = one["rate"], one["counts"]
    return [
        f"{name} (synced)" if one["durable"] else name,
        f"{rate['median']:.1f}",
        f"{rate['least']:.1f} to {rate['most']:.1f}",
        f"{one['of_ceiling']['mean']:.0%}",
        _ratio(one["to_stock"]),
        _ratio(one["to_best_peer"]),
        f"{one['cpu_per_gib']['median']:.2f}",
        format_size(one["memory"]),
        f"{sum(counts['requests'].values()):,}" if counts else "-",
        format_size(counts["bytes_up"] + counts["bytes_down"]) if counts else "-",
    ]


def _ratio(value: dict[str, Any] | None) -> str:
    if value is None:
        return "-"
    interval = "" if value["low"] is None else f" [{value['low']:.2f}, {value['high']:.2f}]"
    return f"{value['mean']:.2f}{interval}{' LOST' if value.get('lost') else ''}"
