"""An experiment of many short trials, by stock Tune or this package: ``python -m benchmarks.tune_driver '{…}'``."""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import ray
from ray import tune
from ray.tune.schedulers import ASHAScheduler

import ray_anystorage as anystorage
from benchmarks import clients
from benchmarks.target import Target

_FILES, _BYTES = 4, 16 << 10


def main() -> None:
    """Run it; print the seconds of ``fit()`` and what came out."""
    order = json.loads(sys.argv[1])
    ray.init(order["ray"], log_to_driver=False, logging_level="WARNING")
    tuner = tune.Tuner(
        tune.with_resources(_trial, {"cpu": 1}),
        param_space={"reports": order["reports"], "x": tune.uniform(0, 1)},
        tune_config=tune.TuneConfig(
            num_samples=order["trials"],
            scheduler=ASHAScheduler(metric="score", mode="max", max_t=order["reports"], grace_period=1),
            reuse_actors=True,
        ),
        run_config=_run_config(order["client"], Target(**order["target"])),
    )
    start = time.perf_counter()
    results = tuner.fit()
    seconds = time.perf_counter() - start
    opened = 0
    for result in list(results)[:: max(1, len(results) // 10)]:
        with result.checkpoint.as_directory() as directory:
            opened += Path(directory, "score").read_text() == f"{result.metrics['score']}"
    print(json.dumps({"seconds": seconds, "trials": len(results), "errors": len(results.errors), "opened": opened}))


def _run_config(client: str, target: Target) -> tune.RunConfig:
    keep = tune.CheckpointConfig(num_to_keep=1)
    if client == clients.OURS:
        tier = "artifact" if target.is_bucket else "cluster"
        arguments = {"credentials": "env"} if target.is_bucket else {}
        config: tune.RunConfig = anystorage.tune_run_config(
            client, tier=tier, checkpoint_config=keep, verbose=0, **arguments
        )
        return config
    return tune.RunConfig(name=client, storage_path=target.ray_path("stock"), checkpoint_config=keep, verbose=0)


def _trial(config: dict[str, Any]) -> None:
    for number in range(1, config["reports"] + 1):
        score = number * config["x"]
        with tempfile.TemporaryDirectory() as directory:
            Path(directory, "score").write_text(f"{score}")
            for file in range(_FILES - 1):
                Path(directory, f"part-{file}").write_bytes(os.urandom(_BYTES))
            tune.report({"score": score}, checkpoint=tune.Checkpoint.from_directory(directory))


if __name__ == "__main__":
    main()
