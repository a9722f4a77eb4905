"""Text for a person: wrapped at the terminal's width, in colour only where there is one."""

from __future__ import annotations

import sys
import textwrap
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

_WIDEST = 110  # columns; longer lines are hard to read


def console(*, stderr: bool = False) -> Console:
    """Standard output or error; 80 columns and no colour where that is no terminal."""
    from rich.console import Console  # takes a while, which what prints nothing need not wait for

    return Console(stderr=stderr, highlight=False, markup=False, emoji=False)


def working(what: str) -> AbstractContextManager[object]:
    """Tell on a terminal that something takes a while; anywhere else nothing is shown."""
    return console(stderr=True).status(f"{what} …") if sys.stderr.isatty() else nullcontext()


def prose(text: str, *, indent: str = "", style: str | None = None) -> Text:
    """Lines wrapped with a hanging indent, paths kept whole.

    Without a style the first line and the headings, which end in a colon, are bold.
    """
    from rich.text import Text

    width = min(console().width, _WIDEST)
    result = Text(no_wrap=True, overflow="ignore")
    for number, line in enumerate(text.splitlines()):
        body = line.lstrip()
        lead = indent + line[: len(line) - len(body)]
        hanging = lead + ("" if style else "  ")
        wrapped = textwrap.fill(
            body, width, initial_indent=lead, subsequent_indent=hanging, break_long_words=False, break_on_hyphens=False
        )
        heading = number == 0 or (lead == indent and body.endswith(":"))
        result.append(("\n" if number else "") + wrapped, style=style or ("bold" if heading else "default"))
    return result
