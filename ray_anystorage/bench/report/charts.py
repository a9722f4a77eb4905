"""Bars and timelines as SVG, for a page that has no script: pure functions.

Each drawn value carries its number in ``data-value`` and its row in ``data-row``, so that what a browser draws can be
compared with what was measured. Colours come from the page's style sheet, which has them for light and dark.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from html import escape

_WIDTH, _LEFT, _RIGHT = 820, 190, 210  # of the drawing, of its labels, of the values beside the bars
_PLOT = _WIDTH - _LEFT - _RIGHT
_ROW, _BAR = 26, 14
_HEAD = 22  # above the first row of a group


@dataclass(frozen=True, slots=True)
class Segment:
    """A part of a bar: where it begins and ends, and its class in the style sheet."""

    begin: float
    end: float
    kind: str
    title: str = ""


@dataclass(frozen=True, slots=True)
class Row:
    """A bar.

    Attributes
    ----------
    segments
        From left to right.
    shown
        The value in words, beside the bar.
    low, high
        Ends of a whisker; ``None`` for none.
    mark
        Where a line stands that the bar is to be compared with; ``None`` for none.
    """

    label: str
    segments: tuple[Segment, ...]
    shown: str
    low: float | None = None
    high: float | None = None
    mark: float | None = None

    @property
    def value(self) -> float:
        """Where it ends."""
        return max(segment.end for segment in self.segments)

    @property
    def reach(self) -> float:
        """The largest number in it."""
        return max(self.value, self.high or 0.0, self.mark or 0.0)


@dataclass(frozen=True, slots=True)
class Group:
    """Rows below a heading that share a scale."""

    heading: str
    rows: tuple[Row, ...]


def bars(groups: Sequence[Group], *, label: str, most: float | None = None, mark: str = "") -> str:
    """A chart of horizontal bars.

    Parameters
    ----------
    label
        What it shows, for who does not see it.
    most
        The number at the right end of every scale; each group has its own where ``None``.
    mark
        What the marks are, for who points at one.
    """
    body, top = [], 0
    for group in groups:
        scale = _scale(most if most is not None else max(row.reach for row in group.rows))
        body.append(f'<g data-group="{escape(group.heading, quote=True)}">')
        if group.heading:
            body.append(f'<text class="heading" x="0" y="{top + 15}">{escape(group.heading)}</text>')
            top += _HEAD
        for row in group.rows:
            body += _row(row, scale, top, mark)
            top += _ROW
        body.append("</g>")
        top += 10
    return (
        f'<svg role="img" aria-label="{escape(label, quote=True)}" viewBox="0 0 {_WIDTH} {top}" '
        f'preserveAspectRatio="xMinYMin meet">{"".join(body)}</svg>'
    )


def _scale(most: float) -> Callable[[float], float]:
    return lambda value: _LEFT + min(max(value, 0.0), most) / most * _PLOT if most > 0 else float(_LEFT)


def _row(row: Row, scale: Callable[[float], float], top: int, mark: str) -> Iterator[str]:
    middle, above = top + _ROW / 2, top + (_ROW - _BAR) / 2
    yield f'<text class="label" x="{_LEFT - 8}" y="{middle + 4}">{escape(row.label)}</text>'
    yield f'<line class="base" x1="{_LEFT}" y1="{top + 2}" x2="{_LEFT}" y2="{top + _ROW - 2}"/>'
    for segment in row.segments:
        left, right = scale(segment.begin), scale(segment.end)
        yield (
            f'<rect class="{segment.kind}" data-row="{escape(row.label, quote=True)}" data-value="{segment.end:.6g}" '
            f'x="{left:.2f}" y="{above}" width="{max(right - left, 0.5):.2f}" height="{_BAR}" rx="2">'
            f"<title>{escape(segment.title or row.shown)}</title></rect>"
        )
    if row.low is not None and row.high is not None:
        yield _whisker(scale(row.low), scale(row.high), middle)
    if row.mark is not None:
        at = scale(row.mark)
        yield (
            f'<line class="mark" data-value="{row.mark:.6g}" x1="{at:.2f}" y1="{top + 3}" x2="{at:.2f}" '
            f'y2="{top + _ROW - 3}"><title>{escape(mark)}</title></line>'
        )
    end = scale(row.reach) + 8
    yield f'<text class="value" x="{end:.2f}" y="{middle + 4}">{escape(row.shown)}</text>'


def _whisker(left: float, right: float, middle: float) -> str:
    ends = "".join(f"M{at:.2f} {middle - 4}v8" for at in (left, right))
    return f'<path class="whisker" d="{ends}M{left:.2f} {middle}H{right:.2f}"/>'
