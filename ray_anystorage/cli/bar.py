"""How far a transfer is: bytes, rate and time left on a terminal, nothing anywhere else."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

from ray_anystorage.cli.text import console


@contextlib.contextmanager
def bar(what: str, size: int, *, quiet: bool = False) -> Iterator[Callable[[int], None]]:
    """Show it on standard error; what this yields is told of bytes that were moved."""
    out = console(stderr=True)
    if quiet or not out.is_terminal:
        yield lambda _: None
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=out, transient=True) as shown:
        task = shown.add_task(what, total=size)
        yield lambda moved: shown.update(task, advance=moved)
