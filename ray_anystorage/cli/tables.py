"""What the doctor and the demo found, as tables."""

from __future__ import annotations

from collections.abc import Collection, Iterable

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from ray_anystorage.cli.text import console, prose
from ray_anystorage.demo.events import RunOutcome
from ray_anystorage.diagnosis.check import Check
from ray_anystorage.diagnosis.report import Report, TierReport
from ray_anystorage.environment import Problem
from ray_anystorage.units import format_size

_STYLES = {"ok": "green", "limited": "yellow", "differs": "yellow", "fails": "red", "none": "dim"}
_ROW = "{tier:<10}{state:<8}{latency:>9}{small:>16}{write:>13}{read:>13}{free:>10}"
_HEADER = {"latency": "Latency", "small": "Small files", "write": "Write", "read": "Read", "free": "Free"}
_MEASURES = {"latency": "latency", "small": "small files", "write": "write", "read": "read"}


def show_report(report: Report) -> None:
    """Show what the doctor found, each failure with its remedy below."""
    out = console()
    out.print(tier_lines(report.tiers), soft_wrap=True)
    out.print()
    for tier in report.tiers:
        if tier.place.bucket is not None and tier.checks:
            out.print(Text(f"Bucket {tier.place.root}", style="bold"), soft_wrap=True)
            out.print(_checks(tier.checks))
            out.print()
    for problem in _problems(report.tiers):
        out.print(prose(str(problem.error())))
        out.print()
    out.print(prose(f"Credentials for the bucket: {report.credentials}", style="default"))
    for note in report.notes:
        out.print(prose(note, style="default"))
    _show_verdict(out, report)


def show_checkpoints(outcomes: Iterable[RunOutcome]) -> None:
    """Show where every checkpoint of the runs lies."""
    out = console()
    for outcome in outcomes:
        home = outcome.checkpoints[0].place.rpartition("/")[0]
        out.print(Text(f"{home}/", style="bold"), soft_wrap=True)
        table = plain_table()
        table.add_column("Checkpoint", no_wrap=True)
        for title in ("Epoch", "Accuracy", "Attempt", "Size"):
            table.add_column(title, justify="right", no_wrap=True)
        for saved in outcome.checkpoints:
            name, size = saved.place.rpartition("/")[2], format_size(saved.size)
            table.add_row(name, str(saved.epoch), f"{saved.accuracy:.4f}", str(saved.attempt), size)
        out.print(table)
        out.print()


def tier_lines(tiers: Iterable[TierReport], *, elsewhere: Collection[str] = ()) -> Text:
    """Two lines for each tier: what was measured, and where and what it is, with the whole path.

    ``elsewhere`` names tiers that are other places on these nodes than on most.
    """
    lines = [Text(_ROW.format(tier="Tier", state="State", **_HEADER), style="bold")]
    for tier in tiers:
        space, state = tier.place.space, _state_of(tier)
        state = "differs" if state == "ok" and tier.place.tier in elsewhere else state
        free = format_size(space.free_bytes) if space and space.free_bytes is not None else "-"
        measured = {column: _measured(tier.checks, name) for column, name in _MEASURES.items()}
        row = Text(_ROW.format(tier=tier.place.tier, state=state, free=free, **measured))
        row.stylize(_STYLES[state], 10, 18)
        lines += [row, prose(_where(tier), indent="  ", style="dim")]
    return Text("\n").join(lines)


def _checks(checks: Iterable[Check]) -> Table:
    table = plain_table()
    table.add_column("Check", no_wrap=True)
    table.add_column("State")
    table.add_column("Took", justify="right", no_wrap=True)
    table.add_column("Found", overflow="fold", ratio=1)
    for check in checks:
        table.add_row(check.name, _state("ok" if check.ok else "fails"), f"{check.seconds:.2f} s", check.detail)
    return table


def plain_table() -> Table:
    """A table without a frame."""
    return Table(box=SIMPLE_HEAD, pad_edge=False, show_edge=False, padding=(0, 1, 0, 0))


def _state_of(tier: TierReport) -> str:
    if tier.place.state == "absent":
        return "none"
    if tier.ok:
        return "ok"
    return "limited" if tier.serves else "fails"


def _state(state: str) -> Text:
    return Text(state, style=_STYLES[state])


def _where(tier: TierReport) -> str:
    root, what = tier.place.root, tier.place.description
    return what if tier.place.state == "absent" else f"{root}: {what}"


def _measured(checks: Iterable[Check], name: str) -> str:
    check = next((check for check in checks if check.name == name), None)
    if check is None or check.value is None:
        return "-"
    return f"{check.value:,.0f} {check.unit}" if check.value >= 10 else f"{check.value:.2f} {check.unit}"


def _problems(tiers: Iterable[TierReport]) -> list[Problem]:
    return list(dict.fromkeys(problem for tier in tiers for problem in tier.problems))


def _show_verdict(out: Console, report: Report) -> None:
    wrong = [tier.place.tier for tier in report.tiers if not tier.ok]
    if report.exit_code == 0:
        out.print(Text("Every tier that is there works.", style="green"))
    elif report.exit_code == 1:
        out.print(Text(f"Something is wrong with {' and '.join(wrong)} storage.", style="yellow"))
    else:
        out.print(Text("No tier can serve a run.", style="red"))
