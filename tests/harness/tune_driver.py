"""The driver of a Tune experiment, run by tests in a process of its own: ``python tune_driver.py '{…}'``."""

from __future__ import annotations

import json
import os
import random
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import ray
from ray import tune

import ray_anystorage as anystorage


def content(x: int, n: int) -> bytes:
    """What trial ``x`` saves at its ``n``-th step; the test knows it as well."""
    return random.Random(f"{x} {n}").randbytes(5000)


def checked(directory: str, x: int) -> int:
    """The step of a checkpoint, after a look at whether it is whole and of this trial."""
    n = int(Path(directory, "n").read_text())
    if Path(directory, "data").read_bytes() != content(x, n):
        raise AssertionError(f"the checkpoint of trial {x} at step {n} holds other bytes")
    return n


def save(directory: str, x: int, n: int) -> None:
    """Write a checkpoint's files."""
    Path(directory, "n").write_text(str(n))
    Path(directory, "data").write_bytes(content(x, n))


def function(config: dict[str, Any]) -> None:
    """A function trainable: some steps, each once its gate is open, each with a checkpoint."""
    begun = 0
    if (checkpoint := tune.get_checkpoint()) is not None:
        with checkpoint.as_directory() as directory:
            begun = checked(directory, config["x"])
    for n in range(begun + 1, config["steps"] + 1):
        while not os.path.exists(f"{config['gates']}/{n}"):
            time.sleep(0.02)
        with tempfile.TemporaryDirectory() as directory:
            save(directory, config["x"], n)
            # Whether it has the key: the key itself would be found in the results, which the tests search for it.
            has_key = "AWS_SECRET_ACCESS_KEY" in os.environ
            metrics = {"score": n * config["x"], "n": n, "begun": begun, "has_key": has_key}
            tune.report(metrics, checkpoint=tune.Checkpoint.from_directory(directory))


class Class(tune.Trainable):  # type: ignore[misc]
    """The same as a class, whose checkpoints are dictionaries or directories by turns."""

    def setup(self, config: dict[str, Any]) -> None:
        """Begin at nothing."""
        self.x, self.n = config["x"], 0

    def step(self) -> dict[str, Any]:
        """One step."""
        self.n += 1
        return {"score": self.n * self.x, "n": self.n, "done": self.n == self.config["steps"]}

    def save_checkpoint(self, checkpoint_dir: str) -> dict[str, Any] | None:
        """Save where it is."""
        if self.x % 2:
            return {"n": self.n}
        save(checkpoint_dir, self.x, self.n)
        return None

    def load_checkpoint(self, checkpoint: Any) -> None:
        """Go on from there."""
        self.n = checkpoint["n"] if isinstance(checkpoint, dict) else checked(checkpoint, self.x)


def experiment(told: dict[str, Any]) -> Any:
    """The decorated trainable."""
    checkpoints = tune.CheckpointConfig(**told.get("checkpoints", {}))
    failures = tune.FailureConfig(max_failures=told.get("failures", 0))
    decorate = anystorage.tune_experiment(
        told["name"], checkpoint_config=checkpoints, failure_config=failures, verbose=0, **told.get("arguments", {})
    )
    return decorate(Class if told.get("class") else function)


def main() -> None:
    """Run it, and print what each trial came to, with what its checkpoint holds."""
    told = json.loads(sys.argv[1])
    ray.init(log_to_driver=False, **({} if os.environ.get("RAY_ADDRESS") else {"num_cpus": 4}))
    space = {"x": tune.grid_search(told["xs"]), "steps": told["steps"], "gates": told.get("gates", "")}
    results = experiment(told).fit(space, resume=told.get("resume", "auto"))
    found = []
    for result in results:
        held = None
        if result.checkpoint is not None:
            with result.checkpoint.as_directory() as directory:
                held = int(Path(directory, "n").read_text()) if os.path.exists(f"{directory}/n") else -1
                if held > 0:
                    checked(directory, result.config["x"])
        found.append({"x": result.config["x"], "held": held, "path": result.path, "metrics": _plain(result.metrics)})
    print("RESULT", json.dumps({"trials": found, "errors": [str(error) for error in results.errors]}))


def _plain(metrics: dict[str, Any]) -> dict[str, Any]:
    return {name: metrics.get(name) for name in ("score", "n", "begun", "has_key")}


if __name__ == "__main__":
    main()
