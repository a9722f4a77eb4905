"""A search over learning rates in numpy, with ASHA: run it again after an interruption, and it goes on.

One line differs from a stock script: the decorator; and `fit` is asked of the function instead of a `tune.Tuner`.
"""

import tempfile
from pathlib import Path

import numpy as np
from ray import tune
from ray.tune.schedulers import ASHAScheduler
from sklearn.datasets import load_digits

import ray_anystorage as anystorage

ROUNDS = 4


@anystorage.tune_experiment("digits-search", checkpoint_size="1MB", verbose=0)
def train(config: dict) -> None:
    images, labels = load_digits(return_X_y=True)
    images = np.hstack([images / 16, np.ones((len(images), 1))])
    weights, first = np.zeros((65, 10)), 0
    if checkpoint := tune.get_checkpoint():
        with checkpoint.as_directory() as folder:
            saved = np.load(Path(folder, "weights.npz"))
            weights, first = saved["weights"], int(saved["round"]) + 1
    for number in range(first, ROUNDS):
        for _ in range(25):
            scores = images[:1400] @ weights
            chances = np.exp(scores - scores.max(axis=1, keepdims=True))
            chances /= chances.sum(axis=1, keepdims=True)
            weights = weights - config["lr"] * images[:1400].T @ (chances - np.eye(10)[labels[:1400]]) / 1400
        accuracy = float(np.mean((images[1400:] @ weights).argmax(axis=1) == labels[1400:]))
        with tempfile.TemporaryDirectory() as folder:
            np.savez(Path(folder, "weights.npz"), weights=weights, round=number)
            tune.report({"accuracy": accuracy}, checkpoint=tune.Checkpoint.from_directory(folder))


if __name__ == "__main__":
    results = train.fit(
        {"lr": tune.grid_search([0.01, 0.1, 1.0, 2.0])},
        tune.TuneConfig(scheduler=ASHAScheduler(metric="accuracy", mode="max", max_t=ROUNDS, grace_period=2)),
    )
    best = results.get_best_result("accuracy", "max")
    print(f"accuracy {best.metrics['accuracy']:.3f}, checkpoint {best.checkpoint.path}")
