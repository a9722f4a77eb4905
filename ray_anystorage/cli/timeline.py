"""``ray-anystorage runs NAME --timeline``: each checkpoint's way from the training to the store, drawn."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

from ray_anystorage.units import format_size

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
    longest = max((_late(one, line) + sum(_seconds(one, line)) for one in timelines for line in one.ranks), default=0.0)
    if not longest:
        out.print("Nothing is known of when its checkpoints were saved.")
        return
    out.print(_table([], width, longest, header=True))
    for one in timelines:
        out.print(Text(_heading(one), style="bold"), soft_wrap=True)
        if one.ranks:
            out.print(_table([one], width, longest))
        for line in (line for line in one.ranks if line.detour is not None):
            out.print(prose(f"! rank {line.rank}: {line.detour}", indent="  ", style="yellow"))
    legend = (Text(f"{character * 2} {phase}  ", style=style) for phase, character, style in _PHASES)
    out.print(Text.assemble(*legend))
    out.print(prose(f"While a part is staged, training stands still. {_CLOCKS}", style="dim"))
    if (skew := max(one.skew for one in timelines)) > 0:
        out.print(
            prose(f"Some do by at least {_short(skew)}: a commit seems to precede what it commits.", style="yellow")
        )


def _table(timelines: Sequence[Timeline], width: int, longest: float, *, header: bool = False) -> Table:
    """Columns are as wide for each checkpoint, whose name stands above them."""
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0), show_header=header)
    table.add_column("", width=8, no_wrap=True)
    table.add_column("Size", justify="right", width=9, no_wrap=True)
    table.add_column("Place", width=10, no_wrap=True)
    table.add_column(f"0 … {_short(longest)}", width=width, no_wrap=True)
    for phase, _, style in _PHASES:
        table.add_column(phase, justify="right", style=style, width=7, no_wrap=True)
    for one in timelines:
        for line in one.ranks:
            place = Text(line.place) if line.detour is None else Text(f"{line.place} !", style="yellow")
            figures = [_short(seconds) for seconds in _seconds(one, line)] or ["-"] * len(_PHASES)
            bar = _bar(_late(one, line), _seconds(one, line), width / longest)
            table.add_row(f"  rank {line.rank}", format_size(line.bytes), place, bar, *figures)
    return table


def _heading(one: Timeline) -> str:
    size = [format_size(one.size)] if one.ranks else []
    start = "saved without times" if one.start is None else f"{(_instant(one.start) or '')[:-10].replace('T', ' ')} UTC"
    return ", ".join([one.checkpoint, *size, one.problem or start])


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
