"""Whether `ray-anystorage bench simulate` is right: ``python -m benchmarks.forecast``.

Some processes, each a node with so many requests at once, save and restore a checkpoint together at the far store,
whose round trip and rate per connection are known; what the server takes and gives at most is measured by the plain
client. The model is told these, and each time that it says is compared with the one that was measured.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import click
from rich.console import Console

from benchmarks import clients, machine
from benchmarks.clients import plain
from benchmarks.clients.anystorage import bucket_store
from benchmarks.shapes import FAR, LOOPBACK, KiB, Shape, write_files
from benchmarks.stage import Stage, staged
from benchmarks.target import MiB, Target
from ray_anystorage.bench.model import Job, Site, Transfer, restore, save
from ray_anystorage.bench.noise import spread
from ray_anystorage.checkpoint.contents import StoredFile
from ray_anystorage.checkpoint.read import commit, read_contents
from ray_anystorage.checkpoint.save import Part, begin, write_manifest
from ray_anystorage.checkpoint.tree import scan
from ray_anystorage.transfer import engine
from ray_anystorage.transfer.budget import Budget
from ray_anystorage.transfer.files import Incoming, Outgoing
from ray_anystorage.transfer.store import Store

_RESULTS = Path(__file__).parent / "results"
_CHECKPOINT = "checkpoint"
_SERVER_CONNECTIONS = 8
WITHIN = 0.2  # share by which the model may be off


@dataclass(frozen=True, slots=True)
class Scene:
    """Nodes, the requests that each has under way, and each one's share of a checkpoint."""

    nodes: int
    requests: int
    shape: Shape

    def __str__(self) -> str:
        return f"{self.nodes} x ({self.shape}) over {self.requests} connections each"


SCENES = (
    Scene(1, 4, Shape(1, 128 * MiB)),
    Scene(1, 4, Shape(128, 256 * KiB)),
    Scene(1, 4, Shape(1000, 4 * KiB)),
    Scene(2, 2, Shape(4, 32 * MiB)),
    Scene(4, 4, Shape(4, 32 * MiB)),
)


def node() -> None:
    """One node: reads its order, then a line for each thing to do, and answers when it is done."""
    order = json.loads(sys.stdin.readline())
    store, rank = bucket_store(Target(**order["target"])), order["rank"]
    tree = scan(order["source"])
    print(flush=True)
    for number, line in enumerate(sys.stdin):
        budget = Budget(requests=order["requests"], first_requests=order["requests"])
        if line.strip() == "save":
            name = f"{_CHECKPOINT}_{number}"
            part = Part(name, "a1", rank, order["nodes"], number)
            begin(store, part, allowed=lambda: store.write_small(f"asked-{rank}", b""))
            files = [Outgoing(file.source, f"{name}/{file.path}", file.size) for file in tree.files]
            write_manifest(store, tree, part, engine.upload(store, files, budget=budget), location=None, seconds=0.0)
        else:
            name = f"{_CHECKPOINT}_{number - 1}"  # that was saved before
            own = [file for file in read_contents(store, name).files if file.path.startswith(f"rank-{rank}/")]
            goal = Path(order["source"]).with_name(f"restored-{rank}-{number}")
            engine.download(store, [_incoming(name, file, goal) for file in own], budget=budget)
            shutil.rmtree(goal)
        print(flush=True)


def _incoming(name: str, file: StoredFile, goal: Path) -> Incoming:
    return Incoming(f"{name}/{file.path}", str(goal / file.path), file.size, file.digest, file.chunks)


