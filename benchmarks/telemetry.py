"""What metrics and structured logs add to the CPU time of a transfer.

``python -m benchmarks.telemetry`` sends and fetches files on a memory file system, where nothing else takes CPU time,
in a process that is connected to a Ray of its own: in turns with all that listens in a worker of a run, the log written
to a file as Ray Train writes it, and with nothing. CPU time is that of the whole process, Ray's threads included, which
export metrics in both. Beside the difference, which has the noise of the machine, it shows the share of the CPU time
that was spent in the listeners, measured around them.
"""

from __future__ import annotations

import contextlib
import logging
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import click
import ray
from ray._common.formatters import JSONFormatter
from rich.console import Console
from rich.table import Table

from benchmarks.shapes import Shape, write_files
from ray_anystorage import events
from ray_anystorage.bench.noise import ratio
from ray_anystorage.telemetry import logs, spans
from ray_anystorage.train.metrics import Metrics
from ray_anystorage.train.progress import Bars
from ray_anystorage.transfer.engine import download, upload
from ray_anystorage.transfer.files import Incoming, Outgoing
from ray_anystorage.transfer.posix_store import PosixStore

_SHAPES = (Shape(1, 512 << 20), Shape(2000, 16 << 10), Shape(1, 1 << 20))
_MEMORY = "/dev/shm"  # noqa: S108 - folders of our own are made there


@dataclass(slots=True)
class Metered:
    """A listener, and the CPU seconds that were spent in it."""

    listener: events.Listener
    seconds: float = 0.0

    def heard(self, event: events.Event) -> None:
        """Pass it on."""
        start = time.thread_time()
        self.listener(event)
        self.seconds += time.thread_time() - start


@dataclass(frozen=True, slots=True)
class Took:
    """CPU seconds of a round trip with all that listens, of those the metrics' and all listeners', and without."""

    heard: float
    metrics: float
    inside: float
    unheard: float


@contextlib.contextmanager
def filed(directory: str) -> Iterator[None]:
    """Write the log of events to a file there."""
    handler = logging.FileHandler(f"{directory}/log")
    handler.setFormatter(JSONFormatter())
    before = logs.logger.level, logs.logger.propagate
    logs.logger.addHandler(handler)
    logs.logger.setLevel(logging.DEBUG)
    logs.logger.propagate = False
    try:
        yield
    finally:
        logs.logger.removeHandler(handler)
        logs.logger.level, logs.logger.propagate = before
        handler.close()


def cpu(act: Callable[[], None]) -> float:
    """CPU seconds of this process."""
    start = time.process_time()
    act()
    return time.process_time() - start


def round_trip(work: Path, files: Sequence[Path]) -> None:
    """Send files to a directory and fetch them."""
    with tempfile.TemporaryDirectory(dir=work) as place:
        store = PosixStore(f"{place}/store")
        with events.operation("save", checkpoint="benchmark"):
            upload(store, [Outgoing(str(file), file.name, file.stat().st_size) for file in files])
        with events.operation("restore", checkpoint="benchmark"):
            download(store, [Incoming(file.name, f"{place}/back/{file.name}", file.stat().st_size) for file in files])


def played(work: Path, shape: Shape, rounds: int, listeners: Sequence[events.Listener]) -> Iterator[Took]:
    """Each with and without, the one that comes first in turns."""
    source = work / "source"
    write_files(source, shape)
    files = sorted(path for path in source.rglob("*") if path.is_file())
    round_trip(work, files)  # caches are warm then
    for number in range(rounds):
        took: dict[bool, float] = {}
        metered = [Metered(listener) for listener in listeners]
        for heard in (number % 2 == 0, number % 2 != 0):
            stops = [events.listen(one.heard) for one in metered] if heard else []
            took[heard] = cpu(lambda: round_trip(work, files))
            for stop in stops:
                stop()
        seconds = [one.seconds for one in metered]
        yield Took(took[True], seconds[0], sum(seconds), took[False])


@click.command()
@click.option("--rounds", default=9, show_default=True, help="Of each shape.")
@click.option("--work", default=_MEMORY, show_default=True, help="A directory on a memory file system.")
def main(rounds: int, work: str) -> None:
    """Show what listening costs."""
    ray.init(num_cpus=1, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
    table = Table("round trip of", "CPU s without", "with / without", "metrics", "all", box=None)
    try:
        for listener in (logs.heard, spans.heard):
            events._listeners.remove(listener)  # those that every process has: here they are in the half that listens
        listeners = [Metrics.of("cluster").heard, logs.heard, spans.heard, Bars().heard]
        for shape in _SHAPES:
            with tempfile.TemporaryDirectory(dir=work, prefix="anystorage-telemetry-") as directory, filed(directory):
                took = list(played(Path(directory), shape, rounds, listeners))
            figure = ratio([one.heard for one in took], [one.unheard for one in took])
            metrics = statistics.median(one.metrics / one.heard for one in took)
            inside = statistics.median(one.inside / one.heard for one in took)
            median = statistics.median(one.unheard for one in took)
            interval = f"{figure.mean:.3f} ({figure.low:.3f} to {figure.high:.3f})"
            table.add_row(str(shape), f"{median:.4f}", interval, f"{metrics:.2%}", f"{inside:.2%}")
    finally:
        ray.shutdown()
    Console().print(table)


if __name__ == "__main__":
    main()
