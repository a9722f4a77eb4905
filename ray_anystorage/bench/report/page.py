"""The report as one page that needs nothing else: no script, no font, no request."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from html import escape

from ray_anystorage.bench.report.charts import Group, Row, Segment, bars
from ray_anystorage.bench.report.style import STYLE
from ray_anystorage.bench.report.tables import cells_table, latency_table, nodes_table
from ray_anystorage.bench.report.words import bounds_in_words, model_in_words, stalls_in_words
from ray_anystorage.bench.results import OPERATIONS, BenchReport, Cell, TierFound, operation_label
from ray_anystorage.units import format_seconds, format_size

_NAMES = {"anystorage": "ours", "stock": "stock Ray"}
_KINDS = {"anystorage": "ours", "stock": "stock"}


def page(report: BenchReport) -> str:
    """The whole document."""
    body = "".join((*_head(report), *(_tier(report, tier) for tier in report.tiers), *_end(report)))
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<title>Storage benchmark, {escape(report.started[:10])}</title><style>{STYLE}</style></head>"
        f"<body><main>{body}</main></body></html>\n"
    )


def _head(report: BenchReport) -> Iterator[str]:
    nodes = "1 node" if len(report.nodes) == 1 else f"{len(report.nodes)} nodes"
    versions = ", ".join(
        f"{name} {report.versions[name]}" for name in ("ray_anystorage", "ray") if name in report.versions
    )
    yield "<h1>What storage can do for checkpoints</h1>"
    yield (
        f"<p class='sub'>{escape(report.started[:16].replace('T', ' '))} · {nodes} · "
        f"{escape(format_seconds(report.seconds))} · {escape(versions)}</p>"
    )
    for what in report.left:
        yield f"<p class='warning'>The benchmark left something behind: {escape(what)}</p>"
    if not report.complete:
        yield "<p class='warning'>It was interrupted: this is what was measured until then.</p>"
    yield (
        "<p class='key'><span class='swatch ours'></span>this package<span class='swatch stock'></span>Ray's own path"
        "<span class='swatch behind'></span>goes on behind the training<span class='swatch limit'></span>the limit, as "
        "measured in this run. Whiskers are 95 % intervals.</p>"
    )
    if report.proposals:
        yield "<h2>Settings for this cluster</h2><dl>"
        for made in report.proposals:
            yield f"<dt><code>{escape(made.name)}={escape(made.value)}</code></dt><dd>{escape(made.why)}</dd>"
        yield "</dl>"


def _tier(report: BenchReport, tier: TierFound) -> str:
    cells = [cell for cell in report.cells if cell.tier == tier.tier]
    return (
        f"<section id='{escape(tier.tier)}'><h2>{escape(tier.tier)}</h2>"
        f"<p class='sub'><code>{escape(tier.root)}</code> {escape(tier.description)}</p>"
        + (f"<p class='warning'>{escape(tier.problem)}</p>" if tier.problem else "")
        + "".join((*_limits(tier), *_figures(cells), *_words(tier, cells)))
        + "</section>"
    )


def _limits(tier: TierFound) -> Iterator[str]:
    rows = []
    for node, limits in tier.limits.items():
        for name, direction in (("written", limits.write), ("read", limits.read)):
            best = direction.best
            shown = f"{format_size(int(best.rate))}/s, {best.connections} at once"
            label = name if len(tier.limits) == 1 else f"{node.partition(' ')[0]} {name}"
            rows.append(Row(label, (Segment(0.0, best.rate, "raw"),), shown))
    if tier.together is not None:
        for name, rate in (("written", tier.together.write), ("read", tier.together.read)):
            rows.append(Row(f"all nodes, {name}", (Segment(0.0, rate, "raw"),), f"{format_size(int(rate))}/s"))
    if rows:
        yield "<h3>What it gives, at most</h3>"
        yield bars([Group("", tuple(rows))], label=f"limits of {tier.tier}")
        yield f"<details><summary>Single operations</summary>{latency_table(tier)}</details>"


def _figures(cells: Sequence[Cell]) -> Iterator[str]:
    if not cells:
        return
    yield "<h3>Throughput</h3><p class='sub'>Each shape has its own scale.</p>"
    yield bars(list(_throughput(cells)), label="throughput by shape", mark="the limit")
    yield "<h3>Share of the limit</h3>"
    yield bars(list(_shares(cells)), label="share of the limit", most=_most_share(cells), mark="the limit")
    scaling = tuple(_scaling(cells))
    if scaling:
        yield "<h3>All nodes, against one</h3><p class='sub'>Times the rate of one node.</p>"
        yield bars([Group("", scaling)], label="scaling by nodes", mark="as many times as there are nodes")
    yield "<h3>How long training stands still</h3>"
    yield bars(list(_timelines(cells)), label="stall of each way to report")
    yield f"<details><summary>All figures</summary>{cells_table(cells)}</details>"


def _throughput(cells: Sequence[Cell]) -> Iterator[Group]:
    for shape, own in _by_shape(cells):
        rows = []
        for cell in own:
            low, high = cell.seconds.low, cell.seconds.high
            rows.append(
                Row(
                    label=f"{operation_label(cell.operation, cell.nodes)}, {_NAMES[cell.path]}",
                    segments=(Segment(0.0, cell.rate, _KINDS[cell.path], cell.why),),
                    shown=f"{format_size(int(cell.rate))}/s",
                    low=cell.moved / high if high else None,
                    high=cell.moved / low if low else None,
                    mark=cell.moved / cell.limit if cell.limit else None,
                )
            )
        files = f"{own[0].files:,} files, " if own[0].files > 1 else ""
        yield Group(f"{shape}: {files}{format_size(own[0].bytes)}", tuple(rows))


def _shares(cells: Sequence[Cell]) -> Iterator[Group]:
    for shape, own in _by_shape(cells):
        rows = tuple(
            Row(
                f"{operation_label(cell.operation, cell.nodes)}, {_NAMES[cell.path]}",
                (Segment(0.0, cell.share, _KINDS[cell.path], cell.why),),
                f"{cell.share:.0%} ({cell.bound})" if cell.path == "anystorage" else f"{cell.share:.0%}",
                mark=1.0,
            )
            for cell in own
            if cell.share is not None
        )
        if rows:
            yield Group(shape, rows)


def _most_share(cells: Sequence[Cell]) -> float:
    """Where the scale ends: what comes from the system's memory may be many times what the disk gives."""
    return min(1.5, max(1.0, *(cell.share or 0.0 for cell in cells)))