class Nodes:
    """Processes that do the same at the same time."""

    def __init__(self, stage: Stage, scene: Scene, target: Target, work: Path) -> None:
        self._store = bucket_store(target)
        self._processes: list[subprocess.Popen[str]] = []
        try:
            self._start(stage, scene, target, work)
        except BaseException:
            self.end()
            raise

    def _start(self, stage: Stage, scene: Scene, target: Target, work: Path) -> None:
        for rank in range(scene.nodes):
            source = work / str(rank)
            source.mkdir()
            write_files(source / f"rank-{rank}", scene.shape)
            order = {"target": asdict(target), "rank": rank, "nodes": scene.nodes, "requests": scene.requests}
            order["source"] = str(source)
            process = subprocess.Popen(
                [sys.executable, "-m", "benchmarks.forecast", "node"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                env=stage.node_environment(),
            )
            self._processes.append(process)
            self._say(process, json.dumps(order))
        self._await()

    def seconds(self, what: str, number: int) -> float:
        """How long all of them take together, the record of a save included."""
        start = time.perf_counter()
        for process in self._processes:
            self._say(process, what)
        self._await()
        if what == "save":
            commit(self._store, f"{_CHECKPOINT}_{number}", "a1", report=number)
        return time.perf_counter() - start

    def end(self) -> None:
        """Have them end."""
        for process in self._processes:
            process.kill()
            process.communicate()

    def _say(self, process: subprocess.Popen[str], line: str) -> None:
        print(line, file=process.stdin, flush=True)

    def _await(self) -> None:
        for process in self._processes:
            if not process.stdout.readline():
                raise RuntimeError("a node ended")


def measure(stage: Stage, scene: Scene, rounds: int) -> dict[str, Any]:
    """What the model says of a scene, and what it takes."""
    taken: dict[str, list[float]] = {"save": [], "restore": []}
    with stage.place(FAR) as target, tempfile.TemporaryDirectory(dir=stage.work) as work:
        nodes = Nodes(stage, scene, target, Path(work))
        try:
            for number in range(rounds + 1):
                for position, what in enumerate(taken):
                    seconds = nodes.seconds(what, 2 * number + position)
                    if number:  # the first opens the connections
                        taken[what].append(seconds)
            round_trip = _round_trip(bucket_store(target))
        finally:
            nodes.end()
    limits = _server_limits(stage, scene)
    said = {what: _said(what, scene, limits[what], round_trip) for what in taken}
    return {
        "scene": str(scene),
        "nodes": scene.nodes,
        "requests": scene.requests,
        "files": scene.shape.count,
        "bytes": scene.shape.total,
        "round_trip": round_trip,
        "server": limits,
        "seconds": {what: asdict(spread(values)) for what, values in taken.items()},
        "said": {what: {"seconds": made.seconds, "bound": made.bound} for what, made in said.items()},
        "off": {what: said[what].seconds / spread(values).median - 1 for what, values in taken.items()},
        "runs": taken,
    }


def _said(what: str, scene: Scene, limit: float, round_trip: float) -> Transfer:
    site = Site(
        nodes=scene.nodes,
        link=None,
        connections=scene.requests,
        connection_rate=FAR.rate,
        round_trip=round_trip,
        store_limit=limit,
        writes=None,
        reads=None,
    )
    job = Job(scene.shape.total * scene.nodes, files=scene.shape.count)
    return save(site, job) if what == "save" else restore(site, job)


def _round_trip(store: Store) -> float:
    """Seconds of a small write, over a connection that is open."""
    taken = []
    for number in range(11):
        start = time.perf_counter()
        store.write_small(f"small-{number}", b"x")
        taken.append(time.perf_counter() - start)
    return spread(taken[1:]).median


def _server_limits(stage: Stage, scene: Scene) -> dict[str, float]:
    """Bytes per second that the server takes and gives of such files, by a plain client that nothing delays."""
    source, goal = stage.work / "plain-source", stage.work / "plain-goal"
    write_files(source, scene.shape)
    plain.describe(source, goal)
    try:
        with stage.place(LOOPBACK) as target:
            target = replace(target, connections=_SERVER_CONNECTIONS)
            saved = [stage.run(clients.PLAIN, "save", str(source), "plain", target).seconds for _ in range(3)]
            goal.mkdir()
            restored = [stage.run(clients.PLAIN, "restore", "plain", str(goal), target).seconds for _ in range(3)]
    finally:
        shutil.rmtree(source)
        shutil.rmtree(goal)
    return {"save": scene.shape.total / min(saved), "restore": scene.shape.total / min(restored)}


@click.command(help=__doc__)
@click.option("--rounds", default=3, show_default=True, help="After the first.")
@click.option("--results", type=click.Path(file_okay=False, path_type=Path), default=_RESULTS, show_default=True)
def main(rounds: int, results: Path) -> None:
    """See the module."""
    console = Console(width=150)
    report: dict[str, Any] = {"started": time.strftime("%Y-%m-%dT%H:%M:%S%z"), "machine": machine.describe(None)}
    report["forecasts"] = []
    path = results / f"{time.strftime('%Y-%m-%d-%H%M%S')}-forecast.json"
    results.mkdir(parents=True, exist_ok=True)
    with staged(None) as stage:
        os.environ.update(stage.node_environment())
        for scene in SCENES:
            measured = measure(stage, scene, rounds)
            report["forecasts"].append(measured)
            path.write_text(json.dumps(report, indent=1))
            for what, off in measured["off"].items():
                took, said = measured["seconds"][what]["median"], measured["said"][what]
                words = f"{took:.2f} s, the model says {said['seconds']:.2f} s ({off:+.0%}), bound by {said['bound']}"
                console.print(f"{scene}, {what}: {words}")
    wrong = [f"{one['scene']}, {what}" for one in report["forecasts"] for what, off in one["off"].items()
             if abs(off) > WITHIN]  # fmt: skip
    console.print(f"off by more than {WITHIN:.0%}: {'; '.join(wrong) or 'none'}\nfigures: {path}")


if __name__ == "__main__":
    if sys.argv[1:] == ["node"]:
        node()
    else:
        main()
