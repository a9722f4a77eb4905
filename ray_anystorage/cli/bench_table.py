"""A benchmark as tables for a terminal."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from rich.table import Table
from rich.text import Text

from ray_anystorage.bench.limits import TierLimits, Together
from ray_anystorage.bench.outlook import outlook
from ray_anystorage.bench.report.words import bounds_in_words, model_in_words, stalls_in_words
from ray_anystorage.bench.results import BenchReport, Cell, TierFound, operation_label
from ray_anystorage.bench.wanted import Wanted
from ray_anystorage.cli.tables import plain_table
from ray_anystorage.cli.text import console, prose
from ray_anystorage.units import format_seconds, format_size


def show_outlook(wanted: Wanted) -> None:
    """What it will write and roughly cost."""
    console().print(prose(outlook(wanted), style="default"))


def show_bench(report: BenchReport) -> None:
    """The whole report: limits, then checkpoints, then what to do."""
    out = console()
    for tier in report.tiers:
        out.print(Text(f"{tier.tier}: {tier.root} ({tier.description})", style="bold"), soft_wrap=True)
        if tier.problem:
            out.print(prose(tier.problem, style="red"))
        for node, limits in tier.limits.items():
            out.print(prose(_limits(node, limits), style="default"))
        if tier.together:
            out.print(prose(_together(tier.together), style="default"))
        cells = [cell for cell in report.cells if cell.tier == tier.tier]
        for shown in _tables(cells):
            out.print(shown)
        for line in _words(tier, cells):
            out.print(prose(line, style="default"))
        out.print()
    _show_end(report)


def _show_end(report: BenchReport) -> None:
    out = console()
    if report.proposals:
        out.print(Text("Settings for this cluster", style="bold"))
        for made in report.proposals:
            out.print(prose(f"{made.name}={made.value}: {made.why}", style="default"))
    for note in (*model_in_words(report.cells), *report.notes):
        out.print(prose(note, style="default"))
    for what in report.left:
        out.print(prose(f"The benchmark left something behind: {what}", style="red"))
    if not report.complete:
        out.print(Text("It was interrupted: this is what was measured until then.", style="yellow"))
    out.print(prose(f"It took {format_seconds(report.seconds)}.", style="default"))


def _limits(node: str, limits: TierLimits) -> str:
    write, read = limits.write.best, limits.read.best
    slow = max(limits.latency.items(), key=lambda item: item[1]["p50"])
    return (
        f"{node}: {format_size(int(write.rate))}/s written with {write.connections} at once, "
        f"{format_size(int(read.rate))}/s read with {read.connections}; small objects a second: "
        f"{limits.write.objects:,.0f} written, {limits.read.objects:,.0f} read; "
        f"{slow[0]}: {format_seconds(slow[1]['p50'])} "
        f"(p95 {format_seconds(slow[1]['p95'])}, p99 {format_seconds(slow[1]['p99'])})"
    )


def _together(found: Together) -> str:
    write, read = (format_size(int(rate)) for rate in (found.write, found.read))
    small = f"small objects a second: {found.small_writes:,.0f} written, {found.small_reads:,.0f} read"
    return f"all nodes at once: {write}/s written, {read}/s read; {small}"


def _tables(cells: Sequence[Cell]) -> Iterable[Text | Table]:
    """One for each shape."""
    for shape in dict.fromkeys(cell.shape for cell in cells):
        own = [cell for cell in cells if cell.shape == shape]
        size = f"{own[0].files:,} files, {format_size(own[0].bytes)}" if own[0].files > 1 else format_size(own[0].bytes)
        yield Text(f"{shape}: {size}", style="bold")
        table = plain_table()
        table.add_column("", no_wrap=True)
        for title in ("By", "Time", "Noise", "Rate", "Limit", "CPU/GiB", "Memory", "Requests"):
            table.add_column(title, justify="left" if title == "By" else "right", no_wrap=True)
        for cell in own:
            table.add_row(*_row(cell))
        yield table


def _row(cell: Cell) -> tuple[str, ...]:
    memory, requests = cell.memory, [run.requests for run in cell.runs if run.requests is not None]
    return (
        operation_label(cell.operation, cell.nodes),
        "ours" if cell.path == "anystorage" else "stock",
        format_seconds(cell.seconds.mean),
        noise(cell),
        f"{format_size(int(cell.rate))}/s",
        "-" if cell.share is None else f"{cell.share:.0%}",
        f"{cell.cpu_per_gib:.1f} s",
        format_size(memory) if memory is not None else "-",
        f"{sum(requests) / len(requests):,.0f}" if requests else "-",
    )


def noise(cell: Cell) -> str:
    """How far the mean may be off, as a share of it."""
    low, high, mean = cell.seconds.low, cell.seconds.high, cell.seconds.mean
    return "?" if low is None or high is None else f"±{max(1 - low / mean, high / mean - 1):.0%}"


def _words(tier: TierFound, cells: Sequence[Cell]) -> Iterable[str]:
    """What bounds each, what stalls training, and what was not measured."""
    yield from bounds_in_words(cells)
    yield from stalls_in_words(cells)
    for what in tier.skipped:
        yield f"Not measured: {what}"
