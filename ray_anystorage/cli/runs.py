"""``ray-anystorage runs``: every run and experiment in all tiers, or one of them with what it keeps."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timezone
from numbers import Real
from typing import TYPE_CHECKING, Any

import click

from ray_anystorage.cli.failure import FAILED, failures_shown, write_json

if TYPE_CHECKING:
    from rich.table import Table

    from ray_anystorage.catalog import Entry, Kept, Mode

_STYLES = {"committed": "green", "not verifiable": "yellow", "not readable": "yellow"}
_SHOWN = 3  # metrics of a checkpoint, where none is asked for
_MORE = (
    "lie {} that its state does not name: newer than the state, of an earlier experiment of this name, or of Train "
    "runs inside its trials."
)
_AGES = ((86400, "d"), (3600, "h"), (60, "min"))  # seconds


@click.command(short_help="List runs and experiments, or what one of them keeps.")
@click.argument("name", required=False)
@click.option("--metric", help="Show the best checkpoint by this metric.")
@click.option("--mode", type=click.Choice(["max", "min"]), help="Which is best; goes with --metric.")
@click.option("--timeline", is_flag=True, help="Draw when each checkpoint of NAME had come how far, rank by rank.")
@click.option("--credentials", metavar="MODE", help="For the bucket: auto, ambient, reference, broker or env.")
@click.option("--json", "as_json", is_flag=True, help="Write JSON, errors included.")
def runs(
    name: str | None, metric: str | None, mode: Mode | None, timeline: bool, credentials: str | None, as_json: bool
) -> None:
    """List the runs and experiments of every tier, with their size, age and best metric.

    With NAME, which may also be the path or URI of a run home: what that one keeps, and where. Data is not read;
    ray-anystorage verify does that. With NAME or --metric the state of Tune experiments is loaded as Ray does it, which
    runs what is pickled there: ask it of storage that you trust.

    \b
    Exit codes:
      0  every tier could be looked at, and every run
      1  some could not
      2  an argument or a setting cannot be meant, or there is no such run
    """
    from ray_anystorage.catalog import require_mode
    from ray_anystorage.cli.text import working
    from ray_anystorage.cli.timeline import show, timeline_dict
    from ray_anystorage.timeline import timelines

    with failures_shown(as_json=as_json), working("Looking"):
        require_mode(metric, mode)
        _require_name(name, timeline=timeline)
        entries, notes = _entries(name, metric, credentials)
        courses = timelines(entries[0]) if timeline else None
    if as_json:
        shown = [entry_dict(entry, metric, mode, checkpoints=name is not None) for entry in entries]
        drawn = {} if courses is None else {"timeline": [timeline_dict(course) for course in courses]}
        write_json({"runs": shown, "not_looked_at": list(notes), **drawn})
    else:
        _show(entries, notes, metric, mode, one=name is not None)
        if courses is not None:
            show(courses)
    raise SystemExit(FAILED if notes or any(entry.problem for entry in entries) else 0)


def _require_name(name: str | None, *, timeline: bool) -> None:
    from ray_anystorage.errors import RequestError

    if timeline and name is None:
        raise RequestError("--timeline: say of which run, as in ray-anystorage runs NAME --timeline")


def _entries(name: str | None, metric: str | None, credentials: str | None) -> tuple[Sequence[Entry], Sequence[str]]:
    from ray_anystorage.catalog import describe, list_runs
    from ray_anystorage.runs import find_run

    if name is None:
        return list_runs(credentials=credentials, metrics=metric is not None)
    run = find_run(name, credentials=credentials)
    notes = [f"the bucket, where data of it may be, was not looked at: {run.obstacle}"] if run.obstacle else []
    return [describe(run)], notes


def entry_dict(entry: Entry, metric: str | None, mode: Mode | None, *, checkpoints: bool) -> dict[str, Any]:
    """Plain values for JSON; sizes in bytes."""
    best = entry.best(metric, mode) if metric and mode else None
    listed = {"checkpoints": [_kept_dict(kept) for kept in entry.checkpoints]} if checkpoints else {}
    return {
        "name": entry.run.name,
        "kind": entry.kind,
        "tier": entry.run.tier,
        "home": entry.run.uri,
        "saved": entry.saved.isoformat() if entry.saved else None,
        "kept": len(entry.checkpoints),
        "unnamed": None if entry.unnamed is None else len(entry.unnamed),
        "not_good": sum(not kept.good for kept in entry.checkpoints),
        "size": entry.size,
        "spilled": sum(kept.spilled for kept in entry.checkpoints),
        "best": _kept_dict(best) if best else None,
        "problem": entry.problem,
        **listed,
    }


def _kept_dict(kept: Kept) -> dict[str, Any]:
    return {
        "checkpoint": kept.name,
        "size": kept.size,
        "state": kept.state,
        "spilled": kept.spilled,
        "metrics": {name: kept.number(name) for name in _numbers(kept)},  # null: not finite
    }


def _show(entries: Sequence[Entry], notes: Sequence[str], metric: str | None, mode: Mode | None, *, one: bool) -> None:
    from ray_anystorage.cli.text import console, prose

    out = console()
    if one:
        _show_one(entries[0], metric, mode)
    elif entries:
        out.print(_overview(entries, metric, mode))
    else:
        out.print("There is no run in any tier.")
    for entry in entries:
        if entry.problem is not None:
            out.print(prose(f"{entry.run.uri} cannot be read: {entry.problem}", style="red"))
    for note in notes:
        out.print(prose(note, style="yellow"))


def _overview(entries: Sequence[Entry], metric: str | None, mode: Mode | None) -> Table:
    from ray_anystorage.cli.tables import plain_table
    from ray_anystorage.units import format_size

    table = plain_table()
    table.add_column("Run", overflow="fold")
    table.add_column("Kind")
    table.add_column("Tier", no_wrap=True)
    for title in ("Saved", "Kept", "Size", *([f"Best {metric}"] if metric else [])):
        table.add_column(title, justify="right", no_wrap=True)
    for entry in entries:
        best = entry.best(metric, mode) if metric and mode else None
        bad = sum(not kept.good for kept in entry.checkpoints)
        table.add_row(
            entry.run.name,
            entry.kind,
            entry.run.tier + (" + bucket" if any(kept.spilled for kept in entry.checkpoints) else ""),
            _age(entry.saved),
            "?" if entry.problem else _count(entry) + (f", {bad} bad" if bad else ""),
            format_size(entry.size),
            *([_value(best.number(metric)) if best else "-"] if metric else []),
        )
    return table


def _count(entry: Entry) -> str:
    return f"{len(entry.checkpoints)}" + (f" + {len(entry.unnamed)}" if entry.unnamed else "")


def _show_one(entry: Entry, metric: str | None, mode: Mode | None) -> None:
    from rich.text import Text

    from ray_anystorage.cli.tables import plain_table
    from ray_anystorage.cli.text import console, prose
    from ray_anystorage.units import format_size

    out = console()
    kind = "Experiment" if entry.kind == "tune" else "Run"
    out.print(Text(f"{kind} {entry.run.name!r}: {entry.run.uri}", style="bold"), soft_wrap=True)
    best = entry.best(metric, mode) if metric and mode else None
    names = [metric] if metric else _common_metrics(entry.checkpoints)
    table = plain_table()
    table.add_column("Checkpoint", overflow="fold")
    table.add_column("Size", justify="right", no_wrap=True)
    table.add_column("Place")
    table.add_column("State")
    for title in names:
        table.add_column(title, justify="right")
    for kept in entry.checkpoints:
        table.add_row(
            kept.name,
            format_size(kept.size),
            "bucket" if kept.spilled or entry.run.tier == "artifact" else "run home",
            Text(kept.state, style=_STYLES.get(kept.state, "red")),
            *(_value(kept.number(title)) + (" (best)" if kept is best else "") for title in names),
        )
    out.print(table if entry.checkpoints else "It keeps no checkpoint.")
    when = f"Saved {_age(entry.saved)} ago. " if entry.saved is not None else ""
    out.print(f"{when}Checkpoints: {len(entry.checkpoints)}, {format_size(entry.size)}.")
    if entry.unnamed:
        out.print(prose(f"Beside them {_MORE.format(len(entry.unnamed))}", style="yellow"))
    if metric and best is None and entry.checkpoints:
        known = ", ".join(entry.metrics) or "-"
        out.print(prose(f"None has a number as metric {metric!r}; they have: {known}", style="yellow"))


def _common_metrics(checkpoints: Sequence[Kept]) -> list[str]:
    """The first numbers that the latest checkpoint was reported with."""
    return _numbers(checkpoints[-1])[:_SHOWN] if checkpoints else []


def _numbers(kept: Kept) -> list[str]:
    return [name for name, value in kept.metrics.items() if _is_number(value)]


def _is_number(value: object) -> bool:
    return False if isinstance(value, bool) else isinstance(value, Real)


def _value(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"


def _age(saved: datetime | None) -> str:
    if saved is None:
        return "-"
    seconds = max(0.0, (datetime.now(timezone.utc) - saved).total_seconds())
    return next((f"{seconds / unit:.0f} {name}" for unit, name in _AGES if seconds >= unit), f"{seconds:.0f} s")
