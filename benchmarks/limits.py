"""What must not grow: memory with the checkpoint's size, and the time of a save by its hashing.

``python -m benchmarks.limits`` saves and restores files of 1 GiB each, 1, 4 and 8 of them, to and from a bucket and a
directory, all on disk, and notes the growth of anonymous resident memory. Then it saves 8 files of 256 MiB to a
directory on a local disk, in turns with and without hashing.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.table import Table

from benchmarks import clients, machine, measure
from benchmarks.shapes import GiB, Shape, checksums, write_files
from benchmarks.target import MiB, Target
from ray_anystorage.bench.noise import ratio, spread
from ray_anystorage.testing.s3_server import running_s3
from ray_anystorage.units import format_size

_RESULTS = Path(__file__).parent / "results"
_SIZES = (1, 4, 8)  # GiB
_FEW = 3
_HASHED, _ROUNDS = Shape(8, 256 * MiB), 7
_UNHASHED = "anystorage_unhashed"
_FOREIGN = ("AWS_", "RAY_", "ANYSCALE_", "S3_")


class Ground:
    """A server and directories on a disk, and the environment of clients."""

    def __init__(self, work: Path, buckets: Any) -> None:
        self.work, self._server = work, buckets
        kept = {name: value for name, value in os.environ.items() if not name.startswith(_FOREIGN)}
        self._environment = kept | self._server.env()

    @contextlib.contextmanager
    def target(self, *, bucket: bool) -> Iterator[Target]:
        """A fresh place."""
        if not bucket:
            root = self.work / "directory"
            root.mkdir()
            yield Target(root=str(root))
            shutil.rmtree(root)
            return
        client = self._server.client()
        client.create_bucket(Bucket="limits")
        yield Target(endpoint=self._server.endpoint, region=self._server.region, bucket="limits")
        client.delete_bucket(Bucket="limits")

    def run(self, client: str, operation: str, source: str, goal: str, target: Target) -> measure.Run:
        """One save or restore in a fresh process, after everything before it has been written out."""
        os.sync()
        return measure.run(client, operation, source, goal, target, self._environment, self.work / "worker.log")


def memory(ground: Ground, gib: int, *, bucket: bool) -> dict[str, Any]:
    """The most that anonymous memory grows while so many GiB are saved, and restored."""
    from benchmarks.clients import anystorage

    source, goal = ground.work / "source", ground.work / "goal"
    write_files(source, Shape(gib, GiB))
    anystorage.describe(source, goal)
    sums = checksums(source)
    grown: dict[str, list[int]] = {"save": [], "restore": []}
    with ground.target(bucket=bucket) as target:
        for _ in range(_FEW if gib == 1 else 1):
            grown["save"].append(ground.run(clients.OURS, "save", str(source), "run/checkpoint", target).memory)
        shutil.rmtree(source)
        for _ in range(_FEW if gib == 1 else 1):
            goal.mkdir()
            grown["restore"].append(ground.run(clients.OURS, "restore", "run/checkpoint", str(goal), target).memory)
            if checksums(goal) != sums:
                raise ValueError("the restored files differ")
            shutil.rmtree(goal)
    return {
        "place": "bucket" if bucket else "directory",
        "gib": gib,
        **{name: max(all_) for name, all_ in grown.items()},
    }


def hashing(ground: Ground, rounds: int) -> dict[str, Any]:
    """How much longer a save to a directory takes for being hashed; both are synced."""
    source = ground.work / "source"
    write_files(source, _HASHED)
    took: dict[str, list[measure.Run]] = {clients.OURS: [], _UNHASHED: []}
    for number in range(rounds + 1):
        for name in sorted(took, reverse=bool(number % 2)):
            with ground.target(bucket=False) as target:
                run = ground.run(name, "save", str(source), "run/checkpoint", target)
            if number:  # the first one warms
                took[name].append(run)
    shutil.rmtree(source)
    seconds = {name: [run.seconds for run in runs] for name, runs in took.items()}
    return {
        "shape": str(_HASHED),
        "seconds": {name: asdict(spread(values)) for name, values in seconds.items()},
        "cpu": {name: asdict(spread([run.cpu for run in runs])) for name, runs in took.items()},
        "longer": asdict(ratio(seconds[clients.OURS], seconds[_UNHASHED])),
    }


@click.command(help=__doc__)
@click.option("--sizes", default=",".join(map(str, _SIZES)), show_default=True, help="GiB.")
@click.option("--rounds", default=_ROUNDS, show_default=True, help="Pairs of saves with and without hashing.")
@click.option("--results", type=click.Path(file_okay=False, path_type=Path), default=_RESULTS, show_default=True)
def main(sizes: str, rounds: int, results: Path) -> None:
    console = Console()
    report: dict[str, Any] = {"started": time.strftime("%Y-%m-%dT%H:%M:%S%z"), "machine": machine.describe(None)}
    with (
        tempfile.TemporaryDirectory(prefix="anystorage-limits-", dir="/var/tmp") as work,
        running_s3(Path(work, "s3")) as server,
    ):
        ground = Ground(Path(work), server)
        report["hashing"] = hashing(ground, rounds)
        console.print(report["hashing"])
        report["memory"] = [
            memory(ground, int(gib), bucket=bucket) for bucket in (True, False) for gib in sizes.split(",")
        ]
    console.print(_table(report["memory"]))
    path = results / f"{time.strftime('%Y-%m-%d-%H%M%S')}-limits.json"
    results.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(report, indent=1))
    console.print(f"figures: {path}")


def _table(measured: list[dict[str, Any]]) -> Table:
    table = Table("place", "GiB", "save", "restore", title="growth of anonymous resident memory")
    for one in measured:
        table.add_row(one["place"], str(one["gib"]), format_size(one["save"]), format_size(one["restore"]))
    return table


if __name__ == "__main__":
    main()
