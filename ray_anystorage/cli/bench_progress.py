"""How a benchmark goes: a line for each step, and on a terminal what each node does right now."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping

import click
from rich.live import Live
from rich.text import Text

from ray_anystorage.bench.driver.run import Watcher
from ray_anystorage.cli.text import console

_SHOWN = 12  # nodes


@contextlib.contextmanager
def progress() -> Iterator[Watcher]:
    """Tell it on standard error, so that standard output has the report alone."""
    out = console(stderr=True)
    if not out.is_terminal:
        yield Watcher(lambda line: click.echo(line, err=True), lambda _: None)
        return
    with Live(Text(""), console=out, transient=True, refresh_per_second=4) as live:

        def tell(line: str) -> None:
            live.update(Text(f"{line} …", style="bold"))

        def look(doing: Mapping[str, str]) -> None:
            first = live.get_renderable()
            head = first.plain.splitlines()[0] if isinstance(first, Text) and first.plain else ""
            lines = [f"  {node}: {what}" for node, what in sorted(doing.items())][:_SHOWN]
            more = [f"  and {len(doing) - _SHOWN} more"] if len(doing) > _SHOWN else []
            live.update(Text("\n".join((head, *lines, *more)), overflow="ellipsis"))

        yield Watcher(tell, look)
