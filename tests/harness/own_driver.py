"""Drivers that train, and tune, in a bucket folder given as an argument; their keys travel in ``runtime_env``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tests.harness.ray_cluster import RayCluster

LARGE = 9 << 20  # bytes of a checkpoint's larger file: more than goes by one request

# Arguments: the folder, how far to go, and a path for s3fs to look below, in a worker.
TRAINER = f"""
import json, os, pathlib, sys, tempfile
import ray.train
from ray.train import Checkpoint, CheckpointConfig, ScalingConfig
from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer
import ray_anystorage as anystorage

def train(config):
    checkpoint, start = ray.train.get_checkpoint(), 0
    if checkpoint:
        with checkpoint.as_directory() as directory:
            start = json.loads(pathlib.Path(directory, "n.json").read_text())
    for n in range(start + 1, config["until"] + 1):
        with tempfile.TemporaryDirectory() as directory:
            pathlib.Path(directory, "n.json").write_text(json.dumps(n))
            pathlib.Path(directory, "large.bin").write_bytes(bytes([n]) * {LARGE})
            ray.train.report({{"n": n, "from": start}}, checkpoint=Checkpoint.from_directory(directory))
    if config["look"]:
        import s3fs
        return len(s3fs.S3FileSystem().find(config["look"]))

folder, until, look = sys.argv[1:]
config = anystorage.run_config(
    "mine", artifact_storage=folder, tier="artifact", credentials="env",
    checkpoint_config=CheckpointConfig(num_to_keep=1),
)
result = DataParallelTrainer(
    train, train_loop_config={{"until": int(until), "look": look}},
    scaling_config=ScalingConfig(num_workers=1), run_config=config,
).fit()
again = anystorage.results("mine", artifact_storage=folder).checkpoint
with again.as_directory() as directory:
    n = json.loads(pathlib.Path(directory, "n.json").read_text())
    size = pathlib.Path(directory, "large.bin").stat().st_size
print("RESULT", json.dumps([n, result.metrics["from"], size, result.return_value]))
"""

# Argument: the folder.
TUNER = """
import json, pathlib, sys, tempfile
import ray
from ray import tune
import ray_anystorage as anystorage

def trial(config):
    with tempfile.TemporaryDirectory() as directory:
        pathlib.Path(directory, "n.json").write_text(json.dumps(config["x"]))
        tune.report({"score": config["x"]}, checkpoint=tune.Checkpoint.from_directory(directory))

ray.init(log_to_driver=False)
config = anystorage.tune_run_config(
    "tuned", artifact_storage=sys.argv[1], tier="artifact", credentials="env", verbose=0
)
tuner = tune.Tuner(trial, param_space={"x": tune.grid_search([1])}, run_config=config)
best = tuner.fit().get_best_result("score", "max")
with best.checkpoint.as_directory() as directory:
    print("RESULT", json.dumps([json.loads(pathlib.Path(directory, "n.json").read_text())]))
"""


def run_driver(cluster: RayCluster, script: str | Path, env: dict[str, str], *arguments: str) -> tuple[Any, str]:
    """Run a driver in a process of its own; gives what it printed as its result, and all its output."""
    process = cluster.run_driver(script, *arguments, env=env)
    output = process.stdout + process.stderr
    assert process.returncode == 0, output[-6000:]
    said = json.loads(next(line[7:] for line in process.stdout.splitlines() if line.startswith("RESULT ")))
    return said, output
