"""A run of Ray Train that saves and restores when it is told to: ``python -m benchmarks.ray_player '{…}'``.

It fits twice under one name: the first worker saves, the second resumes and restores. The worker connects to the
referee, says who it is, and answers each line of JSON with one of its own.
"""

from __future__ import annotations

import json
import os
import resource
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ray
import ray.train
from ray.train import CheckpointConfig, RunConfig, ScalingConfig
from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer

import ray_anystorage as anystorage
from benchmarks import clients
from benchmarks.shapes import checksums
from benchmarks.target import Target


def main() -> None:
    order = json.loads(sys.argv[1])
    ray.init(order["ray"], log_to_driver=False, logging_level="WARNING")
    for phase in ("save", "restore"):
        DataParallelTrainer(
            _train,
            train_loop_config={**order, "phase": phase},
            scaling_config=ScalingConfig(num_workers=1),
            run_config=_run_config(order["client"], Target(**order["target"]), order["size"]),
        ).fit()


def _run_config(client: str, target: Target, size: int) -> RunConfig:
    keep = CheckpointConfig(num_to_keep=1)
    if client == clients.OURS:
        tier = "artifact" if target.is_bucket else "cluster"
        arguments = {"credentials": "env"} if target.is_bucket else {}
        return anystorage.run_config(client, tier=tier, checkpoint_size=size, checkpoint_config=keep, **arguments)
    return RunConfig(name=client, storage_path=target.ray_path("stock"), checkpoint_config=keep)


def _train(config: dict[str, Any]) -> None:
    checkpoint = ray.train.get_checkpoint()
    with socket.create_connection(tuple(config["referee"])) as link, link.makefile("rw") as lines:

        def say(what: dict[str, Any]) -> None:
            print(json.dumps(what), file=lines, flush=True)

        ours = config["client"] == clients.OURS
        settings = "anystorage.run_config" if ours else "ray.train.RunConfig"
        durable = ours and not Target(**config["target"]).is_bucket and config["phase"] == "save"
        say({"client": config["client"], "pid": os.getpid(), "settings": settings, "durable": durable})
        for line in lines:
            source = json.loads(line)["source"]
            if config["phase"] == "save":
                saved = ray.train.Checkpoint.from_directory(source)
                say(_timed(lambda saved=saved: ray.train.report({}, checkpoint=saved)))  # type: ignore[misc]
            else:
                say(_restored(checkpoint))


def _restored(checkpoint: Any) -> dict[str, Any]:
    opened = checkpoint.as_directory()
    directory: list[str] = []
    took = _timed(lambda: directory.append(opened.__enter__()))
    sums = {name: sum_ for name, sum_ in checksums(Path(directory[0])).items() if not _own(name)}
    opened.__exit__(None, None, None)
    return {**took, "sums": sums}


def _own(name: str) -> bool:
    return name.startswith((".", "DATA_IS_ELSEWHERE"))


def _timed(work: Callable[[], Any]) -> dict[str, Any]:
    cpu, start = _cpu(), time.perf_counter()
    work()
    return {"seconds": time.perf_counter() - start, "cpu": _cpu() - cpu}


def _cpu() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


if __name__ == "__main__":
    main()
