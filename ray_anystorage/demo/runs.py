"""The process of its own that makes the demo's runs: ``python -m ray_anystorage.demo.runs DIRECTORY``.

It says what happens as JSON, one event per line; what Ray and the S3 server have to say goes to standard error.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TextIO

import pyarrow.fs
import ray
import ray.train
from ray.train import Checkpoint, FailureConfig, ScalingConfig
from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer

from ray_anystorage.api import plan, run_config
from ray_anystorage.demo.digits import Digits, accuracy, load_digits
from ray_anystorage.demo.events import Event, Planned, Ready, RunOutcome, SavedCheckpoint, encode
from ray_anystorage.demo.training import Mean, load, train
from ray_anystorage.environment import MOUNT_TIERS
from ray_anystorage.settings import PREFIX, declare_in_process
from ray_anystorage.testing.s3_server import S3Server, start_s3

WORKERS = 2
RUNS = (("digits-small", "1MB"), ("digits-large", "12GB"))
_OBJECT_STORE = 100 * 2**20  # bytes
_BUCKET = "company"


def main() -> None:
    """Start Ray and the S3 server, make the runs, and tell."""
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    telling = _reserve_standard_output()
    directory = Path(sys.argv[1])
    with ThreadPoolExecutor(1) as pool, contextlib.ExitStack() as at_end:
        starting = pool.submit(start_s3, directory / "s3")
        at_end.callback(lambda: starting.result().stop())
        _start_ray(directory)
        for event in _events(directory, starting.result()):
            telling.write(encode(event))
            telling.flush()


def _events(directory: Path, server: S3Server) -> Iterator[Event]:
    declare_in_process(_site(directory, server))  # after Ray was started: its processes know nothing of the bucket
    yield Ready(server.endpoint)
    data, test = load_digits()
    all_reduce = ray.remote(num_cpus=0)(Mean)
    for number, (name, size) in enumerate(RUNS, start=1):
        yield Planned(number, name, size, plan(name, checkpoint_size=size).explain())
        marker = directory / f"{name}-was-killed"
        config = {"data": data, "test": test, "mean": all_reduce.remote(WORKERS), "marker": str(marker)}
        yield _run(name, size, config)


def _run(name: str, size: str, config: dict[str, Any]) -> RunOutcome:
    result = DataParallelTrainer(
        train,
        train_loop_config=config,
        scaling_config=ScalingConfig(num_workers=WORKERS),
        run_config=run_config(name, checkpoint_size=size, failure_config=FailureConfig(max_failures=1)),
    ).fit()
    process, epoch = Path(config["marker"]).read_text().split()
    saved = tuple(
        _read_back(checkpoint, metrics, config["test"]) for checkpoint, metrics in result.best_checkpoints or ()
    )
    return RunOutcome(name, saved, int(process), int(epoch), result.metrics["resumed_from"])


def _read_back(checkpoint: Checkpoint, metrics: dict[str, Any], test: Digits) -> SavedCheckpoint:
    files = checkpoint.filesystem.get_file_info(pyarrow.fs.FileSelector(checkpoint.path, recursive=True))
    on_mount = isinstance(checkpoint.filesystem, pyarrow.fs.LocalFileSystem)
    weights, epoch = load(checkpoint)
    return SavedCheckpoint(
        place=checkpoint.path if on_mount else f"s3://{checkpoint.path}",
        size=sum(file.size or 0 for file in files),
        epoch=epoch,
        accuracy=accuracy(weights, test),
        attempt=metrics["attempt"],
    )


def _site(directory: Path, server: S3Server) -> dict[str, str]:
    """Variables as a platform sets them, with the throw-away keys of the server."""
    bucket = server.make_bucket(_BUCKET)
    mounts = {f"{PREFIX}{tier.upper()}_STORAGE": str(directory / f"{tier}_storage") for tier in MOUNT_TIERS}
    for mount in mounts.values():
        os.mkdir(mount)
    return {
        **mounts,
        **server.env(),
        f"{PREFIX}ARTIFACT_STORAGE": f"s3://{bucket}/team/artifacts",
        f"{PREFIX}CREDENTIALS": "env",
    }


def _start_ray(directory: Path) -> None:
    ray.init(
        address="local",
        num_cpus=4,
        include_dashboard=False,
        log_to_driver=False,
        object_store_memory=_OBJECT_STORE,
        _temp_dir=str(directory / "ray"),
    )


def _reserve_standard_output() -> TextIO:
    """Standard output for what this process tells; everything else that writes there goes to standard error."""
    telling = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    return telling


if __name__ == "__main__":
    main()
