"""``ray-anystorage bench compare``: what changed between two benchmarks, and whether it is more than their noise."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from ray_anystorage.cli.failure import failures_shown, write_json

if TYPE_CHECKING:
    from ray_anystorage.bench.compare import Change


@click.command(short_help="What changed from one report to another.")
@click.argument("before", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.argument("after", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Write JSON, errors included.")
def compare(before: Path, after: Path, as_json: bool) -> None:
    """Compare two reports that bench wrote, cell by cell: how many times as fast the second is, and within what noise.

    A cell counts as faster or slower only where its whole interval says so; the intervals hold for all cells at once
    with 95 %. Of checkpoints of other sizes the rates are shown, and nothing is said; bench --like BEFORE takes the
    same.

    \b
    Exit codes:
      0  nothing is slower
      1  something is slower, by more than the noise
      2  a file is no report
    """
    from ray_anystorage.bench.compare import changes
    from ray_anystorage.bench.results import read_report

    with failures_shown(as_json=as_json):
        reports = [read_report(path.read_text(encoding="utf-8"), what=str(path)) for path in (before, after)]
        found = changes(*reports)
    if as_json:
        write_json({"version": 1, "changes": [change.to_dict() for change in found.changes], "only": found.only})
    else:
        _show(found.changes, found.only)
    raise SystemExit(1 if any(change.verdict == "slower" for change in found.changes) else 0)


def _show(changes: tuple[Change, ...], only: dict[str, list[str]]) -> None:
    from rich.text import Text

    from ray_anystorage.bench.results import operation_label
    from ray_anystorage.cli.tables import plain_table
    from ray_anystorage.cli.text import console, prose
    from ray_anystorage.units import format_size

    out = console()
    for tier, shape in dict.fromkeys((change.tier, change.shape) for change in changes):
        out.print(Text(f"{tier}: {shape}", style="bold"))
        table = plain_table()
        for title in ("", "By"):
            table.add_column(title, no_wrap=True)
        for title in ("Before", "After", "Times as fast", ""):
            table.add_column(title, justify="right", no_wrap=True)
        for change in (change for change in changes if (change.tier, change.shape) == (tier, shape)):
            low, high = change.ratio.low, change.ratio.high
            within = "" if low is None or high is None else f" ({low:.2f} to {high:.2f})"
            table.add_row(
                operation_label(change.operation, change.nodes),
                "ours" if change.path == "anystorage" else "stock",
                f"{format_size(int(change.before))}/s",
                f"{format_size(int(change.after))}/s",
                f"{change.ratio.mean:.2f}{within}",
                change.verdict,
            )
        out.print(table)
    for which, cells in only.items():
        for cell in cells:
            out.print(prose(f"only in {which}: {cell}", style="default"))
