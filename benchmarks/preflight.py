"""What the preflight adds to the start of a run: ``python -m benchmarks.preflight``.

Runs with and without it take turns on a Ray cluster of several nodes, which are processes on this machine, with one and
with four workers on each node. A run's start is from ``fit()`` until user code begins on its last rank; the preflight's
own cost is what its hook takes in the controller. The run home is a directory, or a folder of a bucket.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import random
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click
import ray
import ray.train
from ray.cluster_utils import Cluster
from ray.train import ScalingConfig
from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer
from rich.console import Console

import ray_anystorage as anystorage
from benchmarks import machine
from ray_anystorage.bench.noise import spread
from ray_anystorage.testing.s3_server import running_s3
from ray_anystorage.train.preflight import Preflight

_RESULTS = Path(__file__).parent / "results"
_PER_NODE = (1, 4)
_PLACES = ("directory", "bucket")
_numbers = itertools.count()


class Timed(Preflight):
    """The preflight, which leaves the seconds that it took in a file."""

    def __init__(self, answers: str) -> None:
        self._answers = answers

    def before_init_train_context(self, workers: list[Any]) -> dict[str, list[Any]]:
        """Check, and write down how long that took."""
        start = time.perf_counter()
        arguments = super().before_init_train_context(workers)
        Path(self._answers, "preflight").write_text(str(time.perf_counter() - start))
        return arguments


def run(place: str, nodes: int, per_node: int, preflight: bool, answers: Path) -> dict[str, float]:
    """Seconds until user code began on the last rank, and of the preflight where there was one."""
    config: Any = anystorage.run_config(
        f"preflight-{next(_numbers)}", tier="artifact" if place == "bucket" else "cluster", preflight=preflight
    )
    config.callbacks = [Timed(str(answers)) if isinstance(one, Preflight) else one for one in config.callbacks]
    trainer = DataParallelTrainer(
        _train,
        train_loop_config={"answers": str(answers)},
        scaling_config=ScalingConfig(
            num_workers=nodes * per_node, resources_per_worker={"CPU": max(_PER_NODE) / per_node}
        ),
        run_config=config,
    )
    start = time.time()
    trainer.fit()
    began = {path.name: float(path.read_text()) for path in answers.iterdir()}
    cost = {"preflight": began.pop("preflight")} if preflight else {}
    if len(began) != nodes * per_node:
        raise RuntimeError(f"{len(began)} of {nodes * per_node} ranks began")
    return {"start": max(began.values()) - start, **cost}


def _train(config: dict[str, Any]) -> None:
    Path(config["answers"], f"rank-{ray.train.get_context().get_world_rank()}").write_text(str(time.time()))


def measure(place: str, nodes: int, per_node: int, rounds: int) -> dict[str, Any]:
    """Medians over the rounds, each of which has one run of either kind in random order."""
    taken: defaultdict[str, list[float]] = defaultdict(list)
    for number in range(rounds + 1):
        for preflight in random.sample((True, False), 2):
            with tempfile.TemporaryDirectory() as answers:
                seconds = run(place, nodes, per_node, preflight, Path(answers))
            if number:  # the first of each warms up what Ray keeps between runs
                taken["start with" if preflight else "start without"].append(seconds["start"])
                if preflight:
                    taken["preflight"].append(seconds["preflight"])
    pairs = zip(taken["start with"], taken["start without"], strict=True)
    taken["added"] = [with_it - without for with_it, without in pairs]
    seconds_of = {name: asdict(spread(values)) for name, values in taken.items()}
    return {"place": place, "nodes": nodes, "workers_per_node": per_node, "seconds": seconds_of, "runs": dict(taken)}


@contextlib.contextmanager
def _stage(nodes: int) -> Iterator[None]:
    """Storage and a cluster, both gone at the end."""
    with (
        tempfile.TemporaryDirectory(dir="/dev/shm") as home,
        tempfile.TemporaryDirectory(dir="/var/tmp") as local,
        tempfile.TemporaryDirectory(dir="/dev/shm") as data,
        running_s3(Path(data)) as server,
    ):
        server.client().create_bucket(Bucket="preflight")
        os.environ |= {"RAY_ANYSTORAGE_CLUSTER_STORAGE": home, "RAY_ANYSTORAGE_LOCAL_STORAGE": local} | server.env()
        os.environ |= {"RAY_ANYSTORAGE_ARTIFACT_STORAGE": "s3://preflight/ours", "RAY_ANYSTORAGE_CREDENTIALS": "env"}
        os.environ |= {"RAY_ANYSTORAGE_ENDPOINT": server.endpoint, "RAY_ANYSTORAGE_REGION": server.region}
        os.environ |= {"PYTHONPATH": str(Path(__file__).parents[1]), "RAY_USAGE_STATS_ENABLED": "0"}
        cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": max(_PER_NODE), "include_dashboard": False})
        try:
            for _ in range(nodes - 1):
                cluster.add_node(num_cpus=max(_PER_NODE))
            ray.init(cluster.address, log_to_driver=False, logging_level="WARNING")
            yield
        finally:
            ray.shutdown()
            cluster.shutdown()


@click.command(help=__doc__)
@click.option("--nodes", default=4, show_default=True, help="Of the cluster.")
@click.option("--rounds", default=3, show_default=True, help="After the first.")
@click.option("--places", default=",".join(_PLACES), show_default=True, help="Where the run home is.")
@click.option("--results", type=click.Path(file_okay=False, path_type=Path), default=_RESULTS, show_default=True)
def main(nodes: int, rounds: int, places: str, results: Path) -> None:
    console = Console()
    report: dict[str, Any] = {"started": time.strftime("%Y-%m-%dT%H:%M:%S%z"), "machine": machine.describe(None)}
    report["preflight"] = []
    path = results / f"{time.strftime('%Y-%m-%d-%H%M%S')}-preflight.json"
    results.mkdir(parents=True, exist_ok=True)
    with _stage(nodes):
        for place, per_node in itertools.product(places.split(","), _PER_NODE):
            measured = measure(place, nodes, per_node, rounds)
            report["preflight"].append(measured)
            path.write_text(json.dumps(report, indent=1))
            console.print(
                f"{place}, {nodes} nodes with {per_node} workers each: "
                + ", ".join(
                    f"{name} {value['median']:.2f} s ({value['least']:.2f} to {value['most']:.2f})"
                    for name, value in measured["seconds"].items()
                )
            )
    console.print(f"figures: {path}")


if __name__ == "__main__":
    main()
