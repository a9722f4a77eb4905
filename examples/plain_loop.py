"""A plain data-parallel loop in numpy: softmax regression on the digits, two workers, resumes from its checkpoint.

One line differs from a stock Ray script: the one with `anystorage.run_config`; the stock line stands above it.
"""

import asyncio
import tempfile
from collections import defaultdict
from pathlib import Path

import numpy as np
import ray
import ray.train
from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer
from sklearn.datasets import load_digits

import ray_anystorage as anystorage

WORKERS, EPOCHS = 2, 150


@ray.remote(num_cpus=0)
class Mean:
    """The all-reduce that a framework would bring: the mean over the workers, step by step."""

    def __init__(self, workers: int) -> None:
        self.workers, self.steps, self.changed = workers, defaultdict(dict), asyncio.Condition()

    async def of(self, step: int, rank: int, value: np.ndarray) -> np.ndarray:
        async with self.changed:
            self.steps[step][rank] = value
            self.changed.notify_all()
            await self.changed.wait_for(lambda: len(self.steps[step]) == self.workers)
        return sum(self.steps[step].values()) / self.workers


def train(config: dict) -> None:
    rank, world = ray.train.get_context().get_world_rank(), ray.train.get_context().get_world_size()
    images, labels = load_digits(return_X_y=True)
    images = np.hstack([images / 16, np.ones((len(images), 1))])
    mine = slice(rank, 1400, world)
    weights, first = np.zeros((65, 10)), 0
    if checkpoint := ray.train.get_checkpoint():
        with checkpoint.as_directory() as folder:
            saved = np.load(Path(folder, "weights.npz"))
            weights, first = saved["weights"], int(saved["epoch"]) + 1
    for epoch in range(first, EPOCHS):
        scores = images[mine] @ weights
        chances = np.exp(scores - scores.max(axis=1, keepdims=True))
        chances /= chances.sum(axis=1, keepdims=True)
        gradient = images[mine].T @ (chances - np.eye(10)[labels[mine]]) / len(chances)
        weights = weights - 2.0 * ray.get(config["mean"].of.remote(epoch, rank, gradient))
        if epoch % 50 < 49:
            continue
        accuracy = float(np.mean((images[1400:] @ weights).argmax(axis=1) == labels[1400:]))
        with tempfile.TemporaryDirectory() as folder:
            checkpoint = None
            if rank == 0:
                np.savez(Path(folder, "weights.npz"), weights=weights, epoch=epoch)
                checkpoint = ray.train.Checkpoint.from_directory(folder)
            ray.train.report({"accuracy": accuracy}, checkpoint=checkpoint)


if __name__ == "__main__":
    trainer = DataParallelTrainer(
        train,
        train_loop_config={"mean": Mean.remote(WORKERS)},
        scaling_config=ray.train.ScalingConfig(num_workers=WORKERS),
        # stock script: run_config=ray.train.RunConfig(name="digits-plain", storage_path="/mnt/cluster_storage"),
        run_config=anystorage.run_config("digits-plain", checkpoint_size="1MB"),
    )
    result = trainer.fit()
    print(f"accuracy {result.metrics['accuracy']:.3f}, checkpoint {result.checkpoint.path}")
