"""``ray-anystorage runs NAME --timeline``: each checkpoint's way from the training to the store, drawn."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.table import Table
    from rich.text import Text

    from ray_anystorage.timeline import RankLine, Timeline

# What a part goes through: its name, its character and colour in a bar.
_PHASES = (("stage", "▒", "red"), ("wait", "░", "yellow"), ("send", "█", "blue"), ("commit", "▓", "green"))
_BESIDE, _NARROWEST, _WIDEST = 62, 12, 60  # columns of a terminal: of all but the bar, and of the bar
_CLOCKS = "Each rank is placed by its own node's clock, and the commit by the controller's; clocks may differ."


def timeline_dict(timeline: Timeline) -> dict[str, Any]:
    """Plain values for JSON: instants in ISO 8601, ``staged``, ``begun`` and ``sent`` in seconds after ``queued``."""
    return {
        "checkpoint": timeline.checkpoint,
        "world_size": timeline.world_size,
        "size": timeline.size,
        "committed": _instant(timeline.committed),
        "clocks_differ_by": round(timeline.skew, 3),
        "problem": timeline.problem,
        "ranks": [_line_dict(line) for line in timeline.ranks],
    }


def _line_dict(line: RankLine) -> dict[str, Any]:
    course = line.course
    return {
        "rank": line.rank,
        "size": line.bytes,
        "place": line.place,
        "detour": line.detour,
        "queued": None if course is None else _instant(course.queued),
        "staged": None if course is None else course.staged,
        "begun": None if course is None else course.begun,
        "sent": None if course is None else course.sent,
    }


def _instant(seconds: float | None) -> str | None:
    return None if seconds is None else datetime.fromtimestamp(seconds, timezone.utc).isoformat(timespec="milliseconds")


def show(timelines: Sequence[Timeline]) -> None:
    """Draw them, all on one scale."""
    from rich.text import Text

    from ray_anystorage.cli.text import console, prose

    out = console()
    width = max(_NARROWEST, min(_WIDEST, out.width - _BESIDE))
    longest = max((sum(_seconds(one, line)) + _late(one, line) for one in timelines for line in one.ranks), default=0.0)
    if not longest:
        out.print("Nothing is known of when its checkpoints were saved.")
        return
    out.print(_table(timelines, width, longest))
    legend = Text()
    for phase, character, style in _PHASES:
        legend.append(f"{character * 2} {phase}  ", style=style)
    out.print(legend)
    out.print(prose(f"While a part is staged, training stands still. {_CLOCKS}", style="dim"))
    if (skew := max(one.skew for one in timelines)) > 0:
        out.print(
            prose(f"Some do by at least {_short(skew)}: a commit seems to precede what it commits.", style="yellow")
        )


def _table(timelines: Sequence[Timeline], width: int, longest: float) -> Table:
    from rich.table import Table
    from rich.text import Text

    from ray_anystorage.units import format_size

    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column("Checkpoint", overflow="fold")
    table.add_column("Size", justify="right", no_wrap=True)
    table.add_column("Place", no_wrap=True)
    table.add_column(f"0 … {_short(longest)}", no_wrap=True)
    for phase, _, style in _PHASES:
        table.add_column(phase, justify="right", style=style, no_wrap=True)
    for one in timelines:
        table.add_row(one.checkpoint, format_size(one.size) if one.ranks else "", "", _when(one), style="bold")
        for line in one.ranks:
            place = Text(line.place) if line.detour is None else Text(f"{line.place} !", style="yellow")
            figures = [_short(seconds) for seconds in _seconds(one, line)] if line.course else ["-"] * len(_PHASES)
            bar = _bar(_late(one, line), _seconds(one, line), width / longest)
            table.add_row(f"  rank {line.rank}", format_size(line.bytes), place, bar, *figures)
            if line.detour is not None:
                table.add_row("", "", "", Text(f"! {line.detour}", style="yellow", overflow="ellipsis"))
    return table


def _when(one: Timeline) -> str:
    if one.problem is not None:
        return one.problem
    return "saved without times" if one.start is None else f"{(_instant(one.start) or '')[:-10].replace('T', ' ')} UTC"


def _late(one: Timeline, line: RankLine) -> float:
    """Seconds after the first rank."""
    return 0.0 if one.start is None or line.course is None else line.course.queued - one.start


def _seconds(one: Timeline, line: RankLine) -> tuple[float, ...]:
    """Of each phase."""
    course = line.course
    if course is None or line.sent is None:
        return ()
    commit = 0.0 if one.end is None else one.end - line.sent
    return (course.staged, max(0.0, course.begun - course.staged), course.sent - course.begun, commit)


def _bar(late: float, phases: Sequence[float], scale: float) -> Text:
    """Each phase from the column that it begins in to the one that the next begins in."""
    from rich.text import Text

    bar, done = Text(" " * round(late * scale)), late
    for seconds, (_, character, style) in zip(phases, _PHASES, strict=False):
        done += seconds
        bar.append(character * (round(done * scale) - len(bar)), style=style)
    return bar


def _short(seconds: float) -> str:
    if seconds < 0.0995:
        return f"{seconds * 1000:.0f} ms"
    return f"{seconds:.1f} s" if seconds < 99.5 else f"{seconds / 60:.1f} min"
