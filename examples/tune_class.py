"""The same search by a class, whose checkpoints Tune asks for: each second round, and at the end.

One line differs from a stock script: the decorator; and `fit` is asked of it instead of a `tune.Tuner`.
"""

from pathlib import Path

import numpy as np
from ray import tune
from sklearn.datasets import load_digits

import ray_anystorage as anystorage


@anystorage.tune_experiment(
    "digits-class",
    checkpoint_size="1MB",
    checkpoint_config=tune.CheckpointConfig(checkpoint_frequency=2, checkpoint_at_end=True, num_to_keep=1),
    stop={"training_iteration": 4},
    verbose=0,
)
class Softmax(tune.Trainable):
    def setup(self, config: dict) -> None:
        images, self.labels = load_digits(return_X_y=True)
        self.images = np.hstack([images / 16, np.ones((len(images), 1))])
        self.lr, self.weights = config["lr"], np.zeros((65, 10))

    def step(self) -> dict:
        for _ in range(25):
            scores = self.images[:1400] @ self.weights
            chances = np.exp(scores - scores.max(axis=1, keepdims=True))
            chances /= chances.sum(axis=1, keepdims=True)
            gradient = self.images[:1400].T @ (chances - np.eye(10)[self.labels[:1400]]) / 1400
            self.weights = self.weights - self.lr * gradient
        right = (self.images[1400:] @ self.weights).argmax(axis=1) == self.labels[1400:]
        return {"accuracy": float(np.mean(right))}

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        np.savez(Path(checkpoint_dir, "weights.npz"), weights=self.weights)

    def load_checkpoint(self, checkpoint_dir: str) -> None:
        self.weights = np.load(Path(checkpoint_dir, "weights.npz"))["weights"]


if __name__ == "__main__":
    results = Softmax.fit({"lr": tune.grid_search([0.1, 2.0])})
    best = results.get_best_result("accuracy", "max")
    print(f"accuracy {best.metrics['accuracy']:.3f}, checkpoint {best.checkpoint.path}")
