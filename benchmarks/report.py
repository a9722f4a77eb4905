"""What ``anystorage.report`` takes of the training's time: ``python -m benchmarks.report``.

In one real run the ranks report in turns: metrics alone with ``ray.train.report``, which is the barrier that Ray holds
for every report, and a directory of 8 files with ``anystorage.report``. Each waits until nothing is being saved, so
that only the call itself is measured. The files are sparse and lie on the staging device, where they are renamed.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click
import ray
import ray.train
import ray.train.collective
from ray.train import CheckpointConfig, CheckpointUploadMode, ScalingConfig
from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer
from rich.console import Console

import ray_anystorage as anystorage
from benchmarks import machine
from benchmarks.target import MiB
from ray_anystorage.bench.noise import spread
from ray_anystorage.checkpoint.staging import of_process
from ray_anystorage.units import format_size

_RESULTS = Path(__file__).parent / "results"
_FILES, _SIZES = 8, (4 * MiB, 4096 * MiB)
_ROUNDS = 20
_LOOK = 0.01  # seconds between looks at what is staged


def measure(ranks: int, size: int, rounds: int, home: Path) -> dict[str, Any]:
    """Milliseconds of both calls, by the slowest rank of each round; the first round is left out."""
    answers = home / "answers"
    answers.mkdir()
    config = {"size": size, "rounds": rounds + 1, "answers": str(answers)}
    DataParallelTrainer(
        _train,
        train_loop_config=config,
        scaling_config=ScalingConfig(num_workers=ranks),
        run_config=anystorage.run_config(
            f"report-{ranks}-{size}", tier="cluster", checkpoint_config=CheckpointConfig(num_to_keep=1)
        ),
    ).fit()
    taken = [json.loads(path.read_text()) for path in sorted(answers.iterdir())]
    shutil.rmtree(answers)
    slowest = {call: [max(each) for each in zip(*(one[call] for one in taken), strict=True)][1:] for call in taken[0]}
    medians = {call: spread([1000 * seconds for seconds in values]) for call, values in slowest.items()}
    return {
        "ranks": ranks,
        "bytes_per_rank": size,
        "milliseconds": {call: asdict(value) for call, value in medians.items()},
        "added": medians["anystorage.report"].median - medians["ray.train.report"].median,
    }


def _train(config: dict[str, Any]) -> None:
    context = ray.train.get_context()
    staging = of_process(context.get_experiment_name(), context.get_local_world_size())
    taken: dict[str, list[float]] = {"ray.train.report": [], "anystorage.report": []}
    for number in range(config["rounds"]):
        directory = tempfile.mkdtemp()
        for index in range(_FILES):
            with open(os.path.join(directory, f"rank-{context.get_world_rank()}-{index}"), "wb") as file:
                file.truncate(config["size"] // _FILES)
        ray.train.collective.barrier()
        taken["ray.train.report"].append(_seconds(lambda number=number: _barrier(number)))  # type: ignore[misc]
        ray.train.collective.barrier()
        call: Callable[[], Any] = lambda directory=directory: anystorage.report({}, directory)  # type: ignore[misc]  # noqa: E731
        taken["anystorage.report"].append(_seconds(call))
        if os.listdir(directory):
            raise RuntimeError("the directory was copied, not renamed")
        while os.listdir(staging.folder):
            time.sleep(_LOOK)
    Path(config["answers"], str(context.get_world_rank())).write_text(json.dumps(taken))


def _barrier(number: int) -> None:
    """Metrics alone; asynchronous, since a synchronous report would wait for what the saves before it left to do."""
    ray.train.report({"number": number}, checkpoint_upload_mode=CheckpointUploadMode.ASYNC)


def _seconds(call: Callable[[], Any]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


@click.command(help=__doc__)
@click.option("--rounds", default=_ROUNDS, show_default=True, help="Reports after the first.")
@click.option("--results", type=click.Path(file_okay=False, path_type=Path), default=_RESULTS, show_default=True)
def main(rounds: int, results: Path) -> None:
    console = Console()
    report: dict[str, Any] = {"started": time.strftime("%Y-%m-%dT%H:%M:%S%z"), "machine": machine.describe(None)}
    with tempfile.TemporaryDirectory(dir="/dev/shm") as home, tempfile.TemporaryDirectory(dir="/var/tmp") as local:
        os.environ |= {"RAY_ANYSTORAGE_CLUSTER_STORAGE": home, "RAY_ANYSTORAGE_LOCAL_STORAGE": local}
        os.environ["PYTHONPATH"] = str(Path(__file__).parents[1])
        ray.init(num_cpus=4, include_dashboard=False, log_to_driver=False, logging_level="WARNING")
        report["report"] = []
        for ranks, size in ((1, _SIZES[0]), (1, _SIZES[1]), (2, _SIZES[1] // 2)):
            measured = measure(ranks, size, rounds, Path(home))
            report["report"].append(measured)
            calls = measured["milliseconds"]
            console.print(
                f"{ranks} ranks, {format_size(size)} each: "
                + ", ".join(f"{call} {value['median']:.1f} ms" for call, value in calls.items())
                + f"; added {measured['added']:.1f} ms"
            )
        ray.shutdown()
    path = results / f"{time.strftime('%Y-%m-%d-%H%M%S')}-report.json"
    results.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(report, indent=1))
    console.print(f"figures: {path}")


if __name__ == "__main__":
    main()
