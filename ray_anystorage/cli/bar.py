"""How far a transfer is: bytes, rate and time left on a terminal, nothing anywhere else."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator


@contextlib.contextmanager
def bar(what: str, size: int, *, quiet: bool = False) -> Iterator[Callable[[int], None]]:
    """Show it on standard error; what this yields is told of bytes that were moved."""
    if quiet or not sys.stderr.isatty():  # before anything that takes a while to import
        yield lambda _: None
        return
    from rich import progress

    from ray_anystorage.cli.text import console

    columns = (
        progress.TextColumn("{task.description}"),
        progress.BarColumn(),
        progress.DownloadColumn(),
        progress.TransferSpeedColumn(),
        progress.TimeRemainingColumn(),
    )
    with progress.Progress(*columns, console=console(stderr=True), transient=True) as shown:
        task = shown.add_task(what, total=size)
        yield lambda moved: shown.update(task, advance=moved)
