"""What runs in the workers of the demo: data-parallel gradient descent, and one worker that is killed."""

from __future__ import annotations

import asyncio
import os
import signal
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import ray
import ray.train

from ray_anystorage.demo.digits import Array, accuracy, gradient, step, untrained

EPOCHS = 8
STEPS = 10  # per epoch
WEIGHTS = "weights.npz"
_VICTIM = 1  # the rank that is killed, once
_LAST_EPOCH = 4  # the one in which it is killed
_ROUND = tuple[int, int, int]


class Mean:
    """As an actor, the all-reduce that a framework would bring: the mean of what all workers gave in a round."""

    def __init__(self, workers: int) -> None:
        self._workers = workers
        self._given: dict[_ROUND, list[Array]] = {}
        self._changed = asyncio.Condition()

    async def of(self, number: _ROUND, value: Array) -> Array:
        """Wait for all workers of this round."""
        async with self._changed:
            given = self._given.setdefault(number, [])
            given.append(value)
            self._changed.notify_all()
            await self._changed.wait_for(lambda: len(given) == self._workers)
        mean: Array = np.mean(given, axis=0)
        return mean


def train(config: dict[str, Any]) -> None:
    """Train from the last checkpoint on, saving one per epoch.

    ``config`` holds ``data`` and ``test`` (digits), ``mean`` (the all-reduce) and ``marker`` (a path that is made when
    the worker is killed, so that it is killed only once).
    """
    context = ray.train.get_context()
    rank, world = context.get_world_rank(), context.get_world_size()
    shard, attempt = config["data"].shard(rank, world), 1 + os.path.exists(config["marker"])
    weights, done = _resume() or (untrained(shard), 0)
    metrics: dict[str, Any] = {"attempt": attempt, "resumed_from": done}
    for epoch in range(done + 1, EPOCHS + 1):
        for number in range(STEPS):
            if (rank, epoch, number, attempt) == (_VICTIM, _LAST_EPOCH, STEPS // 2, 1):
                _die(config["marker"], epoch)
            mean = config["mean"].of.remote((attempt, epoch, number), gradient(weights, shard))
            weights = step(weights, ray.get(mean))
        metrics |= {"epoch": epoch, "accuracy": accuracy(weights, config["test"])}
        _report(metrics, weights if rank == 0 else None)


def load(checkpoint: ray.train.Checkpoint) -> tuple[Array, int]:
    """The weights of a checkpoint and the epoch after which they were saved."""
    with checkpoint.as_directory() as directory, np.load(Path(directory, WEIGHTS)) as saved:
        return saved["weights"], int(saved["epoch"])


def _resume() -> tuple[Array, int] | None:
    checkpoint = ray.train.get_checkpoint()
    return load(checkpoint) if checkpoint else None


def _report(metrics: dict[str, Any], weights: Array | None) -> None:
    if weights is None:
        ray.train.report(metrics)
        return
    with tempfile.TemporaryDirectory() as directory:
        np.savez(Path(directory, WEIGHTS), weights=weights, epoch=metrics["epoch"])
        ray.train.report(metrics, checkpoint=ray.train.Checkpoint.from_directory(directory))


def _die(marker: str, epoch: int) -> None:
    """Be killed as by the kernel, once the controller has recorded every checkpoint so far."""
    ray.train.get_all_reported_checkpoints()
    Path(marker).write_text(f"{os.getpid()} {epoch}")
    os.kill(os.getpid(), signal.SIGKILL)
