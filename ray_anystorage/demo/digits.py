"""A real classifier, as small as can be: softmax regression on scikit-learn's handwritten digits, in numpy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

CLASSES = 10
_TEST = 360  # of the 1797 images, a fifth is held out
_RATE = 1.0


@dataclass(frozen=True, slots=True)
class Digits:
    """Images as rows of pixels between 0 and 1 with a constant 1 at the end, and the digit that each shows."""

    images: Array
    labels: NDArray[np.int64]

    def shard(self, rank: int, world: int) -> Digits:
        """The part of one of ``world`` workers; all parts are of one size, so that the mean of means is the mean."""
        mine = slice(rank, len(self.images) // world * world, world)
        return Digits(self.images[mine], self.labels[mine])


def load_digits() -> tuple[Digits, Digits]:
    """The images to train on and those to test with, always the same."""
    from sklearn.datasets import load_digits as load

    data: Any = load()
    order = np.random.default_rng(0).permutation(len(data.target))
    images = np.hstack([data.data / 16, np.ones((len(order), 1))])[order]
    labels = data.target[order]
    return Digits(images[_TEST:], labels[_TEST:]), Digits(images[:_TEST], labels[:_TEST])


def untrained(digits: Digits) -> Array:
    """The weights to begin with."""
    return np.zeros((digits.images.shape[1], CLASSES))


def gradient(weights: Array, digits: Digits) -> Array:
    """Of the mean cross-entropy of the images."""
    scores = digits.images @ weights
    chances = np.exp(scores - scores.max(axis=1, keepdims=True))
    chances /= chances.sum(axis=1, keepdims=True)
    result: Array = digits.images.T @ (chances - np.eye(CLASSES)[digits.labels]) / len(chances)
    return result


def step(weights: Array, mean_gradient: Array) -> Array:
    """The weights after one step of gradient descent."""
    return weights - _RATE * mean_gradient


def accuracy(weights: Array, digits: Digits) -> float:
    """The share of images whose digit is told right."""
    return float(np.mean((digits.images @ weights).argmax(axis=1) == digits.labels))
