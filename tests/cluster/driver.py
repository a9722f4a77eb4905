"""The driver of one Train run over several hosts; the tests run it in one of them and say by JSON what it does."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import random
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import ray.train
from ray.train import Checkpoint, FailureConfig, ScalingConfig
from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer

import ray_anystorage as anystorage


def content(run: str, step: int, rank: int, size: int) -> bytes:
    """What a rank saves at a step; the test knows it as well."""
    return random.Random(f"{run} {step} {rank}").randbytes(size)


def train(config: dict[str, Any]) -> None:
    """Resume, and save some steps, each once its gate is open; every checkpoint tells what its attempt began with."""
    rank, checkpoint = ray.train.get_context().get_world_rank(), ray.train.get_checkpoint()
    begun, held = 0, {}
    if checkpoint is not None:
        with checkpoint.as_directory() as directory:
            begun = json.loads(Path(directory, "step").read_text())
            held = {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in Path(directory).glob("rank-*")}
    began_with = {"from": begun, "held": held, "host": platform.node()}
    for step in range(begun + 1, config["until"] + 1):
        while not os.path.exists(f"{config['gates']}/{step}"):
            time.sleep(0.02)
        with tempfile.TemporaryDirectory() as directory:
            Path(directory, f"rank-{rank}").write_bytes(content(config["run"], step, rank, config["size"]))
            Path(directory, f"begun-{rank}").write_text(json.dumps(began_with))
            Path(directory, "step").write_text(json.dumps(step))
            saved = Checkpoint.from_directory(directory)
            ray.train.report({"step": step}, checkpoint=saved, checkpoint_dir_name=f"{config['names']}-{step}")


def main() -> None:
    """Run it, and print where and what the last report was."""
    told = json.loads(sys.argv[1])
    config = anystorage.run_config(
        told["run"], failure_config=FailureConfig(max_failures=told["failures"]), **told["arguments"]
    )
    workers = told["scaling"].pop("num_workers")
    scaling = ScalingConfig(num_workers=tuple(workers) if isinstance(workers, list) else workers, **told["scaling"])
    trainer = DataParallelTrainer(train, train_loop_config=told, scaling_config=scaling, run_config=config)
    result = trainer.fit()
    print("RESULT", json.dumps({"path": result.path, "step": (result.metrics or {}).get("step")}))


if __name__ == "__main__":
    main()