def _scaling(cells: Sequence[Cell]) -> Iterator[Row]:
    alone: dict[tuple[str, str, str], float] = {}
    alone |= {(cell.shape, cell.operation, cell.path): cell.rate for cell in cells if cell.nodes == 1}
    for cell in cells:
        one = alone.get((cell.shape, cell.operation.replace(" together", ""), cell.path))
        if cell.nodes > 1 and one:
            times = cell.rate / one
            segment = Segment(0.0, times, _KINDS[cell.path], f"{format_size(int(cell.rate))}/s")
            label = f"{cell.shape}, {cell.operation.replace(' together', '')}"
            yield Row(label, (segment,), f"{times:.2f} x, {cell.nodes} nodes", mark=float(cell.nodes))


def _timelines(cells: Sequence[Cell]) -> Iterator[Group]:
    for shape, own in _by_shape(cells):
        rows = []
        for cell in (cell for cell in own if cell.operation == "save"):
            seconds = cell.seconds.mean
            if cell.path == "stock":
                rows.append(Row("Ray's own path", (Segment(0.0, seconds, "stock"),), format_seconds(seconds)))
                continue
            if cell.stall is not None:
                stall = cell.stall.mean
                behind = Segment(stall, seconds, "behind", "saved behind the training")
                parts = (
                    (Segment(0.0, stall, "ours", "staged"), behind)
                    if stall < seconds
                    else (Segment(0.0, stall, "ours"),)
                )
                rows.append(Row("anystorage.report", parts, f"{format_seconds(stall)} of {format_seconds(seconds)}"))
            rows.append(Row("ray.train.report", (Segment(0.0, seconds, "ours"),), format_seconds(seconds)))
        if rows:
            yield Group(shape, tuple(rows))


def _words(tier: TierFound, cells: Sequence[Cell]) -> Iterator[str]:
    lines = (*bounds_in_words(cells), *stalls_in_words(cells), *(f"Not measured: {what}" for what in tier.skipped))
    yield _list(lines)


def _end(report: BenchReport) -> Iterator[str]:
    yield f"<h2>Nodes</h2>{nodes_table(report.nodes)}"
    yield f"<h2>Notes</h2>{_list((*model_in_words(report.cells), *report.notes))}"


def _list(lines: Iterable[str]) -> str:
    items = "".join(f"<li>{escape(line)}</li>" for line in lines)
    return f"<ul>{items}</ul>" if items else ""


def _by_shape(cells: Sequence[Cell]) -> Iterator[tuple[str, list[Cell]]]:
    for shape in dict.fromkeys(cell.shape for cell in cells):
        own = [cell for cell in cells if cell.shape == shape and cell.operation != "restore warm"]
        yield shape, sorted(own, key=lambda cell: OPERATIONS.index(cell.operation))
